"""The laws on a dozen architectures of torchvision and timm; `make zoo` has all of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import salience

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import networks as shared
from zoo import laws, networks, table

# Of linear maps, ReLU, pooling and BatchNorm alone: where LRP must tend to input x gradient.
RELU_ONLY = """
    torchvision/resnet18 torchvision/googlenet torchvision/shufflenet_v2_x0_5
    torchvision/squeezenet1_1 timm/regnetx_002 timm/dla46x_c
""".split()
OTHERS = """
    torchvision/mobilenet_v3_small timm/mobilenetv2_050 timm/repghostnet_050 timm/test_convnext
    timm/test_nfnet timm/test_vit timm/test_maxvit timm/levit_128s timm/poolformer_s12
""".split()


@pytest.fixture(scope="module", params=RELU_ONLY + OTHERS)
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Any]:
    model, size = networks.build(request.param, samples=8)
    return request.param, model.double(), networks.inputs(2, size, dtype=torch.float64)


def test_every_map_is_finite(network):
    _, model, x = network
    found = laws.maps(model, x, shared.classes(model, x).tolist())
    assert found["errors"] == {}
    assert all(found["finite"].values()), found["finite"]


def test_laws(network):
    """Autograd's own graph, hooked at its ReLUs, knows nothing of how a pass is recorded."""
    name, model, x = network
    found = laws.laws(model, x, shared.classes(model, x))
    assert ("epsilon" in found) == (name in RELU_ONLY)
    failed = {law: value for law, value in found.items() if not value < 1e-9}
    assert failed == {}


def test_guided_backprop_is_not_the_gradient_where_there_is_a_relu(network):
    _, model, x = network
    tape, target = salience.record(model, x), shared.classes(model, x).tolist()
    guided, gradient = (tape.explain(m, target) for m in ("guided_backprop", "gradient"))
    gated = table.has_gates({"operations": laws.operations(tape)})
    assert torch.equal(guided, gradient) != gated


def test_every_operation_is_covered(network):
    _, model, x = network
    assert salience.record(model, x).coverage("lrp_epsilon").uncovered == []


@pytest.mark.parametrize("name", RELU_ONLY)
def test_without_biases_relevance_is_conserved(name):
    model, size = networks.build(name, samples=8)
    laws.remove_biases(model)
    found = laws.conserved(model.double(), networks.inputs(2, size, dtype=torch.float64))
    assert found is not None
    assert found["lrp_epsilon"] < 1e-9  # other rules lose it where all contributions are negative
