"""Model files are untrusted: nothing in them is run, nothing outside of them is read."""

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from file_nets import export, images, make
from torch import nn

from salience import SalienceError
from salience.models import load_model

ROOT = "net/"  # of the archive net.pt2


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (Path(self.mark),))


def pickled(mark):
    stream = io.BytesIO()
    torch.save(Harmful(mark), stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The records of a good .pt2."""
    file = export(make(), tmp_path_factory.mktemp("good") / "net.pt2", "dynamic", images())
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(file, records, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return file


def described(records, name, change):
    """The records with one JSON description changed in place."""
    held = json.loads(records[ROOT + name])
    change(held)
    return {**records, ROOT + name: json.dumps(held)}


MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def first_weight(**change):
    return lambda held: next(iter(held["config"].values())).update(change)


def constant(path):
    item = {"path_name": path, "is_param": False, "use_pickle": True, "tensor_meta": None}
    return lambda held: held["config"].update(evil=item)


def node(**change):
    return lambda held: held["graph_module"]["graph"]["nodes"][0].update(change)


def test_the_payload_is_live(tmp_path, good):
    """torch.export.load runs what these files hold: the control of the tests below."""
    mark = tmp_path / "ran"
    records = {**good, f"{ROOT}data/sample_inputs/model.pt": pickled(mark)}
    file = write(tmp_path / "net.pt2", records)
    with warnings.catch_warnings(), contextlib.suppress(TypeError):  # of its own log message
        warnings.simplefilter("ignore")
        torch.export.load(file)
    assert mark.exists()


def code(mark):
    return f"__import__('pathlib').Path({str(mark)!r}).touch()"


def test_parts_that_are_never_read(tmp_path, good):
    """Sample inputs, guards, expressions and metadata: the network needs none of them."""
    mark, x = tmp_path / "ran", images()
    records = {**good, f"{ROOT}data/sample_inputs/model.pt": pickled(mark)}
    records[f"{ROOT}data/weights/model.pt"] = pickled(mark)

    def change(held):
        held["guards_code"] = [code(mark)]
        held["range_constraints"] = {code(mark): {"min_val": 1, "max_val": 2}}
        graph = held["graph_module"]["graph"]
        graph["nodes"][0]["metadata"] = {"stack_trace": code(mark)}
        graph["nodes"][0]["name"] = f"x\n    {code(mark)}\n"
        graph["tensor_values"]["x"]["sizes"][0] = {"as_expr": {"expr_str": code(mark)}}
        graph["sym_int_values"] = {"s0": {"as_expr": {"expr_str": code(mark)}}}

    loaded = load_model(str(write(tmp_path / "net.pt2", described(records, MODEL, change))))
    torch.testing.assert_close(loaded(x), make()(x))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (WEIGHTS, first_weight(use_pickle=True, path_name="evil"), "pickled object.*refused"),
        (CONSTANTS, constant("tensor_evil"), "a pickled object for evil.*refused"),
        (CONSTANTS, constant("custom_obj_evil"), "a pickled object for evil.*refused"),
        (CONSTANTS, constant("opaque_obj_evil"), "a pickled object for evil.*refused"),
        (WEIGHTS, first_weight(path_name="../../../../etc/passwd"), "no item named"),
        (MODEL, node(target="torch.hub.load"), r"operators of torch .*torch.hub.load"),
        (MODEL, node(target="torch.serialization.os.system"), "operators of torch"),
        (MODEL, node(target="_operator.methodcaller"), "operators of torch"),
        (MODEL, node(target="torch.ops.aten.__class__.mro"), "operators of torch"),
        (MODEL, node(target="torch.ops.aten.from_file.default"), "operators of torch"),
        (MODEL, node(target="torch.ops.aten.save.default"), "operators of torch"),
        (MODEL, node(target="torch.ops.load_library"), "operators of torch"),
        (MODEL, node(target="torch.ops.aten.add.overloads"), "operators of torch"),
        (MODEL, node(target=["torch"]), "broken"),
        (MODEL, lambda held: held.update(schema_version={"major": 99}), "its schema is 99"),
        (MODEL, lambda held: held.clear(), "broken"),
        (WEIGHTS, lambda held: held["config"].clear(), "has no values"),
    ],
)
def test_parts_that_are_refused(tmp_path, good, name, change, message):
    mark = tmp_path / "ran"
    records = described(good, name, change)
    for place in ("weights/", *(f"constants/{k}_" for k in ("tensor", "custom_obj", "opaque_obj"))):
        records[f"{ROOT}data/{place}evil"] = pickled(mark)
    with pytest.raises(SalienceError, match=message):
        load_model(str(write(tmp_path / "net.pt2", records)))
    assert not mark.exists()


def test_weights_larger_than_the_file(tmp_path, good):
    def stretch(held):
        meta = next(iter(held["config"].values()))["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 10**12}], [{"as_int": 0}]

    file = write(tmp_path / "net.pt2", described(good, WEIGHTS, stretch))
    with pytest.raises(SalienceError, match="a tensor is larger than its record"):
        load_model(str(file))


def test_an_archive_larger_than_its_file_is_not_unpacked(tmp_path, good):
    bomb = {**good, f"{ROOT}data/weights/weight_0": bytes(10**7)}
    file = write(tmp_path / "net.pt2", bomb, zipfile.ZIP_DEFLATED)
    with pytest.raises(SalienceError, match="unpack to more than the file"):
        load_model(str(file))


def test_the_names_of_weights_cannot_replace_what_a_module_is_made_of(tmp_path, good):
    def rename(held):
        for spec in held["graph_module"]["signature"]["input_specs"]:
            if "parameter" in spec:
                spec["parameter"]["parameter_name"] = "forward"

    records = described(good, MODEL, rename)
    records = described(records, WEIGHTS, lambda held: held["config"].update(
        forward=next(iter(held["config"].values()))))  # fmt: skip
    with pytest.raises(SalienceError, match="attribute 'forward' already exists"):
        load_model(str(write(tmp_path / "net.pt2", records)))


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".keras"])
def test_rubbish_and_truncated_files(tmp_path, suffix, good):
    """A wrong suffix, random bytes and parts of a good file: always a message."""
    whole = write(tmp_path / "whole.zip", good).read_bytes()
    generator = random.Random(0)
    contents = [b"", b"PK\x05\x06" + bytes(18), generator.randbytes(500), whole[:-1]]
    contents += [whole[: generator.randrange(len(whole))] for _ in range(8)]
    for number, content in enumerate(contents):
        file = tmp_path / f"{number}{suffix}"
        file.write_bytes(content)
        with pytest.raises(SalienceError, match=f"{suffix}"):
            load_model(str(file))


def test_damaged_descriptions(tmp_path, good):
    """Any value of the graph's description replaced by another: loaded or refused in words."""
    generator = random.Random(1)
    for _ in range(60):

        def damage(held):
            while True:
                key = generator.choice(list(held) if isinstance(held, dict) else range(len(held)))
                below = held[key]
                if not isinstance(below, dict | list) or not below or generator.random() < 0.2:
                    held[key] = generator.choice([None, -1, 2**40, "x", [], {}, True, 1.5])
                    return
                held = below

        file = write(tmp_path / "net.pt2", described(good, MODEL, damage))
        with contextlib.suppress(SalienceError):
            load_model(str(file))


def test_nothing_is_imported_before_it_is_needed():
    lines = (
        "import sys, salience, salience._cli.app, salience.models, salience._cli.inputs\n"
        "names = 'onnx keras timm torchvision transformers h5py google.protobuf'.split()\n"
        "assert not [n for n in names if n in sys.modules], sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", lines], check=True, env={**os.environ})


