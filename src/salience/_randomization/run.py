"""The parameter-randomisation test (Adebayo 2018): do a method's maps depend on what was learned?

The network is randomised stage by stage, and each method's maps are compared with those of the
trained network. Stages share one recorded pass: what randomisation left alone is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Never, NoReturn

import torch

from salience._errors import expected, unknown
from salience._inputs import trees
from salience._inputs.batches import all_samples
from salience._inputs.targets import Part, Target
from salience._inputs.trees import Inputs
from salience._inputs.validation import listed, whole_number
from salience._memory import in_parts
from salience._names import POSITIVE_METHOD, RISE
from salience._randomization.comparison import Batch, compared
from salience._randomization.dataset import dataset_of
from salience._randomization.options import Cascade
from salience._randomization.plan import Plan, Question, planned
from salience._scores.complexity import complexity_rise
from salience._scores.similarity import Similarity, similarities
from salience._study.study import Study
from salience._tape.together import is_single
from salience.rules._method import Method
from salience.rules._table import Methods, choose
from salience.rules._table import methods as registry

if TYPE_CHECKING:
    from tqdm import tqdm

SAMPLES_PER_TAPE = 16
SPATIAL = ("ssim", "hog")  # scores of maps with rows and columns of pixels


def randomization_test(
    model: Callable[..., object],
    x: object,
    methods: Methods | None = None,
    target: Target = "argmax",
    cascade: Cascade = Cascade(),  # noqa: B008  (frozen)
    *,
    kind: str = "standard",
    scores: Sequence[str] | None = None,
    retarget: bool = False,
    controls: bool = True,
    keep_maps: int = 0,
    progress: bool = True,
    batch_size: int | None = None,
    output: Part = None,
    **others: Never,
) -> Study:
    """Similarity of maps between the trained network and its randomised versions.

    model       a module in eval mode; it is not modified, random weights live beside it
    x           as for `salience.explain`; batches are joined: a test needs all samples at once
    methods     as for `salience.explain`; all single-pass ones by default
    target      which scalar of the output, decided on the trained network (see retarget)
    cascade     how the network is randomised: order, stages, repeats, weights, batch_norm, seed
    kind        "standard"; "smooth": maps are means over 10 noisy copies of the input; "efficient":
                only the complexity of maps before and after full randomisation (Hedström 2024)
    scores      names in `salience.similarities`; by default all that the maps' shape allows
    retarget    decide the target anew on each randomised network
    controls    also score maps that cannot change, random maps and the plain gradient
    keep_maps   of how many samples to keep the maps of the first repeat, to look at them; of ids
                summed per token (N, T), and not of several inputs
    batch_size  samples per recorded pass (default 16), halved when memory runs out
    output      which part to explain where the model returns a tuple or a dict

    The maps of several inputs, and of ids at their embedding, are compared as one, all their
    entries in a row, without the scores `ssim` and `hog`. The embedding is a stage, too, and the
    control "input" is what the trained network embeds.

    Returns a dataset (select from it with `.sel({"method": name})`, since xarray's own `method=`
    means something else) with the dimensions method, stage (in the order of the cascade), repeat
    and sample, and a variable per score. What a score is for maps that share less is beside it:
    `between_random` (method, score, repeat, sample) compares the last stages of two repeats,
    `other_inputs` (method, score, sample) the trained network's maps of two inputs, and
    `other_multipliers` (method, score, sample) a map x * m with the same x times the m of another
    input (with the sign of the map where that has one), NaN for methods that are not read off as
    x * m. `conservation_error`, `completeness_error` and `sampling_error` (method, sample) are
    those of the trained network's maps, NaN for a method that has none. `uncovered` (method) names
    the operations that a method has no rule for. With keep_maps, `maps` (map_method, map_stage,
    map_sample, ...) holds maps from "trained" down the cascade, and `inputs` (map_sample, ...) what
    they explain. Attributes hold what is needed to repeat the run. The same seed gives the same
    dataset, to the last bit.

    Errors: SalienceError as for `salience.record`, for unknown options, and for a model without
    parameters.

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> twice = salience.Cascade(repeats=2)
    >>> study = salience.randomization_test(
    ...     net.eval(), torch.randn(3, 6), ["gradient"], cascade=twice, progress=False)
    >>> dict(study.data.spearman.sizes)
    {'method': 3, 'stage': 2, 'repeat': 2, 'sample': 3}
    """
    _check_options(cascade, others)
    return answered(
        model,
        x,
        methods,
        target,
        cascade,
        kind=kind,
        scores=scores,
        retarget=retarget,
        controls=controls,
        keep_maps=keep_maps,
        progress=progress,
        batch_size=batch_size,
        output=output,
        skip=methods is None,
    )


def answered(
    model: Callable[..., object],
    x: object,
    methods: Methods | None,
    target: Target,
    cascade: Cascade,
    *,
    kind: str = "standard",
    scores: Sequence[str] | None = None,
    retarget: bool = False,
    controls: bool = True,
    keep_maps: int = 0,
    progress: bool = True,
    batch_size: int | None = None,
    output: Part = None,
    skip: bool = False,
) -> Study:
    """`randomization_test`; skip: leave out the methods that do not apply, with a warning."""
    model, x, count = all_samples(model, x)
    whole_number("keep_maps", keep_maps, 0, "The default is 0: none are kept.")
    if batch_size is not None:
        whole_number("a batch size", batch_size, 1, f"The default is {SAMPLES_PER_TAPE}.")
    question = Question(
        model=model,
        methods=_chosen(methods, controls),
        target=target,
        cascade=cascade,
        kind=kind,
        scores=_scores(scores, x, kind),
        retarget=retarget,
        controls=controls,
        keep_maps=min(keep_maps, count),
        output=output,
        skip=skip,
    )
    with torch.inference_mode(False), torch.enable_grad():
        plan = planned(question, x)
        batches = _batches(plan, x, batch_size or SAMPLES_PER_TAPE, progress)
    return Study(dataset_of(plan, x, batches))


def _batches(plan: Plan, x: Inputs, size: int, progress: bool) -> list[Batch]:
    """The scores of all samples, some of them at a time."""
    batches: list[Batch] = []
    count = trees.samples_of(x)
    with _bar(progress, count * plan.question.cascade.repeats * len(plan.stages.names)) as bar:

        def run(rows: slice) -> Batch:
            return compared(plan, x, rows, batches[-1] if batches else None, bar.update)

        for _, batch in in_parts(run, count, size):
            batches.append(batch)
    return batches


def _check_options(cascade: Cascade, others: Mapping[str, object]) -> None:
    """Raise for what is no cascade, and, as Python does, for unknown keywords."""
    known = [field.name for field in fields(Cascade)]
    own = ", ".join(f"{name}={value!r}" for name, value in others.items() if name in known)
    for name in others:
        told = f"; did you mean cascade=salience.Cascade({own})?" if name in known else ""
        got = f"got an unexpected keyword argument {name!r}"
        raise TypeError(f"randomization_test() {got}{told}")
    if not isinstance(cascade, Cascade):
        cure = "Such as salience.Cascade(repeats=3)."
        raise expected("a salience.Cascade for cascade", repr(cascade), cure)


def _chosen(methods: Methods | None, controls: bool) -> tuple[Method, ...]:
    if methods is None:
        return tuple(method for method in registry.values() if method.single_pass)
    chosen = choose(methods)
    if controls and POSITIVE_METHOD not in [method.name for method in chosen]:
        chosen.append(registry[POSITIVE_METHOD])
    return tuple(chosen)


def _scores(scores: Sequence[str] | None, x: object, kind: str) -> dict[str, Similarity]:
    if kind == "efficient":
        return {RISE: complexity_rise}
    if scores is None:  # HOG needs three cells
        image = is_single(x) and x.ndim == 4 and min(x.shape[-2:]) >= 24
        return {k: score for k, score in similarities.items() if image or k not in SPATIAL}
    scores = listed("scores", scores, similarities)
    for name in scores:
        if name not in similarities:
            raise unknown("score", name, similarities)
        check_score(name, x)
    return {name: similarities[name] for name in scores}


def check_score(name: str, x: object) -> None:
    """Raise for a score of pixels where maps have none."""
    if name in SPATIAL and not is_single(x):
        raise expected(
            f"a single floating-point input for {name}",
            "several inputs, or ids",
            "Use spearman or pearson, which take maps of any shape.",
        )


def _bar(progress: bool, total: int) -> tqdm[NoReturn]:
    from tqdm import tqdm

    return tqdm(total=total, disable=not progress, unit="map", desc="randomisation test")
