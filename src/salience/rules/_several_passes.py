"""Methods that need passes of their own: what they share, and SmoothGrad.

They run batched copies of the whole batch, so that the target means the same in each copy, in parts
whose memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from salience._inputs.targets import Scalar
from salience._inputs.trees import Leaf, columns, rows
from salience._memory import in_parts
from salience.rules._method import Attribution, Method


class Pass(Protocol):
    """What these methods need of a tape."""

    x: object
    leaves: tuple[Leaf, ...]
    output: Tensor
    again: Callable[..., Pass]

    def explain_leaves(self, method: Method, target: Scalar, /) -> Attribution: ...


SAMPLES_PER_PASS = 16  # unless the batch itself is larger


def values_of(tape: Pass) -> list[Tensor]:
    return [leaf.tensor.detach() for leaf in tape.leaves]


def copies_per_pass(batch: int) -> int:
    return max(1, SAMPLES_PER_PASS // max(1, batch))


def in_copies(target: Scalar, batch: int) -> Scalar:
    """The target for an output that holds several copies of the batch, one after the other."""
    return lambda out: torch.cat([target(part) for part in out.split(max(1, batch))])


def _summed(tape: Pass, method: Method, target: Scalar, copies: Sequence[Tensor]) -> list[Tensor]:
    """The sums of a method's maps over copies (copies, B, ...) of the batch, for each leaf, then
    the sums of their squares over copies and entries (B,)."""
    batch = len(tape.output)
    noisy = tape.again(*(copy.flatten(0, 1) for copy in copies))
    maps = noisy.explain_leaves(method, in_copies(target, batch)).maps
    each = [m.unflatten(0, (len(copy), batch)) for m, copy in zip(maps, copies, strict=True)]
    return [*(m.sum(0) for m in each), *(_squares(m).sum(0) for m in each)]


def _squares(maps: Tensor) -> Tensor:
    """(..., B, *) -> (..., B): sums of squares, in float32 at least."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return wide.square().flatten(2).sum(2) if maps.ndim > 2 else wide.square()


def smoothgrad(
    tape: Pass, target: Scalar, seed: int, base: Method, n: int, noise: float
) -> Attribution:
    """Mean over n draws of the base method's map at x + s e, s = noise (max x - min x) per sample.

    Each input has the s of its own range. All samples share the draws e, so that a map does not
    depend on what else is in the batch; they come from a CPU generator, so that it does not depend
    on the device either. The error of the mean, per sample, is the root of the sum over entries of
    variance / n, over the root of the sum of squares of the map: NaN for one draw.
    """
    values, batch = values_of(tape), len(tape.output)
    spreads = [columns(noise * (rows(x).amax(1) - rows(x).amin(1)), x) for x in values]
    generator = torch.Generator().manual_seed(seed)
    states: dict[int, Tensor] = {0: generator.get_state()}

    def part_sum(part: slice) -> list[Tensor]:
        generator.set_state(states[part.start])
        count = part.stop - part.start
        draws = [[_normal(x.shape[1:], generator) for x in values] for _ in range(count)]
        states[part.stop] = generator.get_state()
        steps = [torch.stack(own)[:, None] for own in zip(*draws, strict=True)]
        noisy = [
            x + step.to(x) * s for x, step, s in zip(values, steps, spreads, strict=True)
        ]  # (copies, B, ...)
        return _summed(tape, base, target, noisy)

    sums: list[Tensor] = []
    for _, found in in_parts(part_sum, int(n), copies_per_pass(batch)):
        sums = [a.add_(b) for a, b in zip(sums, found, strict=True)] if sums else found
    totals, squares = sums[: len(values)], torch.stack(sums[len(values) :]).sum(0)
    maps = tuple(total / n for total in totals)
    size = torch.stack([_squares(map[None])[0] for map in maps]).sum(0)  # (B,)
    variance = (squares - n * size).clamp(min=0) / (n - 1) if n > 1 else torch.nan * size
    return Attribution(maps, (variance / n / size).sqrt())


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
