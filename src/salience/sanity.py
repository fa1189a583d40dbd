"""The parameter-randomisation test (Adebayo 2018): do a method's maps depend on what was learned?

The network is randomised stage by stage, and each method's maps are compared with those of the
trained network. Stages share one recorded pass: what randomisation left alone is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from salience import controls as control
from salience.cascade import Recipe, cascade, ordered_stages
from salience.checks import check_input, check_model, check_output
from salience.errors import expected, unknown
from salience.explaining import choose
from salience.memory import in_parts
from salience.methods import Method
from salience.methods import methods as registry
from salience.provenance import provenance
from salience.similarity import Similarity, similarities
from salience.tape import Tape, run_pass
from salience.targets import Target, resolve, rows_of

if TYPE_CHECKING:
    import xarray

POSITIVE_CONTROL = "gradient"
SAMPLES_PER_TAPE = 16
_SPATIAL = ("ssim", "hog")


def randomization_test(
    model: Callable[..., Any],
    x: Tensor | np.ndarray[Any, Any],
    methods: str | Method | Sequence[str | Method] | None = None,
    target: Target = "argmax",
    *,
    order: str = "top_down",
    repeats: int = 5,
    stages: int | str = "all",
    seed: int = 0,
    scores: Sequence[str] | None = None,
    weights: str = "own",
    batch_norm: str = "keep",
    retarget: bool = False,
    controls: bool = True,
    keep_maps: int = 0,
    progress: bool = True,
    batch_size: int | None = None,
    output: str | int | None = None,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> xarray.Dataset:
    """Similarity of maps between the trained network and its randomised versions.

    model       a module in eval mode; it is not modified, random weights live beside it
    x           (N, ...) inputs
    methods     names in `salience.methods`; all single-pass ones by default
    target      which scalar of the output, decided on the trained network (see retarget)
    order       "top_down": from the output layer, cascading to the first one; "bottom_up";
                "independent": one stage at a time
    repeats     independent random networks
    stages      "all", or how many evenly spread stages to score (all are randomised)
    seed        of all random streams, one for each (repeat, stage)
    scores      names in `salience.similarities`; by default all that the maps' shape allows
    weights     "own": each layer's initialiser; "normal"; "permute" (`randomize.random_weights`)
    batch_norm  running statistics: "keep", "recalibrate" (from each batch of x), "reset"; the
                affine part is randomised with its stage, to the identity under "own"
    retarget    decide the target anew on each randomised network
    controls    also score maps that cannot change, random maps and the plain gradient
    keep_maps   of how many samples to keep the maps of the first repeat, to look at them
    batch_size  samples per recorded pass (default 16), halved when memory runs out
    output      which part to explain where the model returns a tuple or a dict
    parameters  per method, for example {"lrp_epsilon": {"eps": 1e-2}}

    Returns a dataset with the dimensions method, stage (in the order of the cascade), repeat and
    sample, and a variable per score. `between_random` (method, repeat, sample) compares the last
    stages of two repeats, `other_inputs` (method, sample) the trained network's maps of two inputs,
    both by |Spearman|. With keep_maps, `maps` (map_method, map_stage, map_sample, ...) holds maps
    from "trained" down the cascade, and `inputs` (map_sample, ...) what they explain. Attributes
    hold what is needed to repeat the run.

    Errors: SalienceError as for `salience.record`, for unknown options, and for a model without
    parameters.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> data = salience.randomization_test(
    ...     net.eval(), torch.randn(3, 6), ["gradient"], repeats=2, progress=False)
    >>> dict(data.spearman.sizes)
    {'method': 3, 'stage': 2, 'repeat': 2, 'sample': 3}
    """
    check_model(model)
    x = torch.as_tensor(x)
    check_input(model, x)
    if repeats < 1 or not len(x):
        raise expected("at least one repeat and one sample", f"{repeats} and {len(x)}", "")
    recipe = Recipe(order, weights, batch_norm, seed, output)
    chosen = _chosen(methods, controls)
    options = {
        "order": order, "repeats": repeats, "stages": stages, "seed": seed, "weights": weights,
        "batch_norm": batch_norm, "retarget": int(retarget), "target": _described(target),
        "output": str(output),
    }  # fmt: skip
    names = _scores(scores, x)
    given = dict(parameters or {})
    for name in given:
        if name not in {method.name for method in chosen}:
            raise unknown("method to give parameters to", name, [m.name for m in chosen])
    study = _Study(model, recipe, chosen, names, repeats, controls, given)
    size = batch_size or min(len(x), SAMPLES_PER_TAPE)
    study.plan(x, stages)
    study.keep_maps = min(keep_maps, len(x))
    with _bar(progress, len(x) * repeats * len(study.scored)) as bar:

        def run(part: slice) -> _Scores:
            return study.run(x, part, target, retarget, bar.update)

        results = [result for _, result in in_parts(run, len(x), size)]
    return study.dataset(results, {**options, **provenance(model, x)})


def _chosen(methods: Any, controls: bool) -> list[Method]:
    if methods is None:
        return [method for method in registry.values() if method.run is None]
    chosen = choose(methods)
    if controls and POSITIVE_CONTROL not in [method.name for method in chosen]:
        chosen.append(registry[POSITIVE_CONTROL])
    return chosen


def _scores(scores: Sequence[str] | None, x: Tensor) -> list[str]:
    if scores is None:
        image = x.ndim == 4 and min(x.shape[-2:]) >= 24  # three cells of HOG
        return [name for name in similarities if image or name not in _SPATIAL]
    scores = [scores] if isinstance(scores, str) else list(scores)
    for name in scores:
        if name not in similarities:
            raise unknown("score", name, similarities)
    return scores


def evenly_spread(stages: int | str, total: int) -> list[int]:
    """Which stages of a cascade are scored: so many, evenly spread, the last one included."""
    if stages == "all":
        stages = total
    if not isinstance(stages, int) or not 1 <= stages <= total:
        got = f"{stages!r} (the network has {total})"
        raise expected('"all" or a number of stages', got, "Score at most as many as there are.")
    if stages == total:
        return list(range(total))
    return [round(number) for number in np.linspace(0, total - 1, stages + 1)[1:]]


def _described(target: Target) -> str:
    return getattr(target, "__name__", "function") if callable(target) else str(target)


def _bar(progress: bool, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, disable=not progress, unit="map", desc="randomisation test")


_Scores = dict[str, np.ndarray[Any, Any]]


class _Study:
    """One test: what is compared with what, and where the scores go."""

    def __init__(
        self,
        model: Callable[..., Any],
        recipe: Recipe,
        methods: list[Method],
        scores: list[str],
        repeats: int,
        controls: bool,
        parameters: dict[str, Mapping[str, Any]],
    ) -> None:
        self.model, self.recipe, self.methods = model, recipe, methods
        self.scores: dict[str, Similarity] = {name: similarities[name] for name in scores}
        self.repeats, self.controls, self.parameters = repeats, controls, parameters
        self.fixed: list[str] = []  # controls
        self.keep_maps = 0
        self.scored: list[int] = []
        self.stage_names: list[str] = []
        self.places: list[int] = []
        self._first: dict[str, Tensor] = {}  # the first sample's maps, and the last batch's last
        self._last: dict[str, Tensor] = {}
        self._spread = {method.name: 0.0 for method in methods}

    def plan(self, x: Tensor, stages: int | str) -> None:
        """Find the stages on a pass of one sample, and choose which are scored."""
        if self.controls:
            self.fixed = [*control.unchanging(x[:1]), "random_map"]
        for name in self.names:
            if self.names.count(name) > 1:
                cure = "Give each method its own name, and none of a control's."
                raise expected("methods and controls of different names", f"{name!r} twice", cure)
        tape = run_pass(self.model, x[:1], self.recipe.output, keep=True)
        check_output(tape.x, tape.output, tape.depends_on_input)
        found = ordered_stages(tape, self.recipe.order)
        self.scored = evenly_spread(stages, len(found))
        self.stage_names = [found[i][1].name for i in self.scored]
        self.places = [found[i][0] for i in self.scored]
        named = isinstance(self.model, nn.Module) and dict(self.model.named_parameters())
        covered = {name for _, stage in found for name in stage.parameters.values()}
        self.untouched = sorted(set(named or ()) - covered)

    def run(
        self, x: Tensor, rows: slice, target: Target, retarget: bool, done: Callable[[int], Any]
    ) -> _Scores:
        """All scores of some samples: arrays (method, stage, repeat, sample)."""
        first, total, x = rows.start, len(x), x[rows]
        tape = run_pass(self.model, x, self.recipe.output, keep=True)
        check_output(tape.x, tape.output, tape.depends_on_input)
        target = rows_of(target, rows, total, tape.output)
        fixed: Target = target if retarget else resolve(target, tape.output)
        shape = (len(self.names), len(self.scored), self.repeats, len(x))
        results: _Scores = {score: np.full(shape, np.nan) for score in self.scores}
        for name in ("between_random", "other_inputs"):
            results[name] = np.full((len(self.names), self.repeats, len(x)), np.nan)
        trained = self._maps(tape, fixed)
        kept = {name: self._prepared(maps) for name, maps in trained.items()}
        if self.controls:
            self._score_controls(x, first, results)
        before: dict[str, Tensor] = {}
        shown = max(0, self.keep_maps - first)  # samples of this batch whose maps are kept
        looks = [_look(trained, shown)]
        for repeat in range(self.repeats):
            maps: dict[str, Tensor] = {}
            stages = cascade(self.model, tape, self.recipe, repeat, set(self.scored))
            for number, randomised in stages:
                place = self.scored.index(number)
                maps = self._maps(randomised, fixed)
                for row, (name, changed) in enumerate(maps.items()):
                    self._score(kept[name], changed, results, (row, place, repeat))
                if repeat == 0 and shown:
                    looks.append(_look(maps, shown))
                done(len(x))
            ranked = {name: similarities["spearman"].prepare(m) for name, m in maps.items()}
            for row, name in enumerate(before):
                score = similarities["spearman_abs"].compare(before[name], ranked[name])
                results["between_random"][row, repeat] = score.cpu().numpy()
            before = ranked
        self._compare_inputs(trained, results["other_inputs"][:, 0], first)  # once per batch
        if shown:
            results["maps"] = np.stack(looks, 1)  # (method, 1 + stage, sample, ...)
            results["inputs"] = x[:shown].cpu().float().numpy()
        return results

    @property
    def names(self) -> list[str]:
        """Methods, then controls."""
        return [method.name for method in self.methods] + self.fixed

    def _maps(self, tape: Tape, target: Target) -> dict[str, Tensor]:
        return {
            method.name: tape.explain(
                method, target, seed=self.recipe.seed, **self.parameters.get(method.name, {})
            )
            for method in self.methods
        }

    def _prepared(self, maps: Tensor) -> dict[Any, Tensor]:
        prepares = {similarity.prepare for similarity in self.scores.values()}
        return {prepare: prepare(maps) for prepare in prepares}

    def _score(
        self, kept: dict[Any, Tensor], maps: Tensor, results: _Scores, at: tuple[Any, ...]
    ) -> None:
        prepared = self._prepared(maps)
        for name, similarity in self.scores.items():
            value = similarity.compare(kept[similarity.prepare], prepared[similarity.prepare])
            results[name][at] = value.cpu().numpy()

    def _score_controls(self, x: Tensor, first: int, results: _Scores) -> None:
        """Scores that no stage changes, once for all stages."""
        for name, maps in control.unchanging(x).items():
            self._score(self._prepared(maps), maps, results, (self.names.index(name),))
        seed, row = self.recipe.seed, self.names.index("random_map")
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

    def dataset(self, results: list[_Scores], attributes: dict[str, Any]) -> xarray.Dataset:
        """The scores of all batches, with everything needed to repeat the run."""
        import xarray

        shown = [(r.pop("maps"), r.pop("inputs")) for r in results if "maps" in r]
        joined = {name: np.concatenate([r[name] for r in results], -1) for name in results[0]}
        other = joined.pop("other_inputs")[:, 0]
        between = joined.pop("between_random")
        dims = ("method", "stage", "repeat", "sample")
        data: dict[str, Any] = {name: (dims, values) for name, values in joined.items()}
        data["between_random"] = (("method", "repeat", "sample"), between)
        data["other_inputs"] = (("method", "sample"), other)
        samples = other.shape[-1]
        constant = [int(samples > 1 and self._spread.get(name, 1.0) < 1e-6) for name in self.names]
        coordinates = {
            "method": np.array(self.names, dtype=object),  # zarr 3 has no strings of fixed length
            "stage": np.array(self.stage_names, dtype=object),
            "repeat": np.arange(self.repeats),
            "sample": np.arange(samples),
            "role": ("method", np.array(self._roles(), dtype=object)),
            "constant_over_inputs": ("method", constant),
            "place": ("stage", self.places),
        }
        if shown:
            maps, inputs = (np.concatenate(parts, axis) for parts, axis in zip(
                zip(*shown, strict=True), (2, 0), strict=True))  # fmt: skip
            space = [f"axis_{i}" for i in range(1, inputs.ndim)]
            data["maps"] = (("map_method", "map_stage", "map_sample", *space), maps)
            data["inputs"] = (("map_sample", *space), inputs)
            coordinates["map_method"] = [method.name for method in self.methods]
            coordinates["map_stage"] = ["trained", *self.stage_names]
        attributes |= {
            "parameters_not_randomised": self.untouched,
            "method_parameters": str({m.name: m.bound(self.parameters.get(m.name, {}))
                                      for m in self.methods}),
        }  # fmt: skip
        dataset = xarray.Dataset(data, coordinates, attributes)
        missing = {name: int(np.isnan(values).sum()) for name, values in joined.items()}
        return dataset.assign_attrs({f"undefined_{name}": count for name, count in missing.items()})

    def _roles(self) -> list[str]:
        fixed = {"input": control.NEGATIVE, "edges": control.NEGATIVE, "random_map": control.FLOOR}
        return [fixed.get(name, "method") for name in self.names]


def _look(maps: dict[str, Tensor], count: int) -> np.ndarray[Any, Any]:
    """The maps of the first samples, (method, sample, ...)."""
    return np.stack([m[:count].detach().cpu().float().numpy() for m in maps.values()])
