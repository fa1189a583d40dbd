"""The randomisation test of models with several inputs and of token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from chosen import with_error
from randomized import ORDERS, SCORES, study_of, values
from reference_inputs import IDS, input_cases
from reference_randomization import draws, first, naive_test, one_map, output, randomized_copies
from scipy import stats
from torch import Tensor, nn

import salience
import salience.report
from salience import SalienceError, plot
from salience._randomization.cascade import randomized_tapes
from salience._randomization.weights import stages_of
from salience._recording.run import run_pass
from salience._study.provenance import data_fingerprint
from salience._tape.tape import Tape

CASES = input_cases()
SINGLE = [name for name, method in salience.methods.items() if method.single_pass]


def run(case: Any, methods: Any = "gradient", **options: Any) -> Any:
    options = {"repeats": 2, "target": 0, "progress": False, **options}
    return study_of(case.model, case.x, methods, **options)


# -- the naive reference ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CASES)
def test_scores_equal_the_naive_reference(name, order):
    case = CASES[name]
    options = {"order": order, "repeats": 2, "seed": 11, "weights": "own"}
    data = run(case, case.methods, target="argmax", scores=SCORES, batch_size=2, **options)
    stages = [stage[0] for stage in case.stages]
    assert list(data.stage.values) == (stages[::-1] if order == "top_down" else stages)
    for score, expected in naive_test(case, SCORES, **options).items():
        found = data[score].values[: len(case.methods)]
        # rounding may order a tied pair of entries either way, in one of some hundred ranks
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9, err_msg=score)
    assert data.attrs["parameters_not_randomized"] == []


@pytest.mark.parametrize("name", CASES)
def test_stages_are_those_written_down_in_execution_order(name):
    case = CASES[name]
    trace = run_pass(case.model, first(case.x), keep=True).trace
    found = [list(stage.parameters.values()) for stage in stages_of(trace)]
    assert [sorted(stage) for stage in found] == [sorted(stage) for stage in case.stages]
    assert [stage[0] for stage in found] == [stage[0] for stage in case.stages]


@pytest.mark.parametrize("name", ["ids", "ids beside numbers"])
def test_a_replay_embeds_by_the_random_table(name):
    case = CASES[name]
    tape = Tape(run_pass(case.model, case.x, keep=True))
    (number,) = (i for i, leaf in enumerate(tape.leaves) if leaf.embedded)
    ids = case.x if isinstance(case.x, Tensor) else case.x["ids"]
    steps = randomized_tapes(
        case.model, tape, salience.Cascade(seed=4), 0, set(range(len(case.stages)))
    )
    copies = randomized_copies(case.model, draws(case, 4, 0, "own"), "top_down")
    changed = []
    for (_, replayed), copied in zip(steps, copies, strict=True):
        assert torch.equal(replayed.leaves[number].tensor, copied.words(ids))
        torch.testing.assert_close(replayed.output, output(copied, case.x))
        changed.append(not torch.equal(replayed.leaves[number].tensor, tape.leaves[number].tensor))
    assert changed == [False] * (len(case.stages) - 1) + [True]


def test_several_embeddings_of_the_same_ids_are_scored_together():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Embedding(9, 4), nn.Embedding(9, 3)
            self.head = nn.Linear(7, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(torch.cat([self.one(ids), self.two(ids)], -1).tanh().sum(1))

    net = Twice().double().eval()
    data = salience.randomization_test(
        net, IDS, "gradient", 1, cascade=salience.Cascade(repeats=1), keep_maps=2, progress=False
    ).data
    one, two = salience.record(net, IDS).explain("gradient", 1)
    kept = data["maps"].values[0, 0]
    np.testing.assert_allclose(kept, (one.sum(-1) + two.sum(-1))[:2], rtol=1e-6)
    joined = torch.cat([one.flatten(1), two.flatten(1)], 1)
    other = [abs(stats.spearmanr(joined[i], joined[i + 1]).statistic) for i in range(2)]
    found = data.other_inputs.sel(score="spearman_abs").values[0, 1:]
    np.testing.assert_allclose(found, other, atol=1e-9)


# -- what else a dataset holds ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dict", "ids beside numbers"])
def test_controls_and_errors(name):
    case = CASES[name]
    data = run(case, ["lrp_epsilon", "integrated_gradients"], repeats=3)
    names = ["lrp_epsilon", "integrated_gradients", "gradient", "input", "random_map"]
    assert list(data.method.values) == names
    assert not {"ssim", "hog"} & set(data.data_vars)
    np.testing.assert_allclose(values(data, "spearman", "input"), 1, atol=1e-12)
    noise = values(data, "pearson", "random_map")  # each sample and repeat its own
    assert len(np.unique(noise[0].round(12))) == 9 and np.abs(noise).max() < 0.95
    tape = salience.record(case.model, case.x)
    for method, error in (("lrp_epsilon", "conservation_error"),
                          ("integrated_gradients", "completeness_error")):  # fmt: skip
        _, fact = with_error(tape, method, 0)
        np.testing.assert_allclose(values(data, error, method), fact, rtol=1e-5, atol=1e-9)
    assert set(salience.verdicts(data)) == set(names)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["smooth", "efficient"])
def test_other_kinds_of_test(name, kind):
    case = CASES[name]
    data = run(case, "lrp_epsilon", kind=kind)
    score = "complexity_rise" if kind == "efficient" else "spearman_abs"
    assert np.isfinite(values(data, score, "lrp_epsilon")).all()
    if kind == "smooth":
        exact = run(case, "lrp_epsilon")
        assert not np.allclose(exact.spearman.values[0], data.spearman.values[0])


@pytest.mark.parametrize("name", ["dict", "ids beside numbers"])
def test_verdicts_figure_and_report(name, tmp_path):
    data = run(CASES[name], None, scores=SCORES)
    assert list(data.method.values) == [*SINGLE, "input", "random_map"]
    assert "stages random (from" in str(salience.verdicts(data))
    assert len(plot.similarity(data).axes) == 1
    page = salience.report.build(data, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "lrp_epsilon" in page and "panel-0" not in page  # no viewer


def test_kept_maps_of_ids_are_per_token(tmp_path):
    case = CASES["ids"]
    data = run(case, ["lrp_epsilon"], keep_maps=5, batch_size=2)
    assert data["inputs"].dtype.kind == "i"
    np.testing.assert_array_equal(data["inputs"], IDS)
    assert data["maps"].dims == ("map_method", "map_stage", "map_sample", "axis_1")
    fact = salience.record(case.model, IDS).explain("lrp_epsilon", 0).sum(-1)
    np.testing.assert_allclose(data["maps"].values[0, 0], fact, rtol=1e-6)
    *_, last = randomized_copies(case.model, draws(case, 0, 0, "own"), "top_down")
    fact = salience.record(last, IDS).explain("lrp_epsilon", 0).sum(-1)
    np.testing.assert_allclose(data["maps"].values[0, -1], fact, rtol=1e-5)
    figure = plot.cascade(data, 0)
    assert [text.get_text() for text in figure.axes[0].texts] == ["3 1 4 1 5 0"]
    caption = " ".join(figure.texts[-1].get_text().split())
    assert "a bar for each token, summed over its embedding" in caption
    page = salience.report.build(data, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "panel-0" in page and '"attribution":null' in page


def test_data_are_recognized_by_every_part():
    case = CASES["ids beside numbers"]
    data = run(case, repeats=1)
    assert data.attrs["data_shape"] == "{'mask': (3, 6), 'numbers': (3, 3), 'ids': (3, 6)}"
    known = {data_fingerprint(case.x)}
    assert data.attrs["data_fingerprint"] in known
    others = [{**case.x, "scale": 3.0}, {**case.x, "ids": IDS + 1}, {**case.x, "mask": IDS > 1},
              {**case.x, "numbers": case.x["numbers"].float()}, tuple(case.x.values())]  # fmt: skip
    renamed = {"tokens" if key == "ids" else key: part for key, part in case.x.items()}
    for other in [*others, renamed, {**case.x, "numbers": case.x["numbers"].view(9, 1)}]:
        known.add(data_fingerprint(other))
    assert len(known) == 1 + len(others) + 2


def test_arrays_and_no_container_change_nothing():
    case = CASES["tuple"]
    arrays = tuple(part.numpy() for part in case.x)
    found = salience.randomization_test(
        case.model, arrays, "gradient", 0, cascade=salience.Cascade(repeats=2), progress=False
    ).data
    np.testing.assert_array_equal(found.spearman, run(case).spearman)
    given = [part.clone() for part in case.x]
    assert all(torch.equal(a, b) for a, b in zip(given, case.x, strict=True))
    assert all(not part.requires_grad for part in case.x)


def test_targets_count_over_all_samples():
    case, wanted = CASES["dict"], [2, 0, 1]
    data = run(case, "gradient", target=wanted, batch_size=2, repeats=1, seed=3)
    *_, last = randomized_copies(case.model, draws(case, 3, 0, "own"), "top_down")
    maps = [one_map(net, case.x, "gradient", wanted) for net in (case.model, last)]
    fact = [stats.spearmanr(p, q).statistic for p, q in zip(*maps, strict=True)]
    np.testing.assert_allclose(values(data, "spearman", "gradient")[-1, 0], fact, atol=1e-9)


# -- errors ----------------------------------------------------------------------------------------

BAG = nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 3)).double().eval()
ERRORS: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "ssim": (*CASES["dict"][:2], {"scores": ["ssim"]},
             "single floating-point input for ssim; got several inputs, or ids. Use spearman"),
    "hog of ids": (*CASES["ids"][:2], {"scores": "hog"}, "single floating-point input for hog"),
    "maps": (*CASES["tuple"][:2], {"keep_maps": 1},
             r"a single input, or ids .* for keep_maps; got maps of shapes .*6, 6\).*keep_maps=0"),
    "maps of a bag": (BAG, IDS, {"keep_maps": 1}, r"for keep_maps; got maps of shapes \(4,\)"),
    "sizes": (CASES["tuple"].model, (CASES["tuple"].x[0], CASES["tuple"].x[1][:2]), {},
              r"same number of samples first; got \{0: 3, 1: 2\}"),
    "name": (CASES["dict"].model, {"picture": CASES["dict"].x["image"]}, {},
             "inputs that the model takes"),
    "no embedding": (nn.Linear(6, 3).eval(), IDS, {}, "torch.int64 that no embedding reads"),
    "text": (CASES["tuple"].model, "x.npy", {},
             "a tensor, an array or an iterable of batches; got str"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_tested(case):
    model, x, options, message = ERRORS[case]
    with pytest.raises(SalienceError, match=message):
        salience.randomization_test(
            model, x, "gradient", 0, cascade=salience.Cascade(repeats=1), progress=False, **options
        )
