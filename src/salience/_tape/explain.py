"""All methods on whole data sets: batches in, one map per sample out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salience._errors import NotApplicable, SalienceWarning, expected, unknown
from salience._inputs import trees
from salience._inputs.batches import batches
from salience._inputs.targets import Part, Target, rows_of
from salience._inputs.validation import check_input, checked_model, listed, whole_number
from salience._memory import in_parts
from salience._names import ERRORS
from salience._recording.linear_maps import Weights
from salience._recording.run import checked_pass
from salience._tape.tape import Tape
from salience.rules._table import Method, find
from salience.rules._table import methods as registry

SAMPLES_PER_PASS = 16
Maps = dict[str, Any]  # a tensor, or a tuple or dict of tensors, for each method


def explain(
    model: Callable[..., Any],
    x: Any,
    methods: str | Method | Sequence[str | Method] | None = None,
    target: Target = "argmax",
    *,
    batch_size: int | None = None,
    seed: int = 0,
    output: Part = None,
    strict: bool = False,
    progress: bool = False,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> Maps:
    """Maps of every sample by every method, one recorded pass per batch.

    model       a module in eval mode, or any function of tensors
    x           a tensor, array or table (N, ...); a tuple of them for model(*x), a dict for
                model(**x); or an iterable of batches (a list, a DataLoader): of a batch (inputs,
                labels) the first part is used, a dict whole; batches go to the model's device, and
                float64 becomes the dtype of the model's weights, with a warning
    methods     names in `salience.methods`; by default all that apply (with a warning about others)
    target      which scalar of the output: see the README; lists count over all samples
    batch_size  samples per recorded pass (default: 16 of a tensor, or the iterable's own
                batches); halved when memory runs out, with the same result
    seed        of the random draws of SmoothGrad
    output      which part to explain where the model returns a tuple or a dict: a key, a position,
                or a path such as (0, "logits")
    strict      raise where a method has no rule for an operation
    progress    show a progress bar
    parameters  per method, for example {"lrp_epsilon": {"eps": 1e-2}}

    Returns {method: (N, ...)} on the device of x; a tuple or dict of maps for a tuple or dict of
    inputs, and for integer ids their map at the embedding, as for `Tape.explain`. Maps of relevance
    methods carry `conservation_error` (N,), integrated gradients `completeness_error` (N,).

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
    chosen, given = choose(methods), dict(parameters or {})
    _check_options(chosen, given, batch_size)
    whole_number("seed", seed, 0, "The default is 0.")
    model = checked_model(model)
    weights = Weights()
    results: list[Maps] = []
    with _bar(progress, len(chosen)) as bar:
        for batch, first, total in batches(model, x):
            bar.total = total

            def run(
                part: slice, batch: Any = batch, first: int = first, total: Any = total
            ) -> Maps:
                rows = slice(first + part.start, first + part.stop)
                here = _to_model(model, _some(batch, part))
                check_input(model, here)
                tape = Tape(checked_pass(model, here, output, weights, given=batch))
                wanted = rows_of(target, rows, total, tape.output)
                maps = {}
                for method in chosen:
                    bar.set_postfix_str(method.name)
                    own = _rows_of_parameters(given.get(method.name, {}), rows, total, tape)
                    try:
                        maps[method.name] = tape.explain(
                            method, wanted, seed=seed, strict=strict, **own
                        )
                    except NotApplicable as error:
                        _leave_out(method, error, asked=methods is not None)
                bar.update(len(tape.output))
                device = trees.tensors_of(batch)[0].device
                return {name: _joined([m], device) for name, m in maps.items()}

            count = trees.samples_of(batch)
            size = batch_size or (count if total is None else SAMPLES_PER_PASS)
            results.extend(maps for _, maps in in_parts(run, max(1, count), size))
    if not results:
        raise expected("at least one batch", "an iterable without any", "Is it used up already?")
    return {name: _joined([maps[name] for maps in results]) for name in results[0]}


def choose(methods: str | Method | Sequence[str | Method] | None) -> list[Method]:
    """The methods meant by a name, a list of names, or None for all."""
    if methods is None:
        return list(registry.values())
    names = [methods] if isinstance(methods, Method) else listed("methods", methods, registry)
    return [find(method) for method in names]


def _check_options(chosen: list[Method], given: Mapping[str, Any], batch_size: Any) -> None:
    for name in given:
        if name not in {method.name for method in chosen}:
            raise unknown("method to give parameters to", name, [m.name for m in chosen])
    if batch_size is not None:
        whole_number("a batch size", batch_size, 1, "The default is 16.")


def _leave_out(method: Method, error: NotApplicable, asked: bool) -> None:
    if asked:
        raise error
    warnings.warn(f"{method.name} is left out: {error}", SalienceWarning, 6)


def _bar(progress: bool, count: int) -> Any:
    from tqdm import tqdm

    return tqdm(disable=not progress, unit="input", desc=f"{count} methods")


def _rows_of_parameters(
    given: Mapping[str, Any], rows: slice, total: int | None, tape: Tape
) -> dict[str, Any]:
    """Parameters given for every sample, such as a baseline (N, ...), for some of them."""
    dimensions = {leaf.tensor.ndim for leaf in tape.leaves}

    def part(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: part(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(map(part, value))
        each = isinstance(value, Tensor | np.ndarray) and value.ndim in dimensions
        return value[rows] if each and len(value) == total != 1 else value

    return {name: part(value) for name, value in given.items()}


def _some(batch: Any, part: slice) -> Any:
    """The samples of a slice; inputs of other lengths are left to the check that names them."""
    return trees.each(lambda tensor: tensor[part], batch)


def _to_model(model: Any, batch: Any) -> Any:
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return batch if parameter is None else trees.each(lambda t: t.to(parameter.device), batch)


def _joined(parts: list[Any], device: torch.device | None = None) -> Any:
    """The maps of all batches as one, with the errors that they carry."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in parts], device) for key in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(column), device) for column in zip(*parts, strict=True))
    if first is None:
        return None
    if len({part.shape[1:] for part in parts}) > 1:
        raise expected(
            "batches whose maps have one shape", f"{sorted({tuple(p.shape[1:]) for p in parts})}",
            "Pad all inputs to one length, or explain the batches one by one.",
        )  # fmt: skip
    whole = torch.cat(parts).to(device or first.device)
    for name in ERRORS:
        if hasattr(first, name):
            errors = [getattr(part, name) for part in parts]
            setattr(whole, name, torch.cat(errors).to(whole.device))
    return whole
