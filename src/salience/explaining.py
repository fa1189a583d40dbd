"""All methods on whole data sets: batches in, one map per sample out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salience.checks import check_input, check_model, check_output
from salience.errors import NotApplicable, SalienceWarning, expected, unknown
from salience.linear import Weights
from salience.memory import in_parts
from salience.methods import Method, find
from salience.methods import methods as registry
from salience.tape import run_pass
from salience.targets import Target, rows_of

SAMPLES_PER_PASS = 16
ERRORS = ("conservation_error", "completeness_error")
Maps = dict[str, Tensor]


def explain(
    model: Callable[..., Any],
    x: Tensor | np.ndarray[Any, Any] | Iterable[Any],
    methods: str | Method | Sequence[str | Method] | None = None,
    target: Target = "argmax",
    *,
    batch_size: int | None = None,
    seed: int = 0,
    output: str | int | None = None,
    strict: bool = False,
    progress: bool = False,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> Maps:
    """Maps of every sample by every method, one recorded pass per batch.

    model       a module in eval mode, or any function of one tensor
    x           a tensor or array (N, ...), or an iterable of batches (a DataLoader; of a batch
                (inputs, labels) the first part is used); batches go to the model's device
    methods     names in `salience.methods`; by default all that apply (with a warning about others)
    target      which scalar of the output: see `salience.targets`; lists count over all samples
    batch_size  samples per recorded pass (default: 16 of a tensor, or the iterable's own
                batches); halved when memory runs out, with the same result
    seed        of the random draws of SmoothGrad
    output      which part to explain where the model returns a tuple or a dict
    strict      raise where a method has no rule for an operation
    progress    show a progress bar
    parameters  per method, for example {"lrp_epsilon": {"eps": 1e-2}}

    Returns {method: (N, ...)} on the device of x. Maps of relevance methods carry
    `conservation_error` (N,), integrated gradients `completeness_error` (N,).

    Errors: SalienceError, as for `salience.record` and `Tape.explain`.

    >>> import torch, salience
    >>> maps = salience.explain(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3), ["gradient"])
    >>> maps["gradient"].shape
    torch.Size([4, 3])
    """
    chosen = choose(methods)
    given = dict(parameters or {})
    for name in given:
        if name not in {method.name for method in chosen}:
            raise unknown("method to give parameters to", name, [m.name for m in chosen])
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise expected("a whole batch size of at least 1", repr(batch_size), "The default is 16.")
    check_model(model)
    weights = Weights()
    results: list[Maps] = []
    with _bar(progress, x, len(chosen)) as bar:
        for batch, first, total in _batches(x):

            def run(
                part: slice, batch: Tensor = batch, first: int = first, total: Any = total
            ) -> Maps:
                rows = slice(first + part.start, first + part.stop)
                here = _to_model(model, batch[part])
                check_input(model, here)
                tape = run_pass(model, here, output, weights)
                check_output(tape.x, tape.output, tape.depends_on_input)
                wanted = rows_of(target, rows, total, tape.output)
                maps = {}
                for method in chosen:
                    bar.set_postfix_str(method.name)
                    own = _rows_of_parameters(given.get(method.name, {}), rows, total, here)
                    try:
                        made = tape.explain(method, wanted, seed=seed, strict=strict, **own)
                    except NotApplicable as error:
                        if methods is not None:
                            raise
                        warnings.warn(f"{method.name} is left out: {error}", SalienceWarning, 3)
                        continue
                    maps[method.name] = made
                bar.update(len(here))
                return {name: _moved(m, batch.device) for name, m in maps.items()}

            size = batch_size or (len(batch) if total is None else SAMPLES_PER_PASS)
            results.extend(maps for _, maps in in_parts(run, max(1, len(batch)), size))
    if not results:
        raise expected("at least one batch", "an iterable without any", "Is it used up already?")
    return {name: _joined([maps[name] for maps in results]) for name in results[0]}


def choose(methods: str | Method | Sequence[str | Method] | None) -> list[Method]:
    """The methods meant by a name, a list of names, or None for all."""
    if methods is None:
        return list(registry.values())
    if isinstance(methods, str | Method):
        methods = [methods]
    return [find(method) for method in methods]


def _bar(progress: bool, x: Any, count: int) -> Any:
    from tqdm import tqdm

    total = len(x) if isinstance(x, Tensor | np.ndarray) and x.ndim else None
    return tqdm(total=total, disable=not progress, unit="input", desc=f"{count} methods")


def _batches(x: Any) -> Iterator[tuple[Tensor, int, int | None]]:
    """Tensors with the number of their first sample, and of all samples where it is known."""
    if isinstance(x, Tensor | np.ndarray):
        tensor = _tensor(x)
        if not tensor.ndim:
            raise expected("an input (B, ...)", "()", "Add a batch dimension: x[None].")
        yield tensor, 0, len(tensor)
        return
    if isinstance(x, str | bytes | Mapping) or not isinstance(x, Iterable):
        raise expected(
            "a tensor, an array or an iterable of batches", type(x).__name__,
            "Load the data first, for example with numpy.load.",
        )  # fmt: skip
    first = 0
    for item in x:
        batch = item[0] if isinstance(item, list | tuple) else item
        if not isinstance(batch, Tensor | np.ndarray):
            got = type(batch).__name__
            raise expected("batches that are tensors, or start with one", got, "Stack the samples.")
        tensor = _tensor(batch)
        yield tensor, first, None
        first += len(tensor)


def _tensor(data: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """A tensor of any array: read-only, reversed and big-endian ones are copied."""
    if isinstance(data, np.ndarray):
        native = data.astype(data.dtype.newbyteorder("="), copy=not data.flags.writeable)
        return torch.from_numpy(np.ascontiguousarray(native))
    return data


def _rows_of_parameters(
    given: Mapping[str, Any], rows: slice, total: int | None, x: Tensor
) -> dict[str, Any]:
    """Parameters given for every sample, such as a baseline (N, ...), for some of them."""

    def part(value: Any) -> Any:
        each = isinstance(value, Tensor | np.ndarray) and value.ndim == x.ndim
        return value[rows] if each and len(value) == total != 1 else value

    return {name: part(value) for name, value in given.items()}


def _to_model(model: Any, batch: Tensor) -> Tensor:
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return batch if parameter is None else batch.to(parameter.device)


def _moved(maps: Tensor, device: torch.device) -> Tensor:
    moved = maps.to(device)
    _carry(moved, [maps])
    return moved


def _joined(parts: list[Tensor]) -> Tensor:
    whole = torch.cat(parts)
    _carry(whole, parts)
    return whole


def _carry(to: Tensor, parts: list[Tensor]) -> None:
    """The errors that maps carry, onto the tensor made from them."""
    for name in ERRORS:
        if hasattr(parts[0], name):
            setattr(to, name, torch.cat([getattr(part, name).to(to.device) for part in parts]))
