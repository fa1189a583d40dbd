"""The parameter-randomisation test (Adebayo 2018): do a method's maps depend on what was learned?

The network is randomised stage by stage, and each method's maps are compared with those of the
trained network. Stages share one recorded pass: what randomisation left alone is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from salience import _names as names
from salience._errors import expected, unknown
from salience._inputs import trees
from salience._inputs.batches import whole
from salience._inputs.targets import Part, Target
from salience._inputs.validation import check_input, checked_model, listed, whole_number
from salience._memory import in_parts
from salience._names import RISE
from salience._randomization.cascade import Recipe
from salience._randomization.comparison import Comparison, Scores
from salience._scores.complexity import complexity_rise
from salience._scores.similarity import Similarity, similarities
from salience._study.provenance import provenance
from salience._tape.explain import choose
from salience._tape.together import is_single
from salience.rules._table import Method
from salience.rules._table import methods as registry

if TYPE_CHECKING:
    import xarray

KINDS = ("standard", "smooth", "efficient")
SAMPLES_PER_TAPE = 16
SPATIAL = ("ssim", "hog")  # scores of maps with rows and columns of pixels


def randomization_test(
    model: Callable[..., Any],
    x: Any,
    methods: str | Method | Sequence[str | Method] | None = None,
    target: Target = "argmax",
    *,
    kind: str = "standard",
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
    output: Part = None,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
) -> xarray.Dataset:
    """Similarity of maps between the trained network and its randomised versions.

    model       a module in eval mode; it is not modified, random weights live beside it
    x           a tensor, array or table (N, ...), or integer ids that the model embeds; a tuple of
                inputs for model(*x), a dict for model(**x); float64 becomes the dtype of the
                model's weights, with a warning
    methods     names in `salience.methods`; all single-pass ones by default
    target      which scalar of the output, decided on the trained network (see retarget)
    kind        "standard"; "smooth": maps are means over 10 noisy copies of the input; "efficient":
                only the complexity of maps before and after full randomisation (Hedström 2024)
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
    keep_maps   of how many samples to keep the maps of the first repeat, to look at them; of ids
                summed per token (N, T), and not of several inputs
    batch_size  samples per recorded pass (default 16), halved when memory runs out
    output      which part to explain where the model returns a tuple or a dict
    parameters  per method, for example {"lrp_epsilon": {"eps": 1e-2}}

    The maps of several inputs, and of ids at their embedding, are compared as one, all their
    entries in a row, without the scores `ssim` and `hog`. The embedding is a stage, too, and the
    control "input" is what the trained network embeds.

    Returns a dataset (select from it with `.sel({"method": name})`, since xarray's own `method=`
    means something else) with the dimensions method, stage (in the order of the cascade), repeat
    and sample, and a variable per score. `between_random` (method, repeat, sample) compares the
    last stages of two repeats, `other_inputs` (method, sample) the trained network's maps of two
    inputs, both by |Spearman|. `conservation_error` and `completeness_error` (method, sample) are
    those of the trained network's maps, NaN for a method that has none. `cost` (method) is what a
    map costs in plain gradients, the one number that differs from run to run; `uncovered` (method)
    names the operations that a method has no rule for. With keep_maps, `maps` (map_method,
    map_stage, map_sample, ...) holds maps from "trained" down the cascade, and `inputs`
    (map_sample, ...) what they explain.
    Attributes hold what is needed to repeat the run.

    Errors: SalienceError as for `salience.record`, for unknown options, and for a model without
    parameters.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> data = salience.randomization_test(
    ...     net.eval(), torch.randn(3, 6), ["gradient"], repeats=2, progress=False)
    >>> dict(data.spearman.sizes)
    {'method': 3, 'stage': 2, 'repeat': 2, 'sample': 3}
    """
    model = checked_model(model)
    x = whole(model, x)
    check_input(model, x)
    count = trees.samples_of(x)
    if not count:
        raise expected("at least one sample", "none", "Look at how the data were chosen.")
    _check_sizes(repeats, keep_maps, seed, batch_size)
    if kind not in KINDS:
        raise unknown("kind of test", kind, KINDS)
    recipe = Recipe(order, weights, batch_norm, seed, output)
    chosen = _chosen(methods, controls)
    options = {
        "order": order, "repeats": repeats, "stages": stages, "seed": seed, "weights": weights,
        "batch_norm": batch_norm, "retarget": int(retarget), "target": _described(target),
        "output": str(output), "kind": kind,
    }  # fmt: skip
    table = _scores(scores, x) if kind != "efficient" else {RISE: complexity_rise}
    given = dict(parameters or {})
    for name in given.keys() - {method.name for method in chosen}:
        raise unknown("method to give parameters to", name, [m.name for m in chosen])
    study = Comparison(
        model, recipe, chosen, table, repeats, controls, given, kind == "smooth", methods is None
    )
    size = batch_size or min(count, SAMPLES_PER_TAPE)
    study.keep_maps = min(keep_maps, count)
    with torch.inference_mode(False), torch.enable_grad():
        study.plan(x, stages if kind != "efficient" else 1)
        study.measure_costs(x, size, target)
        with _bar(progress, count * repeats * len(study.scored)) as bar:

            def run(part: slice) -> Scores:
                return study.run(x, part, target, retarget, bar.update)

            results = [result for _, result in in_parts(run, count, size)]
    return study.dataset(results, {**options, **provenance(model, x)})


def _check_sizes(repeats: int, keep_maps: int, seed: int, batch_size: int | None) -> None:
    whole_number("repeats", repeats, 1, "The default is 5.")
    whole_number("keep_maps", keep_maps, 0, "The default is 0: none are kept.")
    whole_number("seed", seed, 0, "The default is 0.")
    if batch_size is not None:
        whole_number("a batch size", batch_size, 1, "The default is 16.")


def _chosen(methods: Any, controls: bool) -> list[Method]:
    if methods is None:
        return [method for method in registry.values() if method.run is None]
    chosen = choose(methods)
    if controls and names.POSITIVE_METHOD not in [method.name for method in chosen]:
        chosen.append(registry[names.POSITIVE_METHOD])
    return chosen


def _scores(scores: Sequence[str] | None, x: Any) -> dict[str, Similarity]:
    if scores is None:  # HOG needs three cells
        image = is_single(x) and x.ndim == 4 and min(x.shape[-2:]) >= 24
        return {k: score for k, score in similarities.items() if image or k not in SPATIAL}
    scores = listed("scores", scores, similarities)
    for name in scores:
        if name not in similarities:
            raise unknown("score", name, similarities)
        check_score(name, x)
    return {name: similarities[name] for name in scores}


def check_score(name: str, x: Any) -> None:
    """Raise for a score of pixels where maps have none."""
    if name in SPATIAL and not is_single(x):
        raise expected(
            f"a single floating-point input for {name}", "several inputs, or ids",
            "Use spearman or pearson, which take maps of any shape.",
        )  # fmt: skip


def _described(target: Target) -> str:
    return getattr(target, "__name__", "function") if callable(target) else str(target)


def _bar(progress: bool, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, disable=not progress, unit="map", desc="randomisation test")
