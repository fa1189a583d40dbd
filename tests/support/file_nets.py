"""Small networks that every model file format can hold, and the writers of the files."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import salience

METHODS = (
    "gradient", "lrp_epsilon", "lrp_alpha_beta", "guided_backprop", "excitation_backprop",
    "deep_taylor",
)  # fmt: skip
RTOL = {torch.float32: 1e-5, torch.float64: 1e-9}


class Residual(nn.Module):
    """conv, BatchNorm, ReLU, max-pool, a residual sum, average-pool, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.linear, self.head = nn.Linear(8 * 4, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.bn(self.conv(x))), 2)
        x = F.avg_pool2d(torch.relu(self.bn2(self.conv2(x)) + x), 2)
        return self.head(torch.relu(self.linear(x.flatten(1))))


class Attention(nn.Module):
    """A ViT of one block: patches, a class token, attention, an MLP with GELU, layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(5, 8))
        self.norm, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.mix = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.token.expand(t.shape[0], -1, -1), t], 1) + self.place
        parts = self.qkv(self.norm(t)).reshape(t.shape[0], 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        mixed = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        t = t + self.mix(mixed.transpose(1, 2).reshape(t.shape[0], 5, 8))
        t = t + self.down(F.gelu(self.up(self.norm2(t)))) + F.silu(t)
        return self.head(t[:, 0])


def make(kind: type[nn.Module] = Residual, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network in eval mode whose BatchNorm layers have statistics and weights of either sign."""
    torch.manual_seed(0)
    net = kind()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, -1, 1.5)
            nn.init.normal_(module.bias)
    return net.eval().to(dtype)


def images(batch: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=dtype)


Inputs = Tensor | tuple[Tensor, ...]


def as_given(net: nn.Module, x: Inputs) -> tuple[tuple[Tensor, ...], list[str], Any]:
    """The inputs, their names, and a dimension of each that counts samples."""
    given = x if isinstance(x, tuple) else (x,)
    names = list(inspect.signature(net.forward).parameters)[: len(given)]
    return given, names, tuple({0: torch.export.Dim("batch", min=1, max=64)} for _ in given)


def export(net: nn.Module, file: Path, form: str, x: Inputs) -> Path:
    """Write a network by torch.export: "dynamic" batch, "decomposed" to core ATen, or "fixed"."""
    given, _, dims = as_given(net, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, given, dynamic_shapes=None if form == "fixed" else dims)
        program = program.run_decompositions() if form == "decomposed" else program
        torch.export.save(program, file)
    return file


def export_onnx(net: nn.Module, file: Path, form: str, x: Inputs) -> Path:
    """Write ONNX by the "new" exporter (with its weights beside it), the "old" one, the old one
    for "opset 17", where GELU is five operators, or "fixed"."""
    given, names, dims = as_given(net, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form in ("old", "opset 17"):
            torch.onnx.export(
                net, given, file, dynamo=False, input_names=names,
                dynamic_axes={name: {0: "batch"} for name in names},
                opset_version=17 if form == "opset 17" else None,
            )  # fmt: skip
        else:
            torch.onnx.export(
                net, given, file, dynamo=True, dynamic_shapes=None if form == "fixed" else dims,
                verbose=False, external_data=form == "new",
            )  # fmt: skip
    return file


def assert_same_maps(
    net: Any, loaded: nn.Module, x: Tensor, *, channels_last: bool = False,
    rtol: float | None = None,
) -> None:  # fmt: skip
    """Every method's map of a loaded network is that of the network itself."""
    rtol = RTOL[x.dtype] if rtol is None else rtol
    given = x.permute(0, 2, 3, 1).contiguous() if channels_last else x
    for method in METHODS:
        wanted = salience.explain(net, x, method, target=1)[method]
        found = salience.explain(loaded, given, method, target=1)[method]
        found = found.permute(0, 3, 1, 2) if channels_last else found
        scale = float(wanted.abs().max())
        assert scale > 0
        torch.testing.assert_close(
            found, wanted, rtol=0, atol=scale * rtol, msg=lambda m, n=method: f"{n}: {m}"
        )


class Standardized(nn.Conv2d):
    """A convolution whose weights are standardised by batch_norm, as in NFNet and BiT."""

    def forward(self, x):
        rows = self.weight.reshape(1, len(self.weight), -1)
        rows = F.batch_norm(rows, None, None, training=True, momentum=0.0)
        return F.conv2d(x, rows.reshape_as(self.weight), self.bias)


def standardized() -> nn.Module:
    layers = Standardized(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, 5)).double().eval()
