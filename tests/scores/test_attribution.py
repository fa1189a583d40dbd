"""The fraction of the attribution per class of input value, against a naive sum over pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from salience._errors import SalienceError
from salience._scores.by_value import attribution_by_value


def new(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive(s: Tensor, x: Tensor, edges: list[float], units: str) -> np.ndarray:
    """F (class, N): every entry in turn, in Python's floats."""
    result = np.zeros((len(edges) + 1, len(x)))
    rows = zip(s.flatten(1).tolist(), x.flatten(1).tolist(), strict=True)
    for sample, (row, values) in enumerate(rows):
        mean = math.fsum(values) / len(values)
        sigma = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
        total = math.fsum(v * v for v in row)
        for place, value in zip(row, values, strict=True):
            scaled = value / sigma if units == "sigma" else value
            cell = sum(scaled >= edge for edge in edges)
            result[cell, sample] += place * place / total
    return result


@pytest.mark.parametrize("units", ["sigma", "absolute"])
@pytest.mark.parametrize("shape", [(3, 7), (4, 2, 9), (2, 1, 6, 5), (2, 3, 3, 4, 2)])
@pytest.mark.parametrize("edges", [[0.0], [-0.5, 0.3], [-1.0, 0.0, 1.0, 3.0]])
def test_matches_the_naive_sum(units: Any, shape: tuple[int, ...], edges: list[float]) -> None:
    x = 2 * torch.randn(shape, generator=new(1)) + 0.2
    s = torch.randn(shape, generator=new(2))
    data = attribution_by_value(s, x, edges, units=units)
    expected = naive(s.double(), x.double(), edges, units)
    np.testing.assert_allclose(data["fraction"].values, expected, atol=1e-12)
    np.testing.assert_allclose(data["mean"].values, expected.mean(1), atol=1e-12)
    chance = naive(torch.ones_like(x), x.double(), edges, units)
    np.testing.assert_allclose(data["entries"].values, chance, atol=1e-12)
    np.testing.assert_allclose(data["chance"].values, chance.mean(1), atol=1e-12)


def test_an_entry_on_an_edge_belongs_to_the_class_above() -> None:
    x = torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    s = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    data = attribution_by_value(s, x, [0, 2], units="absolute")
    np.testing.assert_allclose(data["fraction"].values[:, 0] * 30, [1, 4 + 9, 16])
    assert data["class"].values.tolist() == ["< 0", "0 to 2", ">= 2"]
    assert data["lower"].values.tolist() == [-math.inf, 0, 2]
    assert data["upper"].values.tolist() == [0, 2, math.inf]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).filter(lambda s: math.prod(s) > 1),
    samples=st.integers(1, 4),
    edges=st.lists(st.integers(-30, 30), min_size=1, max_size=5, unique=True),
    exponent=st.integers(-150, 150),
    units=st.sampled_from(["sigma", "absolute"]),
)
def test_laws(
    seed: int, shape: list[int], samples: int, edges: list[int], exponent: int, units: Any
) -> None:
    """Fractions add up to 1; a uniform map gets chance; neither scale nor sign of a map matters."""
    limits = sorted(edge / 10 for edge in edges)
    x = torch.randn(samples, *shape, generator=new(seed), dtype=torch.float64)
    s = torch.randn(samples, *shape, generator=new(seed + 1), dtype=torch.float64)
    data = attribution_by_value(s, x, limits, units=units)
    np.testing.assert_allclose(data["fraction"].sum("class").values, 1, atol=1e-12)
    np.testing.assert_allclose(data["chance"].sum().item(), 1, atol=1e-12)
    scaled = attribution_by_value(-s * 10.0**exponent, x, limits, units=units)
    # 1e-10: 10**exponent is not a power of two, s rounds once more
    np.testing.assert_allclose(scaled["fraction"].values, data["fraction"].values, atol=1e-10)
    uniform = attribution_by_value(torch.full_like(x, -0.3), x, limits, units=units)
    np.testing.assert_allclose(uniform["fraction"].values, data["entries"].values, atol=1e-12)
    if units == "sigma":
        larger = attribution_by_value(s, 8 * x, limits)
        np.testing.assert_array_equal(larger["fraction"].values, data["fraction"].values)


def test_sigma_is_that_of_each_sample_counted_from_zero() -> None:
    x = torch.tensor([[-1.0, 1.0, -1.0, 1.0], [-10.0, 10.0, -10.0, 10.0]])
    data = attribution_by_value(torch.ones_like(x), x, [0.9, 1.1])
    np.testing.assert_array_equal(data["entries"].values, [[0.5, 0.5], [0.5, 0.5], [0, 0]])
    shifted = attribution_by_value(torch.ones_like(x), x + 20, [0.9, 1.1])
    np.testing.assert_array_equal(shifted["entries"].values[:, 0], [0, 0, 1])


