"""Maps that are scored, as their sums over cells: methods, controls, and maps that were given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from salience._errors import expected
from salience._faithfulness.grid import Grid
from salience._faithfulness.scores import SIGNS, at_places
from salience._faithfulness.subject import channels_second
from salience._inputs.trees import Leaf, tensor_of
from salience._randomization import controls

# what scores keep of a map: (what is summed over, sign) -> (B, K) float64, or (PLACES, how) -> (B,)
Sums = dict[tuple[str, str], Tensor]
WINDOWS, CELLS, PLACES = "windows", "cells", "places"


@dataclass(frozen=True)
class Surface:
    """Where maps are summed.

    grid     cells of the positions
    leaves   of a pass, which say where the channels of a map are
    heights  (B, *space) the mean |effect| of the windows over each position, where it is known
    """

    grid: Grid
    leaves: Sequence[Leaf]
    heights: Tensor | None

    def sums(self, maps: Sequence[Tensor]) -> Sums:
        """The sums of one map per leaf; of tokens, the relevance of each is one number."""
        found = [
            channels_second(m, leaf.embedded) for m, leaf in zip(maps, self.leaves, strict=True)
        ]
        signed = torch.stack([m.double().sum(1) for m in found]).sum(0)  # (B, *space)
        tokens = self.leaves[0].embedded
        absolute = signed.abs() if tokens else found[0].double().abs().sum(1)
        return self._of(signed, absolute)

    def sums_of_given(self, given: Tensor) -> Sums:
        """The sums of a map of anybody's: (B, C, *space), or (B, *space) without channels."""
        space, embedded = self.grid.space, self.leaves[0].embedded
        if given.shape[1:] == space:
            signed = given.double()
            return self._of(signed, signed.abs())
        like = self.leaves[0].tensor.shape[2:] if not embedded else None
        wide = given[..., 0].shape[1:] == space if embedded else given.shape[2:] == like
        if given.ndim != len(space) + 2 or not wide:
            raise expected(
                f"maps (N, {', '.join(map(str, space))}) or with channels like the input's",
                f"{tuple(given.shape)}",
                "Resize them to the input.",
            )
        parts = channels_second(given, embedded).double()
        signed = parts.sum(1)
        return self._of(signed, signed.abs() if embedded else parts.abs().sum(1))

    def effects(self, effects: Tensor) -> Sums:
        """What occlusion tells: the effects (B, cells) themselves."""
        assert self.heights is not None
        pair = {"signed": effects, "absolute": effects.abs()}
        found = {(over, sign): pair[sign] for over in (WINDOWS, CELLS) for sign in SIGNS}
        return found | self._at_places(self.heights)

    def controls(self, seed: int, first: int) -> dict[str, Sums]:
        """Maps that know nothing of the network; first: the number of the first sample."""
        values = [leaf.tensor.detach() for leaf in self.leaves]
        noise = [controls.random_maps(v, seed, number, first) for number, v in enumerate(values)]
        found = {"input": self.sums(values), "random_map": self.sums(noise)}
        if not self.leaves[0].embedded and "edges" in (fixed := controls.unchanging(values[0])):
            found["edges"] = self.sums([fixed["edges"]])
        return found

    def _of(self, signed: Tensor, absolute: Tensor) -> Sums:
        over = {WINDOWS: self.grid.in_windows, CELLS: self.grid.in_cells}
        pair = {"signed": signed, "absolute": absolute}
        found = {(name, sign): add(pair[sign]) for name, add in over.items() for sign in SIGNS}
        return found | self._at_places(absolute)

    def _at_places(self, absolute: Tensor) -> Sums:
        if self.heights is None:
            return {}
        found = at_places(absolute.flatten(1), self.heights.flatten(1))
        return {(PLACES, how): values for how, values in found.items()}


def given_maps(given: object, samples: int) -> dict[str, Tensor]:
    """The maps among what was given by name, (N, ...) each.

    Errors: SalienceError for another number of maps than of samples.
    """
    if not isinstance(given, Mapping):
        return {}
    found: dict[str, Tensor] = {}
    for name, held in given.items():
        if _is_map(held):
            maps = tensor_of(held).detach()
            if maps.ndim < 2 or len(maps) != samples:
                got = f"{tuple(maps.shape)} of {name}"
                raise expected(
                    f"{samples} maps, one per sample", got, "Give those of these inputs."
                )
            found[str(name)] = maps
    return found


def _is_map(held: Any) -> bool:
    return isinstance(held, Tensor) or hasattr(held, "__array__")
