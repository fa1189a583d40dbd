"""Maps of a network on its way to random weights, compared with the trained network's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from salience import _names as names
from salience._errors import NotApplicable, SalienceWarning, expected
from salience._inputs import trees
from salience._inputs.targets import Part, Target, resolve, rows_of
from salience._names import ERRORS
from salience._randomization import controls as control
from salience._randomization.cascade import ordered_stages, randomized_tapes
from salience._randomization.options import Cascade
from salience._recording.run import checked_pass
from salience._scores.similarity import Similarity, similarities
from salience._study.stages import evenly_spread
from salience._tape.tape import Tape
from salience._tape.together import as_one, check_shown, numbers, shown, some, values_of
from salience.rules._table import Method

if TYPE_CHECKING:
    import xarray

SMOOTH_DRAWS = 10  # noisy copies that the maps of kind="smooth" are averaged over

Scores = dict[str, np.ndarray[Any, Any]]


class Comparison:
    """One test: what is compared with what, and where the scores go."""

    def __init__(
        self,
        model: Callable[..., Any],
        cascade: Cascade,
        methods: list[Method],
        scores: Mapping[str, Similarity],
        controls: bool,
        parameters: Mapping[str, Mapping[str, Any]],
        smooth: bool = False,
        skip: bool = False,
        output: Part = None,
    ) -> None:
        self.model, self.cascade, self.methods = model, cascade, methods
        self.scores, self.smooth = scores, smooth
        self.output = output
        self.skip = skip  # methods that do not apply, with a warning
        self.repeats, self.controls, self.parameters = cascade.repeats, controls, parameters
        self.fixed: list[str] = []  # controls
        self.keep_maps = 0
        self.scored: list[int] = []
        self.stage_names: list[str] = []
        self.places: list[int] = []
        self.stage_count = 0
        self.uncovered: dict[str, str] = {}  # operations that a method has no rule for
        self._first: dict[str, Tensor] = {}  # the first sample's maps, and the last batch's last
        self._last: dict[str, Tensor] = {}
        self._spread = {method.name: 0.0 for method in methods}

    def plan(self, x: Any, stages: int | str) -> None:
        """Find the stages on a pass of one sample, and choose which are scored."""
        run = partial(checked_pass, self.model, part=self.output, keep=True, given=x)
        try:
            tape = Tape(run(some(x, slice(1))))
        except IndexError:  # samples that name one another, as nodes of a graph do
            tape = Tape(run(x))
        if self.controls:
            self.fixed = [*control.unchanging(values_of(x, tape.leaves)), names.RANDOM_MAP]
        for name in self.names:
            if self.names.count(name) > 1:
                cure = "Give each method its own name, and none of a control's."
                raise expected("methods and controls of different names", f"{name!r} twice", cure)
        if self.keep_maps:
            check_shown(x, tape.leaves)
        self._try_methods(tape)
        self.uncovered = {m.name: ", ".join(tape.coverage(m).uncovered) for m in self.methods}
        found = ordered_stages(tape, self.cascade.order)
        self.scored = evenly_spread(stages, len(found))
        self.stage_names = [found[i][1].name for i in self.scored]
        self.places, self.stage_count = [found[i][0] for i in self.scored], len(found)
        named = isinstance(self.model, nn.Module) and dict(self.model.named_parameters())
        covered = {name for _, stage in found for name in stage.parameters.values()}
        self.untouched = sorted(set(named or ()) - covered)

    def _try_methods(self, tape: Tape) -> None:
        """Find out before the long work whether all methods can explain this network."""
        for method in [method for method in self.methods if method.run is None]:
            given = self.parameters.get(method.name, {})
            try:
                tape.explain_leaves(method, lambda out: out.flatten(1).sum(1), **given)
            except NotApplicable as error:
                if not self.skip:
                    raise
                warnings.warn(f"{method.name} is left out: {error}", SalienceWarning, 4)
                self.methods.remove(method)

    def run(
        self, x: Any, rows: slice, target: Target, retarget: bool, done: Callable[[int], Any]
    ) -> Scores:
        """All scores of some samples: arrays (method, stage, repeat, sample)."""
        first, total, x = rows.start, trees.samples_of(x), some(x, rows)
        count = trees.samples_of(x)
        tape = Tape(checked_pass(self.model, x, self.output, keep=True))
        target = rows_of(target, rows, total, tape.output)
        fixed: Target = target if retarget else resolve(target, tape.output)
        trained = self._maps(tape, fixed)
        results = self._empty(count, trained)
        kept = {name: self._prepared(maps) for name, maps in trained.items()}
        if self.controls:
            self._score_controls(values_of(x, tape.leaves), first, results)
        before: dict[str, Tensor] = {}
        few = max(0, min(self.keep_maps - first, count))  # samples whose maps are kept
        if few:
            results["inputs"] = numbers(x[:few])
            shape = (len(trained), 1 + len(self.scored), *results["inputs"].shape)
            results["maps"] = np.empty(shape, np.float32)  # (method, 1 + stage, sample, ...)
            _keep(tape, trained, results["maps"][:, 0])
        for repeat in range(self.repeats):
            maps: dict[str, Tensor] = {}
            stages = randomized_tapes(self.model, tape, self.cascade, repeat, self.scored)
            for number, randomised in stages:
                place = self.scored.index(number)
                maps = self._maps(randomised, fixed)
                for row, (name, changed) in enumerate(maps.items()):
                    self._score(kept[name], changed, results, (row, place, repeat))
                if repeat == 0 and few:
                    _keep(tape, maps, results["maps"][:, 1 + place])
                done(count)
            before = self._compare_networks(before, maps, results["between_random"][:, repeat])
        self._compare_inputs(trained, results["other_inputs"][:, 0], first)  # once per batch
        return results

    def _empty(self, count: int, trained: dict[str, Tensor]) -> Scores:
        """NaN for every score, and what the trained maps say of themselves."""
        methods = len(self.names)
        shape = (methods, len(self.scored), self.repeats, count)
        results: Scores = {score: np.full(shape, np.nan) for score in self.scores}
        for name in ("between_random", "other_inputs"):
            results[name] = np.full((methods, self.repeats, count), np.nan)
        for name in ERRORS:
            results[name] = np.full((methods, count), np.nan)
            for row, maps in enumerate(trained.values()):
                if hasattr(maps, name):
                    results[name][row] = numbers(getattr(maps, name))
        return results

    def _compare_networks(
        self, before: dict[str, Tensor], maps: dict[str, Tensor], scores: np.ndarray[Any, Any]
    ) -> dict[str, Tensor]:
        """The last maps of a repeat against those of the repeat before; their ranks."""
        ranked = {name: similarities["spearman"].prepare(m) for name, m in maps.items()}
        for row, name in enumerate(before):
            score = similarities["spearman_abs"].compare(before[name], ranked[name])
            scores[row] = score.cpu().numpy()
        return ranked

    @property
    def names(self) -> list[str]:
        """Methods, then controls."""
        return [method.name for method in self.methods] + self.fixed

    def _maps(self, tape: Tape, target: Target) -> dict[str, Tensor]:
        seed, maps = self.cascade.seed, {}
        for method in self.methods:
            given, used = self.parameters.get(method.name, {}), method
            if self.smooth and method.run is None:
                given, used = {"base": method, "n": SMOOTH_DRAWS}, "smoothgrad"
            found = tape.explain_leaves(used, target, seed=seed, **given)
            maps[method.name] = as_one(tape.x, found)
        return maps

    def _prepared(self, maps: Tensor) -> dict[Any, Tensor]:
        prepares = {similarity.prepare for similarity in self.scores.values()}
        return {prepare: prepare(maps) for prepare in prepares}

    def _score(
        self, kept: dict[Any, Tensor], maps: Tensor, results: Scores, at: tuple[Any, ...]
    ) -> None:
        prepared = self._prepared(maps)
        for name, similarity in self.scores.items():
            value = similarity.compare(kept[similarity.prepare], prepared[similarity.prepare])
            results[name][at] = value.cpu().numpy()

    def _score_controls(self, x: Tensor, first: int, results: Scores) -> None:
        """Scores that no stage changes, once for all stages; x in the form of its maps."""
        for name, maps in control.unchanging(x).items():
            self._score(self._prepared(maps), maps, results, (self.names.index(name),))
        seed, row = self.cascade.seed, self.names.index(names.RANDOM_MAP)
        fixed = self._prepared(control.random_maps(x, seed, 0, first))
        for repeat in range(self.repeats):
            maps = control.random_maps(x, seed, 1 + repeat, first)
            self._score(fixed, maps, results, (row, slice(None), repeat))

    def _compare_inputs(
        self, trained: dict[str, Tensor], other: np.ndarray[Any, Any], first: int
    ) -> None:
        """Each trained map against that of the sample before it, and against the first one."""
        if first == 0:
            self._first = {name: maps[:1].clone() for name, maps in trained.items()}
            self._last = {}
        for row, (name, maps) in enumerate(trained.items()):
            before = torch.cat([self._last.get(name, maps[:1]), maps[:-1]])
            spearman = similarities["spearman_abs"]
            other[row] = spearman(before, maps).cpu().numpy()
            if first == 0:
                other[row, 0] = np.nan
            scale = self._first[name].abs().max().clamp(min=torch.finfo(maps.dtype).tiny)
            spread = float((maps - self._first[name]).abs().max() / scale)
            self._spread[name] = max(self._spread[name], spread)
            self._last[name] = maps[-1:].clone()

    def dataset(self, results: list[Scores], attributes: dict[str, Any]) -> xarray.Dataset:
        """The scores of all batches, with everything needed to repeat the run."""
        import xarray

        pictures = self._pictures([r for r in results if "maps" in r])
        joined = {name: np.concatenate([r[name] for r in results], -1) for name in results[0]
                  if name not in ("maps", "inputs")}  # fmt: skip
        other = joined.pop("other_inputs")[:, 0]
        between = joined.pop("between_random")
        errors = {name: (("method", "sample"), joined.pop(name)) for name in ERRORS}
        dims = ("method", "stage", "repeat", "sample")
        data: dict[str, Any] = {
            **{name: (dims, values) for name, values in joined.items()},
            "between_random": (("method", "repeat", "sample"), between),
            "other_inputs": (("method", "sample"), other),
            **errors,
            **pictures,
        }
        attributes |= {
            "stage_count": self.stage_count,
            "parameters_not_randomised": self.untouched,
            "method_parameters": str({m.name: m.bound(self.parameters.get(m.name, {}))
                                      for m in self.methods}),
        }  # fmt: skip
        dataset = xarray.Dataset(data, self._coordinates(other.shape[-1], pictures), attributes)
        missing = {name: int(np.isnan(values).sum()) for name, values in joined.items()}
        return dataset.assign_attrs({f"undefined_{name}": count for name, count in missing.items()})

    def _coordinates(self, samples: int, pictures: Mapping[str, Any]) -> dict[str, Any]:
        constant = [int(samples > 1 and self._spread.get(name, 1.0) < 1e-6) for name in self.names]
        uncovered = [self.uncovered.get(name, "") for name in self.names]
        coordinates: dict[str, Any] = {
            "method": _texts(self.names),
            "stage": _texts(self.stage_names),
            "repeat": np.arange(self.repeats),
            "sample": np.arange(samples),
            "role": ("method", _texts(self._roles())),
            "constant_over_inputs": ("method", constant),
            "uncovered": ("method", _texts(uncovered)),
            "place": ("stage", self.places),
            "number": ("stage", self.scored),
        }
        if pictures:
            coordinates["map_method"] = _texts([method.name for method in self.methods])
            coordinates["map_stage"] = _texts(["trained", *self.stage_names])
        return coordinates

    def _pictures(self, parts: list[Scores]) -> dict[str, Any]:
        """The maps that were kept, and what they explain."""
        if not parts:
            return {}
        maps, inputs = (
            parts[0][name] if len(parts) == 1 else np.concatenate([r[name] for r in parts], axis)
            for name, axis in (("maps", 2), ("inputs", 0))
        )
        space = [f"axis_{i}" for i in range(1, inputs.ndim)]
        return {
            "maps": (("map_method", "map_stage", "map_sample", *space), maps),
            "inputs": (("map_sample", *space), inputs),
        }

    def _roles(self) -> list[str]:
        roles = dict.fromkeys(self.fixed, names.NEGATIVE) | {names.RANDOM_MAP: names.FLOOR}
        return [roles.get(name, "method") for name in self.names]


def _keep(tape: Tape, maps: dict[str, Tensor], into: np.ndarray[Any, Any]) -> None:
    """The maps of the first samples, (method, sample, ...)."""
    for row, values in zip(into, maps.values(), strict=True):
        row[:] = numbers(shown(tape.x, tape.leaves, values)[: len(row)])


def _texts(names: list[str]) -> np.ndarray[Any, Any]:
    return np.array(names, dtype=object)  # zarr 3 has no strings of fixed length
