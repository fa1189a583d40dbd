"""Files that declare more than a machine has, or have no end: refused in words, at once."""

from __future__ import annotations

import io
import os
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from file_nets import export
from limits import within
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from salience import SalienceError
from salience._cli.app import app
from salience._cli.inputs import load_inputs
from salience._files.untrusted import parse_bytes
from salience.models import FileModel, load_model
from salience.models._bounded import Bounded

GB = 10**9


@pytest.fixture(autouse=True)
def little():
    with within(seconds=60, gigabytes=1.5):
        yield


def archive(file, records):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as held:
        for name, data in records.items():
            held.writestr(name, data)
    return file


def records_of(file):
    with zipfile.ZipFile(file) as held:
        return {name: held.read(name) for name in held.namelist()}


# -- pipes and devices ----------------------------------------------------------------------------

MODELS = ("net.pt2", "net.onnx", "net.keras", "net.pt", "net.h5")
INPUTS = ("x.npy", "x.npz", "x.npz:a", "x.pt", "x.png", "x.jpg")


@pytest.fixture(params=["pipe", "device", "folder"])
def other(request):
    """What has a name like a file and is none."""

    def make(path):
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        return "a folder" if request.param == "folder" else "a pipe or a device"

    return make


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_no_regular_file(tmp_path, name, other):
    kind = other(tmp_path / name)
    message = "expected a model.*folder" if kind == "a folder" else f"{name}, which is {kind}"
    with pytest.raises(SalienceError, match=message):
        load_model(str(tmp_path / name))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_that_are_no_regular_file(tmp_path, name, other):
    kind = other(tmp_path / name)
    with pytest.raises(SalienceError, match=f"{name}, which is {kind}"):
        load_model("torch.nn:Identity", tmp_path / name)


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_are_no_regular_file(tmp_path, name, other):
    kind = other(tmp_path / name.partition(":")[0])
    alone = kind == "a folder" and ":" not in name  # which may hold images
    message = "expected images" if alone else f"which is {kind}"
    with pytest.raises(SalienceError, match=message):
        load_inputs([str(tmp_path / name)])


def test_a_folder_of_images_with_a_pipe(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(SalienceError, match=r"b\.png, which is a pipe or a device"):
        load_inputs([tmp_path])


# -- inputs ---------------------------------------------------------------------------------------


def sparse(file, head, size):
    with file.open("wb") as stream:
        stream.write(head)
        stream.truncate(size)
    return file


def header(shape, dtype="<f4"):
    stream = io.BytesIO()
    held = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, held)
    return stream.getvalue()


def test_an_array_file_without_its_array(tmp_path):
    (tmp_path / "x.npy").write_bytes(header((10**10,)))
    archive(tmp_path / "x.npz", {"a.npy": header((10**10,))})
    for name in ("x.npy", "x.npz"):
        with pytest.raises(SalienceError, match=f"a numpy file; got .*{name}, broken"):
            load_inputs([tmp_path / name])


