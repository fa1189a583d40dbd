"""Layouts in memory and by name, windows, sound, volumes and low precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from chosen import with_error
from closeness import within
from torch import Tensor, nn

import salience
from salience import SalienceError

METHODS = [name for name, method in salience.methods.items() if method.single_pass]
close = within(1e-9)


def gradient(model: Callable[[Tensor], Tensor], x: Tensor, scalar: Any) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(scalar(model(leaf)).sum(), leaf)[0]


def laws(model: nn.Module, x: Tensor, target: Any, scalar: Any) -> None:
    """The gradient is autograd's, LRP-0 is x times it, all maps are finite."""
    fact, tape = gradient(model, x, scalar), salience.record(model, x)
    assert torch.equal(tape.output, model(x))
    close(tape.explain("gradient", target), fact)
    close(tape.explain("lrp_epsilon", target, eps=0.0), x * fact)
    for method in METHODS:
        assert bool(tape.explain(method, target).isfinite().all()), method


# ---------------------------------------------------------------- channels last


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(8, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


class Last(nn.Module):
    """The same network for images (B, H, W, C), as Keras lays them out."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.permute(0, 3, 1, 2))


@pytest.mark.parametrize("method", METHODS)
def test_channels_last_in_memory_or_by_name_changes_no_map(method: str):
    net, x = Images(), torch.randn(2, 3, 9, 9).double()
    fact = salience.record(net, x).explain(method, target=1)
    last = torch.channels_last
    for model, given in (
        (net, x.to(memory_format=last)), (Images(), x), (Images(), x.to(memory_format=last))
    ):  # fmt: skip
        if model is not net:
            model.load_state_dict(net.state_dict())
            model.to(memory_format=last)
        close(salience.record(model, given).explain(method, target=1), fact)
    named = salience.record(Last(net), x.permute(0, 2, 3, 1)).explain(method, target=1)
    close(named.permute(0, 3, 1, 2), fact)
    named = salience.record(Last(net), x.permute(0, 2, 3, 1).contiguous())
    close(named.explain(method, target=1).permute(0, 3, 1, 2), fact)


class Mixed(nn.Module):
    """A ConvNeXt-like block, its dense layers on (B, H, W, C) or, as 1 x 1, (B, C, H, W)."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last, kind = last, nn.Linear if last else lambda a, b: nn.Conv2d(a, b, 1)
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.up, self.down, self.head = kind(4, 12), kind(12, 4), nn.Linear(4, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        h = self.depth(x)
        h = h.permute(0, 2, 3, 1) if self.last else h
        h = self.down(F.relu(self.up(h)))
        h = h.permute(0, 3, 1, 2) if self.last else h
        return self.head((x + h).mean((2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_dense_layers_on_the_last_dimension_are_convolutions_of_1_x_1(method: str):
    twins = Mixed(last=True), Mixed(last=False)
    state = twins[0].state_dict()
    for name in ("up.weight", "down.weight"):
        state[name] = state[name][:, :, None, None]
    twins[1].load_state_dict(state)
    x = torch.randn(2, 4, 5, 5).double()
    if method == "lrp_composite":  # means something else for dense layers than for convolutions
        return
    maps = [salience.record(net, x).explain(method, target=2) for net in twins]
    close(*maps)


class Windows(nn.Module):
    """Swin-like: windows are rolled, cut out, mixed inside, and put back."""

    def __init__(self, loop: bool) -> None:
        super().__init__()
        self.loop, self.mix, self.head = loop, nn.Linear(3 * 16, 3 * 16), nn.Linear(3, 2)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(x, (-2, -2), (1, 2))  # (B, 8, 8, 3)
        h = torch.zeros_like(x)
        if self.loop:
            for i, j in ((0, 0), (0, 4), (4, 0), (4, 4)):
                part = x[:, i : i + 4, j : j + 4].reshape(len(x), -1)
                h[:, i : i + 4, j : j + 4] = F.relu(self.mix(part)).view(-1, 4, 4, 3)
        else:
            cut = x.view(-1, 2, 4, 2, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 48)
            h = F.relu(self.mix(cut)).view(-1, 2, 2, 4, 4, 3).permute(0, 1, 3, 2, 4, 5)
            h = h.reshape(x.shape)
        return self.head((x + torch.roll(h, (2, 2), (1, 2))).mean((1, 2)))


@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "lrp_epsilon", "lrp_alpha_beta"])
def test_windows_cut_by_views_are_windows_cut_one_by_one(method: str):
    cut, loop = Windows(loop=False), Windows(loop=True)
    loop.load_state_dict(cut.state_dict())
    x = torch.randn(2, 8, 8, 3).double()
    close(*(salience.record(net, x).explain(method, target=1) for net in (cut, loop)))


# ---------------------------------------------------------------- sound and volumes


def test_sound_through_strided_dilated_and_grouped_convolutions():
    net = nn.Sequential(
        nn.Conv1d(1, 4, 8, stride=4), nn.BatchNorm1d(4), nn.ReLU(),
        nn.Conv1d(4, 8, 3, dilation=4, padding=4, groups=2, padding_mode="reflect"), nn.ReLU(),
        nn.AvgPool1d(2), nn.ConvTranspose1d(8, 4, 4, stride=2), nn.ReLU(),
        nn.AdaptiveMaxPool1d(3), nn.Flatten(), nn.Linear(12, 2),
    ).double().eval()  # fmt: skip
    laws(net, torch.randn(2, 1, 160).double(), 1, lambda out: out[:, 1])


def test_volumes():
    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.deep = nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
            self.norm, self.up = nn.BatchNorm3d(4), nn.ConvTranspose3d(4, 3, 2, stride=2)
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            skip = F.relu(self.down(x))
            h = F.relu(self.norm(self.deep(F.max_pool3d(skip, 2))))
            h = F.interpolate(F.avg_pool3d(h, 2), scale_factor=2, mode="trilinear")
            return self.up(h) + skip[:, :3]

    x = torch.randn(2, 2, 8, 8, 8).double()
    laws(Volume(), x, (1, 3, 4, 5), lambda out: out[:, 1, 3, 4, 5])
    last = x.to(memory_format=torch.channels_last_3d)
    net = Volume()
    for method in METHODS:
        twins = [salience.record(net, v).explain(method, (0, 1, 1, 1)) for v in (x, last)]
        close(*twins)


class Spectrum(nn.Module):
    """Power in frequency bands of a waveform (B, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(17, 2)
        self.register_buffer("window", torch.hann_window(32))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stft(x, 32, 8, window=self.window, return_complex=True)  # (B, 17, frames)
        return self.head(z.abs().square().mean(2))


def test_complex_numbers_inside_pass_gradients_and_are_named_for_lrp():
    net, x = Spectrum(), torch.randn(2, 96).double()
    tape = salience.record(net, x)
    fact = gradient(net, x, lambda out: out[:, 1])
    close(tape.explain("gradient", 1), fact)
    assert float(with_error(tape, "integrated_gradients", 1, tol=1e-4)[1].max()) < 1e-4
    assert tape.coverage("lrp_epsilon").uncovered == ["stft", "abs"]
    # the square's proportional rule hands on y / x, half of its derivative
    close(tape.explain("lrp_epsilon", 1, eps=0.0), x * fact / 2)
    with pytest.raises(SalienceError, match="operations that lrp_epsilon has rules for"):
        tape.explain("lrp_epsilon", 1, strict=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_low_precision_maps_are_near_those_of_float32(method: str, dtype: torch.dtype):
    net, x = Images().float(), torch.randn(4, 3, 9, 9)
    fact = salience.record(net, x).explain(method, target=1)
    ours, errors = with_error(salience.record(net.to(dtype), x.to(dtype)), method, 1)
    assert ours.dtype == dtype and bool(ours.isfinite().all())
    pair = torch.stack([ours.float().flatten(), fact.flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.9
    assert errors is None or bool(errors.isfinite().all())
