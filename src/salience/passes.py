"""Methods that need passes of their own: SmoothGrad and integrated gradients.

Both run batched copies of the whole batch, so that the target means the same in each copy, in parts
whose memory is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from salience.checks import values_like
from salience.memory import in_parts
from salience.targets import Scalar


class Pass(Protocol):
    """What these methods need of a tape."""

    x: Tensor
    output: Tensor
    again: Callable[[Tensor], Pass]

    def explain(self, method: Any, target: Any = ..., /) -> Tensor: ...


SAMPLES_PER_PASS = 16  # unless the batch itself is larger


def _copies_per_pass(x: Tensor) -> int:
    return max(1, SAMPLES_PER_PASS // max(1, len(x)))


def _in_copies(target: Scalar, batch: int) -> Scalar:
    """The target for an output that holds several copies of the batch, one after the other."""
    return lambda out: torch.cat([target(part) for part in out.split(max(1, batch))])


def smoothgrad(tape: Pass, target: Scalar, seed: int, base: Any, n: int, noise: float) -> Tensor:
    """Mean over n draws of the base method's map at x + s e, s = noise (max x - min x) per sample.

    All samples share the draws e, so that a map does not depend on what else is in the batch; they
    come from a CPU generator, so that it does not depend on the device either.
    """
    x = tape.x
    flat = x.flatten(1)
    spread = noise * (flat.amax(1) - flat.amin(1)).view(-1, *(1,) * (x.ndim - 1))  # (B, 1, ...)
    generator = torch.Generator().manual_seed(seed)
    states: dict[int, Tensor] = {0: generator.get_state()}
    total = torch.zeros_like(x)

    def part_sum(part: slice) -> Tensor:
        generator.set_state(states[part.start])
        count = part.stop - part.start
        draws = [_normal(x.shape[1:], generator) for _ in range(count)]
        states[part.stop] = generator.get_state()
        steps = torch.stack(draws).to(x)[:, None] * spread  # (copies, B, ...)
        noisy = tape.again((x + steps).flatten(0, 1))
        maps = noisy.explain(base, _in_copies(target, len(x)))
        return maps.unflatten(0, (count, len(x))).sum(0)

    for _, maps in in_parts(part_sum, int(n), _copies_per_pass(x)):
        total += maps
    return total / n


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def integrated_gradients(
    tape: Pass, target: Scalar, seed: int, baseline: Any, tol: float, max_steps: int
) -> Tensor:
    """(x - x0) times the mean of df/dx at x0 + t (x - x0), t the midpoints of equal steps.

    The steps are doubled until |sum of the map - (f(x) - f(x0))| is under tol |f(x) - f(x0)|, for
    each sample on its own. The map carries that error as `completeness_error` (B,).
    """
    x = tape.x
    x0 = values_like("a baseline", baseline, x)
    difference = target(tape.output) - target(tape.again(x0.contiguous()).output)  # (B,)
    maps, error = torch.zeros_like(x), torch.full_like(difference, torch.inf)
    steps = min(16, max_steps)
    while True:
        refined = (x - x0) * _mean_gradient(tape, target, x0, steps)
        missing = (refined.flatten(1).sum(1) - difference).abs()
        scale = difference.abs().clamp(min=torch.finfo(x.dtype).tiny)
        open_ = error > tol
        maps = torch.where(open_.view(-1, *(1,) * (x.ndim - 1)), refined, maps)
        error = torch.where(open_, missing / scale, error)
        if steps * 2 > max_steps or not bool((error > tol).any()):
            break
        steps *= 2
    maps.completeness_error = error  # type: ignore[attr-defined]
    return maps


def _mean_gradient(tape: Pass, target: Scalar, x0: Tensor, steps: int) -> Tensor:
    """The mean of df/dx over the midpoints of equal steps from x0 to x."""
    x = tape.x
    midpoints = (torch.arange(steps, device=x.device, dtype=torch.float64) + 0.5) / steps
    midpoints = midpoints.to(x.dtype).view(-1, *(1,) * x.ndim)  # (steps, 1, ...)

    def part_sum(part: slice) -> Tensor:
        between = (x0 + midpoints[part] * (x - x0)).flatten(0, 1)
        maps = tape.again(between).explain("gradient", _in_copies(target, len(x)))
        return maps.unflatten(0, (part.stop - part.start, len(x))).sum(0)

    total = torch.zeros_like(x)
    for _, maps in in_parts(part_sum, steps, _copies_per_pass(x)):
        total += maps
    return total / steps
