"""Closeness of maps: to a part of the largest value."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def within(usual: float) -> Callable[..., None]:
    """What asserts that maps are equal up to a part of the fact's largest absolute value."""

    def close(ours: Tensor, fact: Tensor, tolerance: float = usual) -> None:
        assert ours.shape == fact.shape, (ours.shape, fact.shape)
        worst, largest = float((ours - fact).abs().max()), max(float(fact.abs().max()), 1e-30)
        assert worst <= tolerance * largest, worst / largest

    return close
