"""Integrated gradients: the way from the baseline in panels, halved where they miss most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from salience._inputs.targets import Scalar
from salience._inputs.validation import values_at
from salience._memory import in_parts
from salience.rules._method import Attribution, Method
from salience.rules._several_passes import Pass, copies_per_pass, in_copies, values_of

# panels to begin with, those halved at a time, gradients before an error counts: a sum that is
# right by chance says nothing of the map
FIRST, HALVED, FEWEST = 4, 2, 16


def integrated_gradients(
    tape: Pass,
    target: Scalar,
    seed: int,
    gradient: Method,
    baseline: object,
    tol: float,
    max_steps: int,
) -> Attribution:
    """(x - x0) times the mean of df/dx on the way from x0 to x, by midpoints of panels of the way.

    What the panels' maps must add up to is known, the change of f over each. Of 4 equal ones, the
    2 that miss it by most are halved, until |sum of the maps - (f(x) - f(x0))| is under
    tol |f(x) - f(x0)|, for each sample on its own; the error is that, over |f(x) - f(x0)|. Several
    inputs go from their baselines to their values together.
    """
    values = values_of(tape)
    begins = list(values_at("a baseline", baseline, tape.x, tape.leaves).values())
    change = [x - x0 for x, x0 in zip(values, begins, strict=True)]
    way = _Way(tape, target, gradient, begins, change)
    steps = min(FIRST, max_steps)
    panels = way.equal_panels(steps)
    whole = (panels.high[:, -1] - panels.low[:, 0]).abs()  # (B,)
    scale = whole.clamp(min=torch.finfo(whole.dtype).tiny)
    while True:
        error = panels.missing.sum(1).abs() / scale
        open_ = error > tol if steps >= FEWEST else torch.ones_like(error, dtype=torch.bool)
        if steps + 2 * HALVED > max_steps or not bool(open_.any()):
            break
        panels = way.halved(panels, open_)
        steps += 2 * HALVED
    return Attribution(way.maps(panels), error.to(whole.dtype))


@dataclass(frozen=True)
class _Panels:
    """Parts of the way from x0 (0) to x (1), each with the gradient at its midpoint.

    begin, end    (B, P) float64
    low, mid, high  f at the begin, the midpoint and the end (B, P)
    gradients     for each leaf (P, B, ...)
    missing       (B, P): what the sum of a panel's map is too much
    """

    begin: Tensor
    end: Tensor
    low: Tensor
    mid: Tensor
    high: Tensor
    gradients: list[Tensor]
    missing: Tensor


@dataclass(frozen=True)
class _Way:
    """From the baselines, begins, to the values of the leaves: begins + t change."""

    tape: Pass
    target: Scalar
    gradient: Method
    begins: list[Tensor]
    change: list[Tensor]

    def equal_panels(self, count: int) -> _Panels:
        """So many of one length, from x0 to x."""
        last = wide(self.target(self.tape.output).detach())  # (B,)
        edges = torch.linspace(0, 1, count + 1, dtype=torch.float64, device=last.device)
        begin, end = edges.expand(len(last), -1).unfold(1, 2, 1).unbind(2)  # (B, P)
        low = self._values_at(begin)
        gradients, mid = self._gradients_at((begin + end) / 2)
        return self._panels(
            begin, end, low, mid, torch.cat([low[:, 1:], last[:, None]], 1), gradients
        )

    def halved(self, panels: _Panels, open_: Tensor) -> _Panels:
        """The worst HALVED panels of the samples (B,) that are open, halved.

        The others have an empty panel for each, so that all samples have as many.
        """
        worst = panels.missing.abs().topk(HALVED, 1).indices  # (B, H)
        begin, end, mid, high = (
            held.gather(1, worst) for held in (panels.begin, panels.end, panels.mid, panels.high)
        )
        middle, open_ = (begin + end) / 2, open_[:, None]
        halves = torch.cat([(begin + middle) / 2, (middle + end) / 2], 1)  # (B, 2 H)
        gradients, at_halves = self._gradients_at(halves)
        between, f_between = torch.where(open_, middle, end), torch.where(open_, mid, high)
        left, right = at_halves.split(HALVED, 1)
        batch = torch.arange(len(worst), device=worst.device)
        held: list[Tensor] = []
        for own, new in zip(panels.gradients, gradients, strict=True):
            here = open_[:, 0].view(-1, *[1] * (own.ndim - 2))
            own[worst.T, batch] = torch.where(here, new[:HALVED], own[worst.T, batch])
            held.append(torch.cat([own, torch.where(here, new[HALVED:], 0)]))
        return self._panels(
            torch.cat([panels.begin, between], 1),
            torch.cat([panels.end.scatter(1, worst, between), end], 1),
            torch.cat([panels.low, f_between], 1),
            torch.cat([panels.mid.scatter(1, worst, torch.where(open_, left, mid)), right], 1),
            torch.cat([panels.high.scatter(1, worst, f_between), high], 1),
            held,
        )

    def maps(self, panels: _Panels) -> tuple[Tensor, ...]:
        """The sum of the panels' maps, for each leaf."""
        lengths = (panels.end - panels.begin).T  # (P, B)
        return tuple(
            change * (columns_of(lengths, held) * held).sum(0)
            for held, change in zip(panels.gradients, self.change, strict=True)
        )

    def _panels(
        self,
        begin: Tensor,
        end: Tensor,
        low: Tensor,
        mid: Tensor,
        high: Tensor,
        gradients: list[Tensor],
    ) -> _Panels:
        """With what their maps miss."""
        slopes = sum(
            (held * change).flatten(2).sum(2, dtype=low.dtype).T
            for held, change in zip(gradients, self.change, strict=True)
        )  # (B, P)
        missing = (end - begin) * slopes - (high - low)
        return _Panels(begin, end, low, mid, high, gradients, missing)

    def _points(self, t: Tensor) -> list[Tensor]:
        """The leaves at the fractions t (B, n) of the way, (n, B, ...) each."""
        return [
            x0 + columns_of(t.T, step[None]) * step
            for x0, step in zip(self.begins, self.change, strict=True)
        ]

    def _recorded(self, points: list[Tensor], part: slice) -> tuple[Pass, tuple[int, int]]:
        """A pass at a part of the points, and its shape (n, B)."""
        own = [values[part] for values in points]
        return self.tape.again(*(values.flatten(0, 1) for values in own)), (
            len(own[0]),
            len(self.tape.output),
        )

    def _gradients_at(self, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """df/dx of each leaf (n, B, ...), and f (B, n), at the fractions t (B, n) of the way."""
        batch, points = len(self.tape.output), self._points(t)

        def run(part: slice) -> tuple[list[Tensor], Tensor]:
            here, shape = self._recorded(points, part)
            made = here.explain_leaves(self.gradient, in_copies(self.target, batch))
            value = wide(in_copies(self.target, batch)(here.output).detach())
            return [m.unflatten(0, shape) for m in made.maps], value.view(shape)

        found = [got for _, got in in_parts(run, t.shape[1], copies_per_pass(batch))]
        maps = [torch.cat(own) for own in zip(*(maps for maps, _ in found), strict=True)]
        return maps, torch.cat([value for _, value in found]).T

    def _values_at(self, t: Tensor) -> Tensor:
        """f (B, n) at the fractions t (B, n) of the way."""
        batch, points = len(self.tape.output), self._points(t)

        def run(part: slice) -> Tensor:
            here, shape = self._recorded(points, part)
            return wide(in_copies(self.target, batch)(here.output).detach()).view(shape)

        found = [value for _, value in in_parts(run, t.shape[1], copies_per_pass(batch))]
        return torch.cat(found).T


def wide(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def columns_of(weights: Tensor, like: Tensor) -> Tensor:
    """Weights (n, B) in the type of `like` (n, B, ...), with as many axes."""
    return weights.to(like.dtype).view(*weights.shape, *[1] * (like.ndim - 2))
