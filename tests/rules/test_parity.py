"""Maps against captum's and zennit's, on the networks where those are right (`make bench`)."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import salience

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
cases: Any = pytest.importorskip("cases")
networks: Any = pytest.importorskip("networks")

PEERS = ("captum", "zennit", "torchvision")
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in PEERS), reason=f"needs {', '.join(PEERS)}"
    ),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]
# float64; zennit's stabiliser of 1e-12 and captum's of 1e-9, next to denominators of 1e-4 and more
TOLERANCE = 1e-6


@pytest.fixture(scope="module", params=networks.NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[str, Any, Tensor, Tensor]:
    model = networks.build(request.param, dtype=torch.float64)
    x = networks.inputs(2, 64, dtype=torch.float64)
    return request.param, model, x, networks.classes(model, x)


@pytest.mark.parametrize("case", cases.PEERS, ids=lambda case: f"{case.package}-{case.row}")
def test_maps_equal_the_peers(network, case):
    name, model, x, classes = network
    if name in case.wrong:
        pytest.skip(f"{case.package} is wrong on {name}: {case.wrong[name]}")
    (ours,) = [own for own in cases.SALIENCE if own.row == case.row]
    found = cases.maps_of(ours, model, x, classes)
    assert cases.difference(found, cases.maps_of(case, model, x, classes)) < TOLERANCE


def test_epsilon_to_zero_is_input_x_gradient(network):
    _, model, x, classes = network
    for law, difference in cases.as_gradient(model, x, classes).items():
        assert difference < TOLERANCE, law


def test_captum_z_plus_where_inputs_are_not_negative():
    model = networks.build("vgg16", dtype=torch.float64)
    x = networks.inputs(2, 64, dtype=torch.float64).abs()
    classes = networks.classes(model, x)
    value = model(x).gather(1, classes[:, None])[:, 0]
    tape = salience.record(model, x)
    found = tape.explain("excitation_backprop", classes.tolist(), start=value)
    (case,) = [c for c in cases.PEERS if (c.package, c.row) == ("captum", "excitation_backprop")]
    assert cases.difference(found, cases.maps_of(case, model, x, classes)) < TOLERANCE


# preset -> zennit's composite; low and high are those of the box
COMPOSITES: dict[str, tuple[str, dict[str, Any]]] = {
    "epsilon-plus": ("EpsilonPlus", {}),
    "epsilon-plus-flat": ("EpsilonPlusFlat", {}),
    "alpha2beta1-flat": ("EpsilonAlpha2Beta1Flat", {}),
    "epsilon-gamma-box": ("EpsilonGammaBox", {"low": -4.0, "high": 4.0}),
}


def chain() -> nn.Module:
    """Convolutions, pooling and dense layers with biases, as the composites expect them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 12), nn.ReLU(),
            nn.Linear(12, 5),
        ).double().eval()  # fmt: skip


def zennit_maps(model: nn.Module, x: Tensor, classes: Tensor, name: str, box: Any) -> Tensor:
    """The maps of one of zennit's composites, from the target's value."""
    networks.import_torchvision()  # which zennit imports
    from zennit import composites  # type: ignore[import-not-found]
    from zennit.attribution import Gradient  # type: ignore[import-not-found]

    bounds = {end: torch.full_like(x, value) for end, value in box.items()}
    options = {"gamma": 0.25} if box else {}
    composite = getattr(composites, name)(epsilon=1e-6, **bounds, **options)
    one_hot = torch.nn.functional.one_hot(classes, 5).to(x)
    with Gradient(model=model, composite=composite) as attributor:
        return attributor(x.clone(), lambda output: output.detach() * one_hot)[1].detach()


@pytest.mark.parametrize("preset", COMPOSITES)
def test_composites_equal_zennits(preset):
    name, box = COMPOSITES[preset]
    model, x = chain(), networks.inputs(3, 16, dtype=torch.float64).clamp(-4, 4)
    classes = networks.classes(model, x)
    ours = salience.record(model, x).explain(
        "lrp_composite", classes.tolist(), preset=preset, eps=1e-6, gamma=0.25, **box
    )
    theirs = zennit_maps(chain(), x, classes, name, box)
    # zennit's stabiliser of 1e-6 also stands in its z+, gamma, flat and box rules, where ours is 0
    assert ((ours - theirs).norm() / theirs.norm()).item() < 3e-6
