"""Files of networks with several inputs explain to the maps of the network itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_nets import export, export_onnx
from torch import Tensor, nn
from typer.testing import CliRunner

import salience
from salience import SalienceError
from salience._cli.app import app
from salience.models import image_layout, load_model

pytest.importorskip("onnx")
pytest.importorskip("h5py")
os.environ["KERAS_BACKEND"] = "torch"  # for the tests' own import of it
keras = pytest.importorskip("keras")
L = keras.layers

# Keras's own, where it turns its variables into arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
METHODS = ("gradient", "input_x_gradient", "lrp_epsilon", "lrp_alpha_beta", "guided_backprop")
RTOL = {torch.float32: 1e-6, torch.float64: 1e-9}
FORMS = {
    "dynamic": export, "decomposed": export, "fixed": export,
    "new": export_onnx, "old": export_onnx, "fixed onnx": export_onnx,
}  # fmt: skip
Given = dict[str, Tensor]


class Numbers(nn.Module):
    """An image and a row of numbers, to three scores."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.read, self.head = nn.Conv2d(2, 4, 3), nn.Linear(5, 6), nn.Linear(10, 3)

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        seen, told = torch.relu(self.look(image)), torch.relu(self.told(row))
        return self.head(torch.cat([seen.mean((2, 3)).reshape(image.shape[0], 4), told], 1))

    def told(self, row: Tensor) -> Tensor:
        return self.read(row)


