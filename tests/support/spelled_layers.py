"""Layers and activations in many spellings, and the forms that they are written in."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from chosen import with_error
from file_nets import export
from spelled import ACTIVATIONS
from torch import Tensor, nn

import salience
from salience.models import load_model

METHODS = [name for name, method in salience.methods.items() if method.single_pass]
WIDTH, TOKENS = 6, 4


class Parts(nn.Module):
    """What every spelling of a layer of tokens is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.group = nn.LayerNorm(WIDTH), nn.GroupNorm(2, WIDTH)
        self.instance = nn.InstanceNorm1d(WIDTH, affine=True)
        self.batch, self.rms = nn.BatchNorm1d(WIDTH), nn.RMSNorm(WIDTH, eps=2**-20)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.dense, self.gate = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.both, self.conv = nn.Linear(WIDTH, 2 * WIDTH), nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        for values in self.parameters():
            if values.ndim < 2:
                nn.init.normal_(values)
        nn.init.normal_(self.batch.running_mean)
        nn.init.uniform_(self.batch.running_var, 0.5, 2.0)


Spelling = Callable[[Parts, Tensor], Tensor]


def over(dims: int | tuple[int, ...], x: Tensor, eps: float) -> Tensor:
    """x without its mean, over its deviation along some dimensions."""
    centered = x - x.mean(dims, keepdim=True)
    return centered / torch.sqrt(centered.square().mean(dims, keepdim=True) + eps)


