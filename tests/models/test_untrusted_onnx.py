"""ONNX files are untrusted: weights come from the model's folder alone, operators from ONNX."""

import os

import numpy as np
import pytest
import torch
from limits import within

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


def table(file, rows):
    """x plus the first row of a table in a file of its own, which is sparse: all zeros but two."""
    import onnx
    from onnx import helper

    data, size = file.parent / "table.data", 12 * rows
    with data.open("wb") as stream:
        stream.write(np.arange(3, dtype="f4").tobytes())
        stream.truncate(size)
    held = onnx.TensorProto(name="table", data_type=1, dims=[rows, 3])
    held.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": data.name, "offset": "0", "length": str(size)}.items():
        held.external_data.add(key=key, value=value)
    index = onnx.numpy_helper.from_array(np.array(0), "index")
    nodes = [helper.make_node("Gather", ["table", "index"], ["row"]),
             helper.make_node("Add", ["x", "row"], ["y"])]  # fmt: skip
    x, y = (helper.make_tensor_value_info(n, 1, ["batch", 3]) for n in "xy")
    graph = helper.make_graph(nodes, "net", [x], [y], [held, index])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return str(file)


def test_weights_in_other_files_never_enter_the_model(tmp_path, monkeypatch):
    """protobuf cannot measure 2 GiB: what is checked is the model as it lies in its own file."""
    import onnx

    file = table(tmp_path / "net.onnx", 10**6)
    checked = []
    check = onnx.checker.check_model

    def watched(model):
        checked.append(model.ByteSize())
        check(model)

    monkeypatch.setattr(onnx.checker, "check_model", watched)
    loaded = load_model(file)
    assert len(checked) == 1 and checked[0] < 1000
    assert loaded(torch.ones(2, 3)).tolist() == [[1, 2, 3]] * 2


@pytest.mark.slow
def test_weights_of_more_than_two_gigabytes(tmp_path):
    file = table(tmp_path / "net.onnx", 2**31 // 12 + 10**6)
    with within(300, gigabytes=6):
        loaded = load_model(file)
    assert loaded(torch.ones(2, 3)).tolist() == [[1, 2, 3]] * 2
    with pytest.raises(SalienceError, match=r"at most 2 GB; got weights beside the model, .*2.16"):
        load_model(file, max_bytes=2 * 10**9)


def test_one_piece_of_a_file_that_is_many_weights(tmp_path):
    """Each tensor names the same bytes: together they are more than any file."""
    import onnx

    file = table(tmp_path / "net.onnx", 10**6)
    model = onnx.load(file, load_external_data=False)
    for number in range(999):
        again = model.graph.initializer.add()
        again.CopyFrom(model.graph.initializer[0])
        again.name = f"table{number}"
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SalienceError, match=r"at most 8 GB; got weights beside .* 12 GB"):
        load_model(file)


def test_external_data_that_is_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with within(20), pytest.raises(SalienceError, match="pipe, which is a pipe or a device"):
        load_model(str(onnx_file(tmp_path / "net.onnx", "pipe")))


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
    with pytest.raises(SalienceError, match=r"the weights of weight.*not there"):
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
