"""Faithfulness: does a map tell what the output depends on? Parts of the input are removed, and the
effects on the target held beside what maps say of those parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from salience._errors import expected, unknown
from salience._faithfulness.candidates import given_maps
from salience._faithfulness.compared import Batch, compared
from salience._faithfulness.dataset import dataset_of
from salience._faithfulness.options import Removal
from salience._faithfulness.plan import SAMPLES, Plan, Question, planned
from salience._faithfulness.scores import SCORES, Score
from salience._inputs import trees
from salience._inputs.batches import all_samples
from salience._inputs.targets import Part, Target
from salience._inputs.trees import Inputs
from salience._inputs.validation import listed, whole_number
from salience._memory import in_parts
from salience._randomization.options import Cascade
from salience._study.recommend import Recommendation
from salience._study.study import Study
from salience.rules._method import Method
from salience.rules._table import Methods, choose
from salience.rules._table import methods as registry

if TYPE_CHECKING:
    from tqdm import tqdm

SAMPLES_PER_PASS, LARGE_PER_PASS = 64, 16
LARGE = 4096  # entries of a sample: more of them outgrow a processor's caches and take longer each
DEFAULT_SCORES = tuple(name for name, score in SCORES.items() if score.of != "curves")


def faithfulness(
    model: Callable[..., object],
    x: object,
    methods: Methods | Mapping[str, Any] | None = None,
    target: Target = "argmax",
    removal: Removal = Removal(),  # noqa: B008  (frozen)
    *,
    scores: Sequence[str] | None = None,
    cascade: Cascade | None = Cascade(),  # noqa: B008
    progress: bool = True,
    batch_size: int | None = None,
    output: Part = None,
) -> Study:
    """How well maps tell what the output depends on: removed parts of the input beside the maps.

    Per sample: `occlusion_auc`, the AUC of |map| for the positions where the mean effect
    |f(x) - f(x without a window)| of the windows over them is over half its highest, and
    `occlusion_mass`, the share of |map| that lies there; correlation of f(x) - f(x without cells)
    with the sum of the map there (`deletion_...`: one window at a time; `subsets_...`: random sets
    of cells of one size; absolute: of |effect| with the sum of |map|); or the area under f(x
    without the k first cells) in the order of the map, by trapezoids (`srg`: least relevant first
    less most relevant first, in units of the target).

    model, x, target, output
                as for `salience.explain`; x is joined: all samples at once, one explained input
    methods     as for `salience.explain`, all single-pass ones by default; a dict may hold maps of
                anybody's beside methods, arrays (N, ...) like x or without its channels
    removal     what is removed, what stands in its place, how often: `salience.Removal`
    scores      names of what `salience.faithfulness_scores` holds; by default all but the curves,
                which take 2 x steps passes for each method and untrained network
    cascade     the untrained networks that each method is held against: all stages random, as many
                as `repeats`, the same as at the end of a randomisation test; None: none
    batch_size  samples per perturbed pass (default 64; 16 of over 4096 entries on a CPU), halved
                when memory runs out

    Passes: 1 + cells per input for all scores of single windows of all methods together, 1 +
    subsets for those of subsets, 2 x steps for the curves of a map.

    Returns a Study, printed as the table of its score. Its dataset has the dimensions
    candidate (methods, then controls: the input, its edges, a random map, and occlusion, which is
    the effects of single deletion themselves), network and sample: `faithful_SCORE` (candidate,
    sample), `untrained_SCORE` (candidate, network, sample) of the method's maps on untrained
    networks, scored on the trained one; `deletion_effect` (sample, cell), `subset_effect` (sample,
    subset); `target_value` and, with everything replaced, `target_emptied` (sample);
    `other_target` (candidate, sample), |Spearman| of the map and that for the largest other output.

    Errors: SalienceError as for `salience.explain`, for maps of other shapes, and for several
    explained inputs.

    Sources: Bhatt 2020 (subsets), Hesse 2024 (single deletion), Samek 2017 and Blücher 2024
    (curves), Rong 2022 (imputation).

    >>> import torch, salience
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> study = salience.faithfulness(
    ...     net.eval(), torch.randn(20, 6), ["gradient", "input_x_gradient"], target=1,
    ...     cascade=salience.Cascade(repeats=3), progress=False)
    >>> dict(study.data.untrained_deletion_signed_spearman.sizes)
    {'candidate': 5, 'network': 3, 'sample': 20}
    """
    if not isinstance(removal, Removal):
        cure = "Such as salience.Removal(cell=4)."
        raise expected("a salience.Removal for removal", repr(removal), cure)
    if cascade is not None and not isinstance(cascade, Cascade):
        cure = "Such as salience.Cascade(repeats=3), or None."
        raise expected("a salience.Cascade for cascade", repr(cascade), cure)
    return measured(
        model,
        x,
        methods,
        target,
        removal,
        scores=scores,
        cascade=cascade,
        progress=progress,
        batch_size=batch_size,
        output=output,
        skip=methods is None,
    )


def recommend(
    model: Callable[..., object],
    x: object,
    methods: Methods | Mapping[str, Any] | None = None,
    target: Target = "argmax",
    removal: Removal = Removal(),  # noqa: B008  (frozen)
    *,
    score: str | None = None,
    cascade: Cascade | None = Cascade(),  # noqa: B008
    progress: bool = True,
    batch_size: int | None = None,
    output: Part = None,
) -> Recommendation:
    """Which methods to use on this network: `faithfulness` and `Study.recommend` in one call.

    score  the one that decides, by default `occlusion_auc`; all else as for `salience.faithfulness`

    Errors: SalienceError as for `salience.faithfulness`.

    >>> import torch, salience
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> found = salience.recommend(
    ...     net.eval(), torch.randn(20, 6), "input_x_gradient", target=1,
    ...     cascade=salience.Cascade(repeats=3), progress=False)
    >>> found.sentence.split(":")[0]  # it was never trained
    'No recommendation'
    """
    study = faithfulness(
        model,
        x,
        methods,
        target,
        removal,
        scores=None if score is None else [score],
        cascade=cascade,
        progress=progress,
        batch_size=batch_size,
        output=output,
    )
    return study.recommend(score)


def measured(
    model: Callable[..., object],
    x: object,
    methods: Methods | Mapping[str, Any] | None,
    target: Target,
    removal: Removal,
    *,
    scores: Sequence[str] | None = None,
    cascade: Cascade | None = None,
    progress: bool = True,
    batch_size: int | None = None,
    output: Part = None,
    skip: bool = False,
) -> Study:
    """`faithfulness`; skip: leave out the methods that do not apply, with a warning."""
    if batch_size is not None:
        whole_number("a batch size", batch_size, 1, f"The default is {SAMPLES_PER_PASS}.")
    model, x, count = all_samples(model, x)
    given = given_maps(methods, count)
    question = Question(
        model=model,
        methods=_chosen(methods, given),
        given=given,
        target=target,
        removal=removal,
        scores=_scores(scores),
        cascade=cascade,
        output=output,
        skip=skip,
    )
    with torch.inference_mode(False), torch.enable_grad():
        plan = planned(question, x)
        batches = _batches(plan, x, batch_size or _samples_per_pass(x), progress)
    return Study(dataset_of(plan, x, batches))


def _samples_per_pass(x: Inputs) -> int:
    tensors = trees.tensors_of(x)
    entries = sum(tensor[0].numel() for tensor in tensors)
    large = tensors[0].device.type == "cpu" and entries > LARGE
    return LARGE_PER_PASS if large else SAMPLES_PER_PASS


def _batches(plan: Plan, x: Inputs, size: int, progress: bool) -> list[Batch]:
    """The scores of all samples, some of them at a time."""
    batches: list[Batch] = []
    count = trees.samples_of(x)
    with _bar(progress, count * plan.passes) as bar:

        def run(rows: slice) -> Batch:
            return compared(plan, x, rows, batches[-1] if batches else None, size, bar.update)

        for _, batch in in_parts(run, count, min(size, SAMPLES)):
            batches.append(batch)
    return batches


def _chosen(methods: Any, given: Mapping[str, object]) -> tuple[Method, ...]:
    if methods is None:
        return tuple(method for method in registry.values() if method.single_pass)
    if isinstance(methods, Mapping):
        methods = {name: method for name, method in methods.items() if str(name) not in given}
        if not methods and given:  # maps alone
            return ()
    return tuple(choose(methods))


def _scores(scores: Sequence[str] | None) -> dict[str, Score]:
    if scores is None:
        scores = DEFAULT_SCORES
    for name in listed("scores", scores, SCORES):
        if name not in SCORES:
            raise unknown("score", name, SCORES)
    return {name: SCORES[name] for name in listed("scores", scores, SCORES)}


def _bar(progress: bool, total: int) -> tqdm[NoReturn]:
    from tqdm import tqdm

    return tqdm(total=total, disable=not progress, unit="pass", desc="faithfulness")