def channels(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of (B, C, T) applied to (B, T, C)."""
    return function(x.transpose(1, 2)).transpose(1, 2)


def grouped(p: Parts, x: Tensor) -> Tensor:
    parts = x.transpose(1, 2).reshape(-1, 2, WIDTH // 2, TOKENS)
    whole = over((2, 3), parts, p.group.eps).reshape(-1, WIDTH, TOKENS)
    return (whole * p.group.weight.view(-1, 1) + p.group.bias.view(-1, 1)).transpose(1, 2)


def heads(p: Parts, x: Tensor) -> list[Tensor]:
    """Queries, keys and values: (B, 2, T, WIDTH / 2)."""
    whole = F.linear(x, p.attention.in_proj_weight, p.attention.in_proj_bias)
    return [part.reshape(-1, TOKENS, 2, WIDTH // 2).transpose(1, 2) for part in whole.chunk(3, -1)]


def joined(p: Parts, mixed: Tensor) -> Tensor:
    return p.attention.out_proj(mixed.transpose(1, 2).reshape(-1, TOKENS, WIDTH))


def by_hand(p: Parts, x: Tensor) -> Tensor:
    q, k, v = heads(p, x)
    scores = q @ k.transpose(-1, -2) * (WIDTH // 2) ** -0.5
    return joined(p, torch.softmax(scores, -1) @ v)


def by_products(p: Parts, x: Tensor) -> Tensor:
    q, k, v = heads(p, x)
    scores = torch.einsum("bhid,bhjd->bhij", q / math.sqrt(WIDTH // 2), k)
    return joined(p, torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v))


def by_exponentials(p: Parts, x: Tensor) -> Tensor:
    q, k, v = heads(p, x)
    scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // 2)
    parts = torch.exp(scores - scores.amax(-1, keepdim=True))
    return joined(p, parts / parts.sum(-1, keepdim=True) @ v)


# the first spelling of each is torch's own
LAYERS: dict[str, list[Spelling]] = {
    "layer_norm": [
        lambda p, x: p.norm(x),
        lambda p, x: F.layer_norm(x, (WIDTH,), p.norm.weight, p.norm.bias, p.norm.eps),
        lambda p, x: over(-1, x, p.norm.eps) * p.norm.weight + p.norm.bias],
    "rms_norm": [
        lambda p, x: p.rms(x),
        lambda p, x: F.rms_norm(x, (WIDTH,), p.rms.weight, 2**-20),
        lambda p, x: p.rms.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 2**-20),
        lambda p, x: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 2**-20) * p.rms.weight],
    "group_norm": [
        lambda p, x: channels(p.group, x),
        lambda p, x: channels(lambda h: F.group_norm(h, 2, p.group.weight, p.group.bias), x),
        grouped],
    "instance_norm": [
        lambda p, x: channels(p.instance, x),
        lambda p, x: channels(
            lambda h: F.instance_norm(h, weight=p.instance.weight, bias=p.instance.bias), x),
        lambda p, x: over(1, x, p.instance.eps) * p.instance.weight + p.instance.bias],
    "batch_norm": [
        lambda p, x: channels(p.batch, p.dense(x)),
        lambda p, x: channels(lambda h: F.batch_norm(
            h, p.batch.running_mean, p.batch.running_var, p.batch.weight, p.batch.bias
        ), p.dense(x)),
        lambda p, x: (p.dense(x) - p.batch.running_mean) * (
            p.batch.weight * torch.rsqrt(p.batch.running_var + p.batch.eps)) + p.batch.bias],
    "attention": [
        lambda p, x: p.attention(x, x, x)[0],
        lambda p, x: joined(p, F.scaled_dot_product_attention(*heads(p, x))),
        by_hand, by_products, by_exponentials],
    "dense": [
        lambda p, x: p.dense(x).relu(),
        lambda p, x: (x @ p.dense.weight.T + p.dense.bias).relu(),
        lambda p, x: (torch.einsum("bti,oi->bto", x, p.dense.weight) + p.dense.bias).relu()],
    "convolution": [
        lambda p, x: channels(p.conv, x).relu(),
        lambda p, x: (channels(lambda h: F.conv1d(h, p.conv.weight, padding=1), x)
                      + p.conv.bias).relu(),
        lambda p, x: channels(lambda h: F.conv2d(
            h[..., None], p.conv.weight[..., None], p.conv.bias, padding=(1, 0)
        )[..., 0], x).relu()],
    "gated": [
        lambda p, x: F.glu(p.both(x)),
        lambda p, x: p.both(x)[..., :WIDTH] * torch.sigmoid(p.both(x)[..., WIDTH:]),
        lambda p, x: torch.mul(*(f(h) for f, h in zip(
            (nn.Identity(), torch.sigmoid), p.both(x).chunk(2, -1), strict=True)))],
    "swiglu": [
        lambda p, x: F.silu(p.gate(x)) * p.dense(x),
        lambda p, x: (h := p.gate(x)) * torch.sigmoid(h) * p.dense(x),
        lambda p, x: (h := p.gate(x)) / (1 + torch.exp(-h)) * p.dense(x)],
}  # fmt: skip


class Branches(nn.Module):
    """Functions of tokens side by side, between dense layers: (B, T, C) -> (B, 3 functions)."""

    def __init__(self, spellings: list[Spelling]) -> None:
        super().__init__()
        self.spellings = spellings
        torch.manual_seed(3)  # no two alike, which an exporter would run once for both
        self.parts = nn.ModuleList(Parts() for _ in spellings)
        self.first = nn.ModuleList(nn.Linear(5, WIDTH) for _ in spellings)
        self.last = nn.ModuleList(nn.Linear(WIDTH, 3) for _ in spellings)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        branches = zip(self.spellings, self.parts, self.first, self.last, strict=True)
        outputs = [last(f(parts, first(x)))[:, 1] for f, parts, first, last in branches]
        return torch.cat(outputs, 1)


def without(*missing: str) -> dict[str, list[Spelling]]:
    """All families, without the spellings that an exporter has no operators for."""
    functions = {
        name: [lambda p, x, f=f: f(x) for f in fs] for name, fs in ACTIVATIONS.items()
    } | LAYERS
    return {
        name: [f for place, f in enumerate(fs) if f"{name} {place}" not in missing]
        for name, fs in functions.items()
    }


def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, TOKENS, 5, generator=generator, dtype=torch.float64)


def write_onnx(net: nn.Module, file: Path, opset: int, dynamo: bool) -> Path:
    dims = ({0: torch.export.Dim("batch", min=1, max=64)},)
    settings = {"dynamic_shapes": dims, "verbose": False, "external_data": False}
    old = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (tokens(),), file, opset_version=opset, dynamo=dynamo,
            **(settings if dynamo else old),
        )  # fmt: skip
    return file


FORMS = {
    "program torch": (lambda net, folder: net, (), 1e-10),
    "program exported": (
        lambda net, folder: export(net, folder / "net.pt2", "dynamic", tokens()), (), 1e-9),
    "program decomposed": (
        lambda net, folder: export(net, folder / "net.pt2", "decomposed", tokens()), (), 1e-9),
}  # fmt: skip
# the exporters write Python's numbers, as 1.702, in float32, with 6e-8 of rounding
for _opset, _dynamo in ((13, False), (17, False), (20, False), (18, True), (20, True)):
    _missing: tuple[str, ...] = (
        () if _dynamo else ("gelu 3", "elu 2", "power 0", "rms_norm 0", "rms_norm 1")
    )
    if _opset == 13:
        _missing += ("attention 0", "attention 1")
    FORMS[f"onnx {_opset} {'new' if _dynamo else 'old'}"] = (
        lambda net, folder, o=_opset, d=_dynamo: write_onnx(net, folder / "net.onnx", o, d),
        _missing, 2e-7)  # fmt: skip


def record(net: nn.Module, branches: Collection[object]) -> salience.Tape:
    """A pass of the same inputs once for each branch."""
    return salience.record(net, tokens().repeat(len(branches), 1, 1))


def maps(tape: salience.Tape, method: str) -> tuple[Tensor, Tensor | None]:
    """The maps of output 1 of each branch (branches, B, T, C), and their conservation errors."""
    count = len(tape.x) // len(tokens())
    target = torch.arange(count).mul(3).add(1).repeat_interleave(len(tokens()))
    found, errors = with_error(tape, method, target)
    return found.unflatten(0, (count, -1)), errors


def forms(*words: str) -> list[Any]:
    """Parameters for the forms whose names have all these words; the slowest is marked."""
    found = [form for form in FORMS if all(word in form for word in words)]
    slow = "onnx 20 new"
    return [pytest.param(f, marks=[pytest.mark.slow] if f == slow else []) for f in found]


def check_form(form: str, folder: Path) -> None:
    """Every spelling of everything has the maps of torch's own, written in one form."""
    write, missing, tolerance = FORMS[form]
    families = without(*missing)
    labels = [(name, i) for name, fs in families.items() for i in range(len(fs))]
    net = Branches([f for fs in families.values() for f in fs])
    written = write(net, folder)
    tape = record(written if isinstance(written, nn.Module) else load_model(str(written)), labels)
    own = record(Branches([families[name][0] for name, _ in labels]), labels)
    wrong = []
    for method in METHODS:
        (found, errors), (wanted, own_errors) = maps(tape, method), maps(own, method)
        for place, label in enumerate(labels):
            one, two = found[place], wanted[place]
            off = float((one - two).abs().max() / two.abs().max().clamp(min=1e-300))
            if not off < tolerance:
                wrong.append((method, *label, off))
        if own_errors is not None:
            torch.testing.assert_close(
                errors, own_errors, rtol=0, atol=100 * tolerance, equal_nan=True
            )
        assert uncovered(tape, method) == uncovered(own, method)
    assert not wrong, "\n".join(map(str, wrong))


def uncovered(tape: salience.Tape, method: str) -> set[str]:
    """The kinds of calls that a method has no rule for."""
    return {row.kind for row in tape.coverage(method) if row.treatment == "not covered"}
