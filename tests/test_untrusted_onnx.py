"""ONNX files are untrusted: weights come from the model's folder alone, operators from ONNX."""

import numpy as np
import pytest
import torch

from salience import SalienceError
from salience.models import load_model

pytest.importorskip("onnx")


def onnx_file(file, external=None, **change):
    """relu(x W + b), with W in a file of its own if told where."""
    import onnx
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "weight")
    if external is not None:
        data = weight.raw_data
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        told = {"location": external, "length": str(len(data)), **change.pop("told", {})}
        for key, value in told.items():
            weight.external_data.add(key=key, value=value)
        (file.parent / "good.data").write_bytes(data)
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["z"]),
        helper.make_node(change.pop("op", "Relu"), ["z"], ["y"], **change),
    ]
    x, y = (helper.make_tensor_value_info(n, 1, ["batch", 3]) for n in "xy")
    graph = helper.make_graph(nodes, "net", [x], [y], [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil.ops", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file


def test_external_data_beside_the_model(tmp_path):
    loaded = load_model(str(onnx_file(tmp_path / "net.onnx", "good.data")))
    assert torch.equal(loaded(torch.tensor([[1.0, -2, 3]])), torch.tensor([[1.0, 0, 3]]))


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "", ".", "link", "a/../../secret"])
def test_external_data_elsewhere_is_refused(tmp_path, place):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(np.eye(3, dtype=np.float32).tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(SalienceError, match="weights inside the model's folder"):
        load_model(str(onnx_file(folder / "net.onnx", place)))


@pytest.mark.parametrize(
    "told", [{"length": "99"}, {"length": "8"}, {"offset": "20"}, {"offset": "x"}, {"offset": "-4"}]
)
def test_external_data_of_another_size_is_refused(tmp_path, told):
    with pytest.raises(SalienceError, match=r"a file of ONNX.*broken"):
        load_model(str(onnx_file(tmp_path / "net.onnx", "good.data", told=told)))


def test_external_data_that_is_not_there(tmp_path):
    with pytest.raises(SalienceError, match=r"the weights of weight.*no such file"):
        load_model(str(onnx_file(tmp_path / "net.onnx", "none.data")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "Det"}, "ONNX operators that torch has; got Det"),
        ({"op": "Relu", "domain": "evil.ops"}, r"got evil.ops.Relu"),
        ({"op": "Relu", "broken": 3}, "Unrecognized attribute: broken"),
    ],
)
def test_onnx_operators_that_are_refused(tmp_path, change, message):
    with pytest.raises(SalienceError, match=message):
        load_model(str(onnx_file(tmp_path / "net.onnx", **change)))


def test_a_truncated_onnx_file(tmp_path):
    whole = onnx_file(tmp_path / "net.onnx").read_bytes()
    for length in range(1, len(whole), 7):
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        with pytest.raises(SalienceError, match=r"cut.onnx|one input|opset"):
            load_model(str(tmp_path / "cut.onnx"))