def test_an_array_larger_than_the_limit(tmp_path):
    file = sparse(tmp_path / "x.npy", header((2, 25 * GB // 10)), 20 * GB)
    message = r"at most 8 GB; got .*x.npy, which would take 20 GB .* --max-bytes 20GB on .*max_byt"
    with pytest.raises(SalienceError, match=message):
        load_inputs([file])
    for suffix in ("pt2", "onnx", "keras"):
        model = file.rename(tmp_path / f"x.{suffix}")
        with pytest.raises(SalienceError, match="would take 20 GB"):
            load_model(str(model))
        model.rename(file)
    for suffix in ("pt", "safetensors"):
        weights = file.rename(tmp_path / f"x.{suffix}")
        with pytest.raises(SalienceError, match="would take 20 GB"):
            load_model("torch.nn:Identity", weights)
        weights.rename(file)


def test_arrays_that_unpack_to_more_than_the_limit(tmp_path):
    archive(tmp_path / "x.npz", {
        "small.npy": header((2, 2)) + bytes(16), "large.npy": header((2, 10**6)) + bytes(8 * 10**6),
    })  # fmt: skip
    for path in ("x.npz", "x.npz:large"):
        with pytest.raises(SalienceError, match=r"at most 1 MB; got .*x.npz, .* 8 MB"):
            load_inputs([f"{tmp_path}/{path}"], max_bytes=10**6)
    archive(tmp_path / "no.npz", {"rubbish": bytes(8 * 10**6)})
    with pytest.raises(SalienceError, match=r"at most 1 MB; got .*no.npz, .* 8 MB"):
        load_inputs([tmp_path / "no.npz"], max_bytes=10**6)
    assert load_inputs([f"{tmp_path}/x.npz:small"], max_bytes=10**6)[0].shape == (2, 2)
    assert load_inputs([f"{tmp_path}/x.npz:large"], max_bytes=10**7)[0].shape == (2, 10**6)


@pytest.mark.parametrize("x", [
    torch.ones(1, 1).expand(2, 10**10), torch.ones(1, 1, dtype=torch.int8).expand(2, 10**9),
    np.broadcast_to(np.ones(1, "u1"), (2, 2 * 10**5)),
])  # fmt: skip
def test_few_values_that_are_many_inputs(tmp_path, x):
    if isinstance(x, torch.Tensor):
        torch.save(x, tmp_path / "x.pt")
        with pytest.raises(SalienceError, match=r"at most 8 GB; got .*x.pt, .* would take"):
            load_inputs([tmp_path / "x.pt"])
    else:  # of bytes that become ids, 8 times as large
        np.save(tmp_path / "x.npy", x)
        with pytest.raises(SalienceError, match=r"at most 1 MB; got .*x.npy, .* 3.2 MB"):
            load_inputs([tmp_path / "x.npy"], max_bytes=10**6)


def test_inputs_that_together_are_too_large(tmp_path):
    torch.save(
        {name: torch.ones(1, 1).expand(2, 10**8) for name in "abcdefghijk"}, tmp_path / "x.pt"
    )
    with pytest.raises(SalienceError, match=r"at most 8 GB; got .*x.pt, .* would take 8.8 GB"):
        load_inputs([tmp_path / "x.pt"])
    x, _ = load_inputs([f"{tmp_path}/x.pt:a"])
    assert x.shape == (2, 10**8)


def test_a_torch_file_that_unpacks_to_more_than_the_limit(tmp_path):
    torch.save({"0.weight": torch.zeros(10**6)}, tmp_path / "plain.pt")
    file = archive(tmp_path / "x.pt", records_of(tmp_path / "plain.pt"))
    assert file.stat().st_size < 10**5
    for load in (
        lambda most: load_inputs([file], max_bytes=most),
        lambda most: load_model("torch.nn:Identity", file, max_bytes=most),
    ):
        with pytest.raises(SalienceError, match=r"at most 1 MB; got .*x.pt, .* would take 4 MB"):
            load(10**6)


class Empty:
    """A tensor of any size that no record of the file holds."""

    def __reduce__(self):
        return torch.Tensor, (10**8,)


@pytest.mark.parametrize("count", [1, 30])
def test_tensors_that_a_torch_file_does_not_hold(tmp_path, count):
    torch.save([Empty() for _ in range(count)], tmp_path / "x.pt")
    with pytest.raises(SalienceError, match=r"x.pt, broken: its tensors are larger|memory"):
        load_inputs([tmp_path / "x.pt"])


# -- images ---------------------------------------------------------------------------------------


def test_an_image_of_too_many_pixels(tmp_path):
    Image.new("1", (13_000, 13_000)).save(tmp_path / "a.png")
    for size in (None, 8):
        with pytest.raises(SalienceError, match=r"at most 89,478,485 pixels; got .*169000000 pix"):
            load_inputs([tmp_path / "a.png"], size=size)


def test_images_that_together_are_too_large(tmp_path):
    for i in range(3):
        Image.new("L", (100, 100)).save(tmp_path / f"{i}.png")
    assert load_inputs([tmp_path], max_bytes=400_000)[0].shape == (3, 3, 100, 100)
    with pytest.raises(SalienceError, match=r"at most 300 KB; got 3 images like 0.png.* 360 KB"):
        load_inputs([tmp_path], max_bytes=300_000)


@pytest.mark.parametrize("form", ["EPS", "GIF", "TIFF", "PPM"])
def test_an_image_of_another_format_than_its_name(tmp_path, form):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", form)
    with pytest.raises(SalienceError, match=r"expected an image; got .*broken"):
        load_inputs([tmp_path / "a.png"])


# -- networks -------------------------------------------------------------------------------------


def onnx_file(file, nodes, **constants):
    """y = x + (what the nodes make of the constants, as z), reduced to one number."""
    pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    nodes = [helper.make_node(op, inputs, [out], **a) for op, inputs, out, a in nodes]
    nodes += [
        helper.make_node("ReduceMax", ["z"], ["top"], keepdims=0),
        helper.make_node("Add", ["x", "top"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, 1, ["batch", 3]) for n in "xy")
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", [x], [y], held)
    opsets = [helper.make_opsetid("", 17)]
    file.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    )
    return str(file)


ONE, LONG = np.ones(1, "f4"), np.ones(10**5, "f4")
LARGE = {
    "ConstantOfShape": ([("ConstantOfShape", ["n"], "z", {})], {"n": [10**10]}),
    "Range": ([("Range", ["a", "b", "c"], "z", {})],
              {"a": np.float32(0), "b": np.float32(1e10), "c": np.float32(1)}),
    "Tile": ([("Tile", ["v", "n"], "z", {})], {"v": ONE, "n": [10**10]}),
    "Expand": ([("Expand", ["v", "n"], "w", {}), ("Relu", ["w"], "z", {})],
               {"v": ONE, "n": [10**10]}),
    "Pad": ([("Pad", ["v", "n"], "z", {})], {"v": ONE, "n": [0, 10**10]}),
    "Resize": ([("Resize", ["v", "", "", "n"], "z", {"mode": "nearest",
                 "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})],
               {"v": ONE.reshape(1, 1, 1, 1), "n": [1, 1, 10**5, 10**5]}),
    "an outer sum": ([("Add", ["v", "w"], "z", {})], {"v": LONG[:, None], "w": LONG}),
    "an outer product": ([("MatMul", ["v", "w"], "z", {})], {"v": LONG[:, None], "w": LONG[None]}),
    "Gather": ([("Gather", ["v", "n"], "z", {})],
               {"v": LONG[None], "n": np.zeros(10**5, "i8")}),
    "a padded window": (
        [("MaxPool", ["v"], "z", {"kernel_shape": [1, 1], "pads": [10**5] * 4})],
        {"v": ONE.reshape(1, 1, 1, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("case", LARGE)
def test_an_onnx_network_that_makes_much_of_a_few_bytes(tmp_path, case):
    nodes, constants = LARGE[case]
    loaded = load_model(onnx_file(tmp_path / "net.onnx", nodes, **constants))
    with pytest.raises(SalienceError, match=r"at most 8 GB; got a network with .* would take \d+"):
        loaded(torch.zeros(1, 3))


EXPANDED = ("Expand", ["one", "n"], "w", {})
PIECES = {
    "GatherND": ([EXPANDED, ("GatherND", ["v", "w"], "z", {})],
                 {"v": LONG, "one": [[0]], "n": [1, 10**9]}),
    "ScatterND": ([EXPANDED, ("ScatterND", ["v", "w", "v"], "z", {})],
                  {"v": LONG, "one": [[0]], "n": [1, 10**9]}),
    "none of them": ([("ConstantOfShape", ["n"], "z", {})], {"n": [0, 10**12]}),
    "Slice": ([EXPANDED, ("Slice", ["w", "a", "b", "c", "d"], "z", {})],
              {"one": np.zeros(1, "u1"), "n": [5 * 10**9], "a": [-1], "b": [-(2**40)], "c": [0],
               "d": [-1]}),
}  # fmt: skip


@pytest.mark.parametrize("case", PIECES)
def test_an_onnx_network_of_many_pieces(tmp_path, case):
    """Views and empty tensors take no memory; what is made of each of their places does."""
    nodes, constants = PIECES[case]
    loaded = load_model(onnx_file(tmp_path / "net.onnx", nodes, **constants))
    with pytest.raises(SalienceError, match=r"at most (8 GB|1 indices, .*); got"):
        loaded(torch.zeros(1, 3))


def test_a_network_below_the_limit(tmp_path):
    nodes, constants = [("ConstantOfShape", ["n"], "z", {})], {"n": [10**6]}
    file = onnx_file(tmp_path / "net.onnx", nodes, **constants)
    assert load_model(file, max_bytes=4 * 10**6)(torch.ones(1, 3)).tolist() == [[1, 1, 1]]
    with pytest.raises(SalienceError, match=r"at most 4 MB; got a network with .* take 4 MB"):
        load_model(file, max_bytes=4 * 10**6 - 1)(torch.ones(1, 3))


class Repeated(nn.Module):
    def forward(self, x):
        return x + torch.full((10**4, 3), 1.0).repeat(100, 1).amax()


def test_an_exported_network_that_makes_much_of_a_few_bytes(tmp_path):
    x = torch.ones(2, 3)
    file = str(export(Repeated().eval(), tmp_path / "net.pt2", "fixed", x))
    torch.testing.assert_close(load_model(file)(x), Repeated()(x))
    with pytest.raises(SalienceError, match=r"at most 1 MB; got a network with repeat.* 12 MB"):
        load_model(file, max_bytes=10**6)(x)


class Counted(torch.nn.Module):
    def forward(self, x):
        return x + torch.ones(len(torch.nonzero(x)), 10**4).amax()


class Read(torch.nn.Module):
    def forward(self, x):
        return x + torch.ones(int(x.sum()), 10**4).amax()


@pytest.mark.parametrize("network", [Counted(), Read()], ids=["counted", "read"])
def test_a_size_that_values_decide_is_watched_at_every_input(network):
    model = FileModel(network.eval(), {"x": (None, 3)}, max_bytes=10**5)
    few, many = torch.eye(2, 3), torch.ones(2, 3)
    for _ in range(2):
        torch.testing.assert_close(model(few), few + 1)
    with pytest.raises(SalienceError, match=r"at most 100 KB; got a network with .* 240 KB"):
        model(many)


@pytest.mark.parametrize("call", [
    lambda x: x.unbind(0), lambda x: x.split(1),
    lambda x: torch.gru(torch.ones(1, 1, 1), x[:, None, None], [torch.ones(3, 1)] * 2, False, 1,
                        0.0, False, False, False),
], ids=["unbind", "split", "gru"])  # fmt: skip
def test_pieces_without_memory_of_their_own(call):
    with pytest.raises(SalienceError, match=r"1048576 pieces of a tensor; got .* into 500000000"):
        hidden(lambda: call(torch.ones(1).expand(5 * 10**8)), 8 * GB)


def test_as_many_as_a_value_says():
    """Which no shape tells."""
    with Bounded(10**6):
        assert len(torch.repeat_interleave(torch.tensor([1, 10**5]))) == 10**5 + 1
    with pytest.raises(SalienceError, match="at most 1 MB; got a network with repeat"):
        hidden(lambda: torch.repeat_interleave(torch.tensor([1, 10**9])), 10**6)


def test_what_no_shape_function_takes_is_not_run():
    """Torch's own check is missing where it computes: these end the process."""
    fft, one = torch.ops.aten._fft_c2c, torch.ones(1, dtype=torch.complex64)
    with Bounded(10**6), pytest.raises(IndexError):
        fft(one, [-1, 0, 2, -(2**31)], 0, True)
    with Bounded(10**6):
        assert torch.equal(fft(one, [0], 0, True), one)
        assert len(torch.nonzero(torch.ones(3))) == 3  # has none
    with torch.inference_mode(), Bounded(10**6):  # which hands on what is made of parts
        assert torch.ops.aten.to.device(one, torch.device("cpu"), torch.complex128).is_complex()


def hidden(call, most):
    """A library that runs something and keeps its errors to itself."""
    with Bounded(most), suppress(Exception):
        call()


def wrapped(call, most):
    """A library that tells errors in its own words."""
    with Bounded(most):
        try:
            call()
        except Exception as error:
            raise RuntimeError(f"in its own words: {error}") from None


@pytest.mark.parametrize("library", [hidden, wrapped])
def test_a_refusal_inside_of_a_library(library):
    with pytest.raises(SalienceError, match=r"^expected at most 1 MB"):
        library(lambda: torch.ones(10**9), 10**6)
    with pytest.raises(SalienceError, match=r"^expected at most 1 MB; got .* would take 9,223 PB"):
        library(lambda: torch.ones(1, 1).repeat(2**32, 2**32), 10**6)


# -- the command line -----------------------------------------------------------------------------


def explain(*arguments):
    result = CliRunner().invoke(app, ["explain", *map(str, arguments), "--methods", "gradient"])
    return result.exit_code, result.output.replace("\n", " ")


def test_the_limit_on_the_command_line(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3), "f4"))
    nodes, constants = LARGE["ConstantOfShape"][0], {"n": [10**6]}
    model = onnx_file(tmp_path / "net.onnx", nodes, **constants)
    given = [model, tmp_path / "x.npy", "--overwrite", "-o", tmp_path / "out"]
    code, output = explain(*given, "--max-bytes", "4MB")
    assert code == 0, output
    code, output = explain(*given, "--max-bytes", "3.9MB")
    assert code == 2
    assert output.startswith("Error: expected at most 3.9 MB; got a network with"), output
    code, output = explain(*given, "--max-bytes", "100")
    assert code == 2 and "expected at most 100 bytes; got" in output
    code, output = explain(*given, "--max-bytes", "much")
    assert code == 2 and "a size in bytes for --max-bytes; got 'much'" in output


@pytest.mark.parametrize("text", ["", "GB", "-1", "0", "1e99 EB", "nan", "1e", "1 2"])
def test_what_is_no_number_of_bytes(text):
    with pytest.raises(SalienceError, match="a size in bytes for --max-bytes"):
        parse_bytes(text)
