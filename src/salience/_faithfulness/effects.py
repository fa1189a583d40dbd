"""What removing parts of an input does to the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from salience._faithfulness.grid import Grid
from salience._faithfulness.replacements import Replace
from salience._faithfulness.subject import Subject
from salience._inputs.targets import Scalar
from salience._memory import in_parts
from salience._randomization.weights import stream

_SETS = 1 << 21  # a branch of the random streams that no stage uses

Masks = Callable[[slice], Tensor]  # of some of the masks: (K, *space), or (K, B, *space)


@dataclass(frozen=True)
class Passes:
    """The target of some samples once parts of them are replaced.

    scalar   outputs of the batch (B, ...) -> (B,)
    replace  for each of the subject's values
    size     samples per pass; a pass holds whole copies of the batch
    done     is told how many samples have gone through the network
    """

    subject: Subject
    scalar: Scalar
    grid: Grid
    replace: list[Replace]
    size: int
    done: Callable[[int], object]

    @property
    def batch(self) -> int:
        """Samples."""
        return len(self.subject.values[0])

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.subject.values[0].device

    def untouched(self) -> Tensor:
        """The target as it is, (B,) float64, of a pass like all others."""
        none = torch.zeros(1, *self.grid.space, dtype=torch.bool, device=self.device)
        return self.targets(lambda part: none, 1)[:, 0]

    def emptied(self) -> list[Tensor]:
        """The values with everything replaced, (B, C, *space) each."""
        every = torch.ones(1, *self.grid.space, dtype=torch.bool, device=self.device)
        pairs = zip(self.subject.values, self.replace, strict=True)
        return [put(values, every).expand(1, *values.shape)[0] for values, put in pairs]

    def targets(self, masks: Masks, count: int) -> Tensor:
        """The target once the positions of each of so many masks are replaced, (B, count)."""

        def run(part: slice) -> Tensor:
            found = masks(part)
            pairs = zip(self.subject.values, self.replace, strict=True)
            new = [put(values, found).expand(len(found), *values.shape) for values, put in pairs]
            out = self.subject.outputs([values.flatten(0, 1) for values in new])
            self.done(len(out))
            return torch.stack([self.scalar(copy).double() for copy in out.split(self.batch)], 1)

        parts = in_parts(run, count, max(1, self.size // self.batch))
        return torch.cat([values.detach() for _, values in parts], 1)


def effects_of_windows(passes: Passes, value: Tensor) -> Tensor:
    """f(x) - f(x without one cell's window), (B, cells)."""
    grid, device = passes.grid, passes.device
    return value[:, None] - passes.targets(lambda p: grid.windows(p, device), grid.count)


def effects_of_sets(passes: Passes, value: Tensor, sets: Tensor) -> Tensor:
    """f(x) - f(x without a set of cells), (B, sets), of sets (sets, cells) of bools."""
    grid, sets = passes.grid, sets.to(passes.device)
    return value[:, None] - passes.targets(lambda p: grid.positions(sets[p]), len(sets))


def curves(passes: Passes, order: Tensor, steps: int) -> Tensor:
    """f(x without the first k cells of an order), (B, steps), k = cells j / steps, j = 1 ... steps.

    order: (B, cells), the numbers of the cells
    """
    grid = passes.grid
    place = torch.empty_like(order).scatter_(1, order, _places(order))  # of each cell
    ends = [round(grid.count * j / steps) for j in range(1, steps + 1)]
    most = torch.tensor(ends, device=order.device)

    def masks(part: slice) -> Tensor:
        return grid.positions(place < most[part, None, None])  # (K, B, *space)

    return passes.targets(masks, steps)


def _places(order: Tensor) -> Tensor:
    return torch.arange(order.shape[1], device=order.device).expand_as(order)


def random_sets(cells: int, count: int, share: float, seed: int) -> Tensor:
    """Distinct random sets of one size, at most so many, (sets, cells) of bools.

    Of one size, so that no map scores by telling large sets from small ones.
    """
    generator = stream(seed, _SETS)  # small seeds alone start alike
    draws = torch.rand(count, cells, generator=generator, dtype=torch.float64, device="cpu")
    size = min(max(1, round(share * cells)), cells)
    chosen = draws.argsort(1)[:, :size]
    return torch.zeros(count, cells, dtype=torch.bool).scatter_(1, chosen, True).unique(dim=0)