class Captioned(Numbers):
    """An image and the ids of its caption, to three scores."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 5)

    def told(self, row: Tensor) -> Tensor:
        return self.read(self.words(row).mean(1))


KINDS = (Numbers, Captioned)


def network(kind: type[nn.Module], dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Given]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, image = kind().to(dtype).eval(), torch.randn(4, 2, 6, 6, dtype=dtype)
        ids = kind is Captioned
        row = torch.randint(0, 9, (4, 7)) if ids else torch.randn(4, 5, dtype=dtype)
    return net, {"image": image, "row": row}


def keras_model(net: nn.Module, form: str = "list") -> Any:
    """The same network in Keras, channels last, with its inputs in a list or a dict."""
    dtype = str(net.head.weight.dtype).removeprefix("torch.")  # type: ignore[union-attr]
    more: dict[str, Any] = {"dtype": dtype}
    ids = isinstance(net, Captioned)
    image = keras.Input((6, 6, 2), name="image", dtype=dtype)
    row = keras.Input((7 if ids else 5,), name="row", dtype="int32" if ids else dtype)
    look = L.Conv2D(4, 3, activation="relu", name="look", **more)(image)
    told = L.Embedding(9, 5, name="words", **more)(row) if ids else row
    # the global ones are computed in float32 by Keras
    told = L.Flatten(**more)(L.AveragePooling1D(7, **more)(told)) if ids else told
    told = L.Dense(6, activation="relu", name="read", **more)(told)
    seen = L.Flatten(**more)(L.AveragePooling2D(4, **more)(look))
    both = L.Concatenate(**more)([seen, told])
    inputs = [image, row] if form == "list" else {"row": row, "image": image}
    model = keras.Model(inputs, L.Dense(3, name="head", **more)(both))
    for name, layer in net.named_children():
        held = [tensor.detach().numpy() for tensor in layer.parameters()]
        held[0] = held[0].transpose(2, 3, 1, 0) if name == "look" else held[0]
        held[0] = held[0].T if name in ("read", "head") else held[0]
        model.get_layer(name).set_weights(held)
    return model


def assert_same_maps(net: nn.Module, loaded: nn.Module, x: Given, last: bool = False) -> None:
    """Maps and outputs are those of the network, for a dict and for a tuple of inputs."""
    given = {n: t.permute(0, 2, 3, 1) if last and t.ndim == 4 else t for n, t in x.items()}
    rtol = RTOL[x["image"].dtype]
    order = list(loaded.shapes)  # type: ignore[arg-type]
    assert sorted(order) == ["image", "row"]
    torch.testing.assert_close(loaded(**given), net(**x), rtol=rtol, atol=rtol)
    for method in METHODS:
        wanted = salience.explain(net, x, method, target=1)[method]
        by_name = salience.explain(loaded, given, method, target=1)[method]
        in_order = salience.explain(loaded, tuple(given[n] for n in order), method, target=1)
        for name, fact in wanted.items():
            found = by_name[name].permute(0, 3, 1, 2) if last and fact.ndim == 4 else by_name[name]
            scale = float(fact.abs().max())
            assert scale > 0
            torch.testing.assert_close(found, fact, rtol=0, atol=rtol * scale)
            assert torch.equal(in_order[method][order.index(name)], by_name[name])


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_exported_files(tmp_path: Path, kind: type[nn.Module], form: str, dtype: torch.dtype):
    net, x = network(kind, dtype)
    file = tmp_path / ("net.pt2" if FORMS[form] is export else "net.onnx")
    given = tuple(x.values())
    loaded = load_model(str(FORMS[form](net, file, form.removesuffix(" onnx"), given)))
    assert_same_maps(net, loaded, x)
    assert image_layout(loaded) == (3, False)


@pytest.mark.parametrize("form", ["fixed", "fixed onnx"])
def test_a_fixed_batch_runs_other_batches_part_by_part(tmp_path: Path, form: str):
    net, x = network(Numbers)
    file = tmp_path / ("net.pt2" if FORMS[form] is export else "net.onnx")
    loaded = load_model(str(FORMS[form](net, file, "fixed", tuple(p[:2] for p in x.values()))))
    assert_same_maps(net, loaded, x)
    assert_same_maps(net, loaded, {name: part[:3] for name, part in x.items()})


def test_ids_have_the_batch_of_the_file(tmp_path: Path):
    """An embedding that runs once for every part has no one map."""
    net, x = network(Captioned)
    file = export(net, tmp_path / "net.pt2", "fixed", tuple(part[:2] for part in x.values()))
    loaded = load_model(str(file))
    torch.testing.assert_close(loaded(**x), net(**x))
    with pytest.raises(SalienceError, match="saved for n samples takes batch_size=n"):
        salience.explain(loaded, x, "gradient", target=1)
    found = salience.explain(loaded, x, "gradient", target=1, batch_size=2)["gradient"]
    wanted = salience.explain(net, x, "gradient", target=1)["gradient"]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("form", ["list", "dict"])
@pytest.mark.parametrize("kind", KINDS)
def test_keras_files(tmp_path: Path, kind: type[nn.Module], form: str, dtype: torch.dtype):
    net, x = network(kind, dtype)
    keras_model(net, form).save(tmp_path / "net.keras")
    assert_same_maps(net, load_model(str(tmp_path / "net.keras")), x, last=True)


@pytest.mark.parametrize("suffix", ["pt2", "onnx", "keras"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_line(tmp_path: Path, kind: type[nn.Module], suffix: str):
    net, x = network(kind, torch.float32)
    file, arrays = tmp_path / f"net.{suffix}", {n: t.numpy() for n, t in x.items()}
    if suffix == "keras":
        keras_model(net).save(file)
        arrays["image"] = arrays["image"].transpose(0, 2, 3, 1)
    else:
        FORMS["dynamic" if suffix == "pt2" else "old"](net, file, "old", tuple(x.values()))
    np.savez(tmp_path / "x.npz", **arrays)
    given = ["explain", file, tmp_path / "x.npz", "--target", 1, "--methods", "lrp_epsilon"]
    result = CliRunner().invoke(app, [*map(str, given), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "overview_image.png").is_file()
    wanted = salience.explain(net, x, "lrp_epsilon", target=1)["lrp_epsilon"]
    held = salience.open(tmp_path / "out")["lrp_epsilon"]  # images are channels first in results
    for name, fact in wanted.items():
        np.testing.assert_allclose(held[name], fact, rtol=1e-4, atol=1e-7)


def test_inputs_that_the_file_does_not_take(tmp_path: Path):
    net, x = network(Numbers)
    loaded = load_model(str(export(net, tmp_path / "net.pt2", "dynamic", tuple(x.values()))))
    image, row = x.values()
    for wrong in ((image,), (image, row, row), {"image": image, "rows": row}):
        with pytest.raises(SalienceError, match=r"the 2 inputs of the file \(image, row\); got"):
            salience.explain(loaded, wrong, "gradient", target=1)
    with pytest.raises(SalienceError, match=r"the 2 inputs of the file \(image, row\); got \(4, 2"):
        salience.explain(loaded, image, "gradient", target=1)
    with pytest.raises(
        SalienceError, match=r"an input row \(B, 5\), as the file tells; got \(4, 6"
    ):
        salience.explain(loaded, (image, torch.ones(4, 6).double()), "gradient", target=1)


def test_inputs_of_different_batch_sizes_are_refused(tmp_path: Path):
    net, x = network(Numbers)
    program = torch.export.export(Shared(net), (x["image"], x["row"][:1]))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(
        SalienceError, match=r"same number of samples first; got {'image': 4, 'row'"
    ):
        load_model(str(tmp_path / "net.pt2"))


class Shared(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        return self.net(image, row.expand(len(image), -1))
