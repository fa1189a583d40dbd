"""Tuples and dicts of inputs: whole data sets, batches, memory, errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from chosen import with_error
from torch import Tensor
from two_streams import close, data, gradients, streams

import salience
from salience import SalienceError


class Rows(torch.utils.data.Dataset[Any]):
    def __init__(self, x: tuple[Tensor, Tensor], form: str) -> None:
        self.x, self.form = x, form

    def __len__(self) -> int:
        return len(self.x[0])

    def __getitem__(self, i: int) -> Any:
        image, row = self.x[0][i], self.x[1][i]
        return {"image": image, "row": row} if self.form == "dict" else ((image, row), 0)


@pytest.mark.parametrize("form", ["tuple", "dict", "arrays", "loader", "loader of dicts"])
def test_explain_takes_whole_containers_and_batches_of_them(form: str):
    model, x = streams(), data(7)
    facts, error = with_error(salience.record(model, x), "lrp_epsilon", 1)
    named = {"image": x[0], "row": x[1]}
    loader = {"loader": "tuple", "loader of dicts": "dict"}.get(form)
    if loader:
        given: Any = torch.utils.data.DataLoader(Rows(x, loader), batch_size=3)
    else:
        given = {"tuple": x, "dict": named, "arrays": tuple(v.numpy() for v in x)}[form]
    size = None if loader else 3
    maps = salience.explain(model, given, ["lrp_epsilon"], target=1, batch_size=size)
    close(maps.error["lrp_epsilon"], error)
    own = maps["lrp_epsilon"]
    for map, fact in zip(own.values() if "dict" in form else own, facts, strict=True):
        close(map, fact)


def test_parameters_for_every_sample_are_split_with_their_container():
    model, x = streams(), data(5)
    begins = tuple(torch.randn_like(v) for v in x)
    own = salience.rules.integrated_gradients(begins, tol=0.0, max_steps=16)
    whole, split = (salience.explain(model, x, own, 0, batch_size=n) for n in (5, 2))
    for a, b in zip(whole["integrated_gradients"], split["integrated_gradients"], strict=True):
        close(a, b)


def test_memory_halves_batches_of_containers():
    model, x, sizes = streams(), data(8), []

    def greedy(image: Tensor, row: Tensor) -> Tensor:
        sizes.append(len(image))
        if len(image) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return model(image, row)

    maps = salience.explain(greedy, x, ["gradient"], target=0)["gradient"]
    assert sizes == [8, 4, 2, 2, 2, 2]
    for map, fact in zip(maps, gradients(model, x, 0), strict=True):
        close(map, fact)


class Pair(NamedTuple):
    image: Tensor
    row: Tensor


IMAGE, ROW = torch.randn(3, 2, 6, 6).double(), torch.randn(3, 5).double()
ERRORS: dict[str, tuple[Any, str]] = {
    "other sizes": ((IMAGE, ROW[:2]), r"same number of samples first; got \{0: 3, 1: 2\}. Put"),
    "name": ({"picture": IMAGE, "row": ROW}, r"inputs that the model takes, \(image.*'picture'"),
    "number": ((IMAGE,), r"inputs that the model takes, \(image.*got 1 inputs"),
    "empty": ({}, r"at least one tensor \(B, ...\)"),
    "NaN": ({"image": IMAGE, "row": ROW / 0}, "finite input 'row'; got 15 NaN"),
    "dtype": ((IMAGE, ROW.float()), "input 1 of the model's dtype torch.float64; got"),
    "complex": ((IMAGE, ROW, ROW.to(torch.complex64)), "floating-point input 2; got"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_what_containers_must_hold(case: str):
    x, message = ERRORS[case]
    with pytest.raises(SalienceError, match=message):
        salience.record(streams(), x)
    with pytest.raises(SalienceError, match=message):
        salience.explain(streams(), x, "gradient", 0)


def test_a_named_tuple_is_a_tuple():
    maps = salience.record(streams(), Pair(IMAGE, ROW)).explain("gradient", target=0)
    assert type(maps) is tuple and len(maps) == 2


def test_arrays_are_for_explain():
    with pytest.raises(SalienceError, match="torch tensor as input 1; got ndarray"):
        salience.record(streams(), (IMAGE, np.ones((3, 5))))


def test_a_baseline_for_inputs_that_are_not_there():
    tape = salience.record(streams(), {"image": IMAGE, "row": ROW})
    with pytest.raises(SalienceError, match=r"baseline for \['image', 'row'\]; got \['image'\]"):
        tape.explain("integrated_gradients", target=0, baseline={"image": 0.0})