@pytest.mark.parametrize(
    ("package", "spec", "cure"),
    [
        ("onnx", "{}/net.onnx", r"salience\[onnx\]"),
        ("h5py", "{}/net.keras", r"salience\[keras\]"),
        ("timm", "timm:resnet18", r"salience\[timm\]"),
        ("torchvision", "torchvision:resnet18", "pip install torchvision"),
    ],
)
def test_a_library_that_is_missing(tmp_path, monkeypatch, package, spec, cure):
    for name in ("net.onnx", "net.keras"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SalienceError, match=f"expected {package}.*not installed. Run: .*{cure}"):
        load_model(spec.format(tmp_path))


# -- folders of Hugging Face, without transformers ------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "without config.json"),
        ({"config.json": "{"}, "broken"),
        ({"config.json": "[]"}, "broken: no fields"),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "pytorch_model.bin; pickles.*refused"),
        ({"config.json": "{}"}, "got no weights"),
        ({"config.json": '{"auto_map": {"AutoModel": "evil.Evil"}}', "evil.py": "1/0"},
         "brings its own code"),
        ({"config.json": "{}", "m.safetensors": "", "model.safetensors.index.json":
          '{"weight_map": {"w": "../secret"}}'}, "with paths to elsewhere"),
    ],
)  # fmt: skip
def test_folders_that_are_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SalienceError, match=message):
        load_model(str(tmp_path))


def test_an_architecture_by_a_path_or_another_name(tmp_path):
    for spec, message in (
        ("torchvison:resnet18", "Did you mean torchvision:resnet18?"),
        ("tim:resnet18", "Did you mean timm:resnet18?"),
        ("torchvision:", "expected a model 'file.py:factory'"),
    ):
        with pytest.raises(SalienceError, match=message):
            load_model(spec)
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)
