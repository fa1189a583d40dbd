"""`Maps`: what `explain` returns, with what the maps are of and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import torch
from torch import Tensor

from salience._errors import expected, printable, unknown
from salience._inputs import batches, trees
from salience._study import ledger
from salience._study.ledger import Ledger
from salience._study.verdicts import counted
from salience._tables import html_table, text_table

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

M = TypeVar("M", covariant=True)  # a tensor, or a tuple or dict of them for such inputs
_HEAD = ("method", "shape", "largest error", "no rule for")


@dataclass(frozen=True, eq=False, repr=False)
class Maps(Mapping[str, M], Generic[M]):
    """Saliency maps by name: `maps["gradient"]` is a tensor (N, ...) shaped like the input.

    inputs      what is explained, as the model took it
    output      (N, ...) of the model
    value       (N,) of the target
    error       name -> (N,): |sum of all maps - what they start from| / |what they start from| of
                methods of relevance, |sum - (f(x) - f(x0))| / |f(x) - f(x0)| of integrated
                gradients; other methods have none
    uncovered   name -> operations that the method has no rule for, which pass by plain autograd
    parameters  name -> those of the method
    error_names name -> what `error` is: "conservation_error", "completeness_error" or
                "sampling_error"
    attrs       where the maps come from
    ledger      name -> where the relevance of its maps went, if `explain` was asked for it

    Of a tuple or dict of inputs, a map is a tuple or dict. `maps[:8]` are those of the first
    samples. A map stays a plain tensor: nothing is attached to it.

    >>> import torch, salience
    >>> maps = salience.explain(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3), "lrp_epsilon")
    >>> maps["lrp_epsilon"].shape, maps.error["lrp_epsilon"].shape, len(maps[:2].value)
    (torch.Size([4, 3]), torch.Size([4]), 2)
    """

    maps: Mapping[str, M]
    inputs: Any
    output: Tensor
    value: Tensor
    error: Mapping[str, Tensor] = field(default_factory=dict)
    uncovered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error_names: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    ledger: Mapping[str, Ledger] = field(default_factory=dict)

    @overload
    def __getitem__(self, key: str) -> M: ...
    @overload
    def __getitem__(self, key: slice) -> Maps[M]: ...
    def __getitem__(self, key: str | slice) -> M | Maps[M]:
        if isinstance(key, slice):
            return self._each(lambda tensor: tensor[key])
        if not isinstance(key, str):
            cure = 'Write maps["gradient"], or maps[:8] for the first samples.'
            raise expected("the name of a method, or a slice of samples", repr(key), cure)
        return self.maps[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def of(self, name: str) -> M:
        """The maps of a method; of an unknown name a SalienceError that suggests the nearest."""
        if name not in self.maps:
            raise unknown("method of these maps", name, self.maps)
        return self.maps[name]

    def to(self, device: str | torch.device) -> Maps[M]:
        """The maps, and what they are of, on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, function: Callable[[Tensor], Tensor]) -> Maps[M]:
        return replace(
            self,
            maps={name: at_tensors(function, held) for name, held in self.maps.items()},
            inputs=trees.each(function, self.inputs),
            output=function(self.output),
            value=function(self.value),
            error={name: function(error) for name, error in self.error.items()},
            ledger={name: own.each(function) for name, own in self.ledger.items()},
        )

    def to_xarray(self) -> xarray.Dataset:
        """The maps as a dataset: what `save` writes, and reports are made of.

        Ids have their relevance per token in `maps`, and per entry of their embedding beside it.
        """
        from salience._study.maps_file import to_xarray

        return to_xarray(self)

    def save(self, file: str | Path, *, overwrite: bool = False) -> Path:
        """Write everything to a file .nc (netCDF) or a folder .zarr; `salience.open` reads it.

        Errors: SalienceError for another ending, and for what is there unless overwrite is set.
        """
        from salience._study.files import save_maps

        return save_maps(self, Path(file), overwrite)

    def plot(self, **options: Any) -> Figure:
        """A figure: a row per sample, a column per method (`salience.plot.maps`, `.tokens`)."""
        from salience.plot._of_maps import picture

        return picture(self, **options)

    def __repr__(self) -> str:
        return "\n".join([self._line(), text_table(_HEAD, self._rows()), *self.sentences()])

    def _repr_html_(self) -> str:
        told = "".join(f"<p>{escape(line)}</p>" for line in self.sentences())
        return f"<p>{escape(self._line())}</p>{html_table(_HEAD, self._rows())}{told}"

    def sentences(self) -> list[str]:
        """Where relevance went: a sentence for each method that has a ledger."""
        return [printable(own.sentence()) for own in self.ledger.values() if len(own.target)]

    def _line(self) -> str:
        return f"Maps of {counted(len(self.value), 'input')} by {counted(len(self), 'method')}"

    def _rows(self) -> list[list[str]]:
        rows = [
            [
                name,
                ", ".join(str(tuple(t.shape)) for t in tensors_in(held)),
                self.largest_error(name),
                ", ".join(self.uncovered.get(name, ())),
            ]
            for name, held in self.maps.items()
        ]
        return [[printable(cell) for cell in row] for row in rows]

    def largest_error(self, name: str) -> str:
        """The largest error of a method's maps, in words; empty for one that has none."""
        if name not in self.error or not len(self.error[name]):
            return ""
        kind = self.error_names.get(name, "").removesuffix("_error")
        return f"{kind} {float(self.error[name].max()):.2g}".lstrip()


def at_tensors(function: Callable[[Tensor], Tensor], held: object) -> Any:
    """A map, or the maps of several inputs, with function(tensor) for each tensor."""
    if isinstance(held, Tensor):
        return function(held)
    if isinstance(held, Mapping):
        return {key: at_tensors(function, part) for key, part in held.items()}
    if isinstance(held, tuple):
        return tuple(at_tensors(function, part) for part in held)
    return held


def tensors_in(held: object) -> list[Tensor]:
    """The tensors of a map, or of the maps of several inputs."""
    found: list[Tensor] = []
    at_tensors(lambda tensor: found.append(tensor) or tensor, held)
    return found


def joined(parts: Sequence[Maps[M]]) -> Maps[M]:
    """The maps of consecutive batches as one."""
    first = parts[0]
    ledgers = {name: [part.ledger[name] for part in parts] for name in first.ledger}
    return replace(
        first,
        maps={name: batches.joined([part.maps[name] for part in parts]) for name in first.maps},
        inputs=batches.joined([part.inputs for part in parts]),
        output=batches.joined([part.output for part in parts]),
        value=batches.joined([part.value for part in parts]),
        error={name: batches.joined([part.error[name] for part in parts]) for name in first.error},
        ledger={name: ledger.joined(own) for name, own in ledgers.items()},
    )