def test_methods_and_outputs_become_dimensions() -> None:
    x = torch.randn(5, 1, 4, 4, generator=new(0))
    a, b, c, d = torch.randn(4, 5, 1, 4, 4, generator=new(1))
    by_method = attribution_by_value({"p": a, "q": b}, x, [0, 1])
    assert by_method["mean"].dims == ("method", "class")
    nested = {"one": {"p": a, "q": b}, "two": {"p": c.numpy(), "q": d}}
    data = attribution_by_value(nested, x, [0, 1])
    assert dict(data["fraction"].sizes) == {"output": 2, "method": 2, "class": 3, "sample": 5}
    for output, maps in nested.items():
        for method, s in maps.items():
            alone = attribution_by_value(s, x, [0, 1])
            row = data.sel({"output": output, "method": method})
            for name in ("fraction", "mean", "low", "high"):
                np.testing.assert_allclose(row[name].values, alone[name].values, atol=1e-12)


def test_interval_is_the_bootstrap_of_the_mean() -> None:
    """Against numpy's resampling; 0.01 is five times the scatter of the 2.5% points of both."""
    x = torch.randn(40, 30, generator=new(3))
    s = torch.randn(40, 30, generator=new(4)) * x.abs().exp()
    data = attribution_by_value(s, x, [0.0])
    values = data["fraction"].values[0]
    draws = np.random.default_rng(0).integers(40, size=(4000, 40))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    assert data["low"].values[0] == pytest.approx(low, abs=0.01)
    assert data["high"].values[0] == pytest.approx(high, abs=0.01)
    assert high - low > 0.05
    narrow = attribution_by_value(s, x, [0.0], level=0.5)
    assert (narrow["high"] - narrow["low"] < 0.6 * (data["high"] - data["low"])).all()


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone() -> None:
    x, s = torch.randn(2, 9, 12, generator=new(5))
    state = torch.get_rng_state()
    first, again, other = (attribution_by_value(s, x, [0], seed=n) for n in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.identical(again)
    assert not np.array_equal(first["low"], other["low"])
    np.testing.assert_array_equal(first["mean"], other["mean"])


def test_a_map_of_zeros_has_no_fraction_and_is_counted() -> None:
    x = torch.randn(3, 8, generator=new(6))
    s = torch.randn(3, 8, generator=new(7))
    s[1] = 0
    data = attribution_by_value(s, x, [0])
    assert np.isnan(data["fraction"].values[:, 1]).all()
    assert data["undefined"].values.tolist() == [1, 1]
    kept = attribution_by_value(s[[0, 2]], x[[0, 2]], [0])
    np.testing.assert_allclose(data["mean"].values, kept["mean"].values, atol=1e-12)
    assert np.isfinite(data["low"].values).all()
    s[0, 3] = math.inf
    assert attribution_by_value(s, x, [0])["undefined"].values.tolist() == [2, 2]


X = torch.randn(2, 6, generator=new(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [1, 0]}, r"expected at least one edge, finite and increasing; got \[1.0, 0.0\]"),
        ({"edges": [0, 0]}, "increasing"),
        ({"edges": []}, "at least one edge"),
        ({"edges": [0, math.inf]}, "leave infinities out"),
        ({"maps": X[:, :5]}, r"maps shaped like the inputs \(2, 6\); got \(2, 5\)"),
        ({"maps": {}}, "at least one method"),
        ({"maps": {"a": X, "b": {"c": X}}}, "a mix of both"),
        ({"maps": {"a": {"p": X}, "b": {"q": X}}}, r"maps of \['p'\] for each output; got b"),
        ({"inputs": X[0]}, r"real inputs \(N, ...\); got \(6,\)"),
        ({"inputs": X * math.nan}, "finite inputs"),
        ({"inputs": torch.ones(2, 6)}, r"inputs that vary; got constant inputs at \[0, 1\]"),
        ({"units": "kappa"}, 'units="sigma" or units="absolute"; got \'kappa\''),
        ({"level": 95}, "a level between 0 and 1; got 95"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"maps": X, "inputs": X, "edges": [0.0], **change}
    with pytest.raises(SalienceError, match=message):
        attribution_by_value(**arguments)


def test_constant_inputs_have_classes_in_absolute_units() -> None:
    data = attribution_by_value(X, torch.ones(2, 6), [0.5], units="absolute")
    np.testing.assert_allclose(data["mean"].values, [0, 1])
