"""All methods on whole data sets: batches in, one map per sample out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np
from torch import Tensor

from salience._inputs import trees
from salience._inputs.batches import batches, no_batches, to_device_of
from salience._inputs.targets import Part, Target, rows_of
from salience._inputs.trees import Inputs, Model, X
from salience._inputs.validation import check_input, checked_model, whole_number
from salience._memory import in_parts
from salience._recording.linear_maps import Weights
from salience._recording.run import checked_pass
from salience._study.maps import Maps, joined
from salience._tape.maps import maps_of, warn_incomplete
from salience._tape.tape import Tape
from salience.rules._table import Method, Methods, choose

if TYPE_CHECKING:
    from tqdm import tqdm

SAMPLES_PER_PASS = 16


@overload
def explain(
    model: Model,
    x: Tensor | np.ndarray,
    methods: Methods | None = None,
    target: Target = "argmax",
    *,
    batch_size: int | None = None,
    seed: int = 0,
    output: Part = None,
    strict: bool = False,
    ledger: bool = False,
    progress: bool = False,
) -> Maps[Tensor]: ...
@overload
def explain(
    model: Model,
    x: Any,
    methods: Methods | None = None,
    target: Target = "argmax",
    *,
    batch_size: int | None = None,
    seed: int = 0,
    output: Part = None,
    strict: bool = False,
    ledger: bool = False,
    progress: bool = False,
) -> Maps[Any]: ...
def explain(
    model: Model,
    x: Any,
    methods: Methods | None = None,
    target: Target = "argmax",
    *,
    batch_size: int | None = None,
    seed: int = 0,
    output: Part = None,
    strict: bool = False,
    ledger: bool = False,
    progress: bool = False,
) -> Maps[Any]:
    """Maps of every sample by every method, one recorded pass per batch.

    model       a module in eval mode, or any function of tensors
    x           a tensor, array or table (N, ...); a tuple of them for model(*x), a dict for
                model(**x); or an iterable of batches (a list, a DataLoader): of a batch (inputs,
                labels) the first part is used, a dict whole; batches go to the model's device, and
                float64 becomes the dtype of the model's weights, with a warning
    methods     names in `salience.methods` or methods with parameters of their own, such as
                `salience.rules.lrp_epsilon(eps=1e-2)`; a dict names them: {"coarse": ...}; by
                default all that apply (with a warning about others)
    target      which scalar of the output: see the README; lists count over all samples
    batch_size  samples per recorded pass (default: 16 of a tensor, or the iterable's own
                batches); halved when memory runs out, with the same result
    seed        of the random draws of SmoothGrad
    output      which part to explain where the model returns a tuple or a dict: a key, a position,
                or a path such as (0, "logits")
    strict      raise where a method has no rule for an operation
    ledger      say where the relevance of LRP, deep Taylor and excitation backprop went: the
                entries of `maps.ledger[name]` add up to what the maps start from
    progress    show a progress bar

    Returns `Maps`: {method: (N, ...)} on the device of x, with the errors of their sums, the
    outputs and what has no rule; a tuple or dict of maps for a tuple or dict of inputs, and for
    integer ids their map at the embedding, as for `Tape.explain`.

    Errors: SalienceError, as for `salience.record` and `Tape.explain`.

    >>> import torch, salience
    >>> maps = salience.explain(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3), ["gradient"])
    >>> maps["gradient"].shape
    torch.Size([4, 3])

    >>> x = {"input1": torch.ones(4, 3), "input2": torch.ones(4, 5)}
    >>> maps = salience.explain(torch.nn.Bilinear(3, 5, 2).eval(), x, ["gradient"])
    >>> maps["gradient"]["input2"].shape
    torch.Size([4, 5])
    """
    return explained(
        model,
        x,
        choose(methods),
        target,
        batch_size=batch_size,
        seed=seed,
        output=output,
        strict=strict,
        ledger=ledger,
        progress=progress,
        skip=methods is None,
    )


def explained(
    model: Model,
    x: object,
    methods: list[Method],
    target: Target,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    output: Part = None,
    strict: bool = False,
    ledger: bool = False,
    progress: bool = False,
    skip: bool = False,
) -> Maps[Any]:
    """`explain`, of chosen methods; skip: leave out those that do not apply, with a warning."""
    if batch_size is not None:
        whole_number("a batch size", batch_size, 1, "The default is 16.")
    whole_number("seed", seed, 0, "The default is 0.")
    model = checked_model(model)
    weights, left = Weights(), list(methods)
    results: list[Maps[Any]] = []
    with _bar(progress, len(methods)) as bar:
        for batch, first, total in batches(model, x):
            bar.total = total

            def run(
                part: slice, batch: Inputs = batch, first: int = first, total: int | None = total
            ) -> Maps[Any]:
                rows = slice(first + part.start, first + part.stop)
                given = _some(batch, part)
                here = to_device_of(model, given)
                check_input(model, here)
                tape = Tape(checked_pass(model, here, output, weights, given=batch))
                wanted = rows_of(target, rows, total, tape.output)
                own = [_of_rows(method, rows, total, tape) for method in left]
                maps = maps_of(
                    tape,
                    own,
                    wanted,
                    seed=seed,
                    strict=strict,
                    ledger=ledger,
                    skip=skip,
                    tell=not results,
                    say=bar.set_postfix_str,
                )
                left[:] = [method for method in left if method.name in maps]
                bar.update(len(tape.output))
                maps = replace(maps, inputs=given)  # which need not come back from the device
                return maps.to(trees.tensors_of(batch)[0].device)

            count = trees.samples_of(batch)
            size = batch_size or (count if total is None else SAMPLES_PER_PASS)
            results.extend(maps for _, maps in in_parts(run, max(1, count), size))
    if not results:
        raise no_batches()
    found = replace(joined(results), parameters={m.name: m.parameters for m in left})
    for method in left:
        warn_incomplete(method, found.error.get(method.name))
    return found


def _bar(progress: bool, count: int) -> tqdm[NoReturn]:
    from tqdm import tqdm

    return tqdm(disable=not progress, unit="input", desc=f"{count} methods")


def _of_rows(method: Method, rows: slice, total: int | None, tape: Tape) -> Method:
    """The method for some of the samples: of a parameter for each, such as a baseline (N, ...),
    their part."""
    dimensions = {leaf.tensor.ndim for leaf in tape.leaves}

    def part(value: Any) -> Any:
        if isinstance(value, Method):
            return _of_rows(value, rows, total, tape)
        if isinstance(value, Mapping):
            return {key: part(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(map(part, value))
        each = isinstance(value, Tensor | np.ndarray) and value.ndim in dimensions
        return value[rows] if each and len(value) == total != 1 else value

    given = {name: part(value) for name, value in method.parameters.items()}
    changed = any(given[name] is not value for name, value in method.parameters.items())
    return method.having(**given) if changed else method


def _some(batch: X, part: slice) -> X:
    """The samples of a slice; inputs of other lengths are left to the check that names them."""
    return trees.each(lambda tensor: tensor[part], batch)
