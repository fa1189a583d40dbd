"""The same maps and studies on every device, in every layout, under autocast."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from chosen import chosen
from nets import small_nets
from torch import Tensor, nn
from transformer_nets import ViT, drawn, randn

import salience

missing = not torch.cuda.is_available()
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(missing, reason="no CUDA device"))]
FEW = {"smoothgrad": {"n": 3}, "integrated_gradients": {"max_steps": 8, "tol": 0.0}}
SINGLE = [name for name, method in salience.methods.items() if method.single_pass]
NETS: dict[str, tuple[nn.Module, Tensor]] = {
    name: small_nets()[name] for name in ("conv_bn_relu", "residual", "transposed_bn", "concat")
} | {"vit": (drawn(ViT("sdpa"), 3), randn(2, 3, 8, 8))}


def on(device: str, net: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A copy of a network there."""
    return copy.deepcopy(net).to(device, dtype)


def error(found: Tensor, fact: Tensor) -> float:
    """The distance of maps over the size of what they should be."""
    found, fact = found.cpu().double(), fact.double()
    return float((found - fact).norm() / fact.norm())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETS)
def test_maps_are_those_of_the_cpu(name: str, device: str):
    net, x = NETS[name]
    methods = chosen(FEW)
    if name == "vit":  # whose input layer lies behind a class token and positions
        methods = [m for m in methods if m.input_rule is None]
    fact = salience.explain(net, x, methods, 1)
    found = salience.explain(on(device, net), x.to(device), methods, 1)
    for method in fact:
        assert found[method].device.type == device
        assert error(found[method], fact[method]) < 1e-9, method


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", SINGLE)
def test_channels_last_has_the_same_maps(method: str, device: str):
    net, x = NETS["conv_bn_relu"]
    fact = salience.record(net, x).explain(method, 1)
    last: Any = on(device, net, torch.float32).to(memory_format=torch.channels_last)
    there = x.float().to(device).contiguous(memory_format=torch.channels_last)
    assert error(salience.record(last, there).explain(method, 1), fact) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["conv_bn_relu", "vit"])
def test_under_autocast_maps_are_those_of_float32_to_a_few_percent(name: str, device: str):
    net, x = NETS[name]
    for method in ("gradient", "lrp_epsilon", "excitation_backprop"):
        fact = salience.record(net, x).explain(method, 1)
        with torch.autocast(device, torch.bfloat16):
            tape = salience.record(on(device, net, torch.float32), x.float().to(device))
            assert tape.output.dtype == torch.bfloat16
            found = tape.explain(method, 1)
        assert error(found, fact) < 0.1, method  # up to .06 measured


@pytest.mark.parametrize("device", DEVICES)
def test_studies_are_those_of_the_cpu(device: str):
    net, x = NETS["conv_bn_relu"]
    methods, cascade = ["gradient", "lrp_alpha_beta"], salience.Cascade(repeats=2)
    studies = [
        (
            salience.randomization_test(a, b, methods, 1, cascade, progress=False).data,
            salience.faithfulness(a, b, methods, 1, cascade=cascade, progress=False).data,
        )
        for a, b in ((net, x), (on(device, net), x.to(device)))
    ]
    for fact, found in zip(*studies, strict=True):
        for name, values in fact.data_vars.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(found[name].values, values.values, 1e-6, 1e-8, str(name))
