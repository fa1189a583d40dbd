"""Maps against captum's and zennit's, on the networks where those are right (`make bench`)."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import salience

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
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
