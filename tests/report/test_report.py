"""What the report says: its numbers, its words, for studies of every kind."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from report_pages import (
    Reader,
    block_of,
    small_net,
    small_study,
)
from torch import nn

from salience import Cascade, Study, attribution_by_value, randomization_test, verdicts
from salience.report import build
from salience.report._extras import quarters


@pytest.fixture(scope="module")
def study() -> xarray.Dataset:
    return small_study()


@pytest.fixture(scope="module")
def page(study: xarray.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = build(study, tmp_path_factory.mktemp("report") / "report.html")
    return path.read_text(encoding="utf-8")


def test_numbers_are_those_of_the_dataset(study: xarray.Dataset, page: str) -> None:
    test = block_of(page, "study")["test"]
    assert test["methods"] == list(study["method"].values)
    assert test["stages"] == list(study["stage"].values)
    for score in test["scores"]:
        mean = study[score].mean(("repeat", "sample")).values
        shown = np.array(test["similarity"][score]["mean"], dtype=float)
        np.testing.assert_allclose(shown, mean, rtol=0, atol=1e-12)
        low, high = (np.array(test["similarity"][score][k], dtype=float) for k in ("low", "high"))
        assert (low <= shown + 1e-12).all() and (shown <= high + 1e-12).all()
        assert low.min() >= (0 if score == "spearman_abs" else -1) and high.max() <= 1
    first = study["spearman_abs"].values[:, :, 0, :3]
    np.testing.assert_array_equal(np.array(test["first"], dtype=float), first)


def test_verdicts_are_those_of_the_dataset(study: xarray.Dataset, page: str) -> None:
    judged = verdicts(study)
    rows = {row["method"]: row for row in block_of(page, "study")["test"]["rows"]}
    assert rows.keys() == judged.keys()
    for name, v in judged.items():
        assert rows[name]["verdict"] == v.verdict and rows[name]["sentence"] == v.sentence
        assert (rows[name]["value"], rows[name]["half"]) == (v.value, v.half)
        assert rows[name]["floors"] == {kind: list(held) for kind, held in v.floors.items()}
        assert (rows[name]["low"], rows[name]["high"]) == (v.low, v.high)
        assert rows[name]["last"] == v.last
    told = " ".join(Reader(page).words)
    for v in judged.values():
        assert f"[{v.low + 0.0:.2f}, {v.high:.2f}]".replace("[-0.00", "[0.00") in told


def test_what_is_known_beside_the_test_is_shown(study: xarray.Dataset, tmp_path: Path) -> None:
    page = build(
        study, tmp_path / "a.html", errors={"lrp_epsilon": 0.125},
        coverage={"gradient": [], "lrp_epsilon": ["aten::gelu"]},
    ).read_text(encoding="utf-8")  # fmt: skip
    assert 'data-value="0.125">0.12<' in page
    assert "<dt>lrp_epsilon</dt><dd>aten::gelu</dd>" in page and "<dt>gradient</dt>" not in page
    for key, value in study.attrs.items():
        assert f"<dt>{key}</dt><dd>{html.escape(str(value), quote=False)}"[:60] in page.replace(
            "&#39;", "'"
        ).replace("&#34;", '"')


def cells_of(page: str) -> dict[str, list[str]]:
    """The verdict table as it is read: heading or method -> its other cells."""
    table = page[page.index('<table class="sortable">') :]
    table = table[: table.index("</table>")]
    rows = re.findall(r"<tr.*?</tr>", table, re.S)
    texts = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    plain = [[re.sub("<[^>]*>", "", cell) for cell in row] for row in texts]
    return {row[0]: row[1:] for row in plain}


def test_golden_numbers(tmp_path: Path) -> None:
    """Numbers that can be had by hand: constant similarities, beside constant floors."""
    kept = {"gradient": 0.25, "steady": 0.8, "between": 0.4, "input": 1.0}
    scores = np.stack([np.full((4, 2, 3), value) for value in kept.values()])
    scores[:, :2] = 0.77  # which counts for where half is gone
    dims, none = ("method", "stage", "repeat", "sample"), [np.nan] * 3
    of_inputs, of_networks = ("method", "score", "sample"), ("method", "score", "repeat", "sample")
    multipliers = np.full((4, 2, 3), np.nan)
    multipliers[1, 0, 1:] = 0.2
    ssim = scores.copy()
    ssim[1] = 0.66
    data = xarray.Dataset(
        {
            "spearman_abs": (dims, scores),
            "ssim": (dims, ssim),
            "other_inputs": (of_inputs, np.full((4, 2, 3), 0.25)),
            "other_multipliers": (of_inputs, multipliers),
            "between_random": (of_networks, np.full((4, 2, 2, 3), 0.5)),
            "conservation_error": (("method", "sample"), [none, [0.01, 0.125, 0.02], none, none]),
            "completeness_error": (("method", "sample"), [none, none, [0.5, 0.75, 0.25], none]),
        },
        {
            "method": list(kept), "stage": ["c", "b", "a", "first"],
            "score": ["spearman_abs", "ssim"],
            "role": ("method", ["method", "method", "method", "negative control"]),
            "constant_over_inputs": ("method", [0, 0, 0, 0]), "number": ("stage", range(4)),
            "uncovered": ("method", ["", "gelu, softmax", "", ""]),
        },
        {"stage_count": 4, "model": "Net"},
    )  # fmt: skip
    page = build(data, tmp_path / "a.html").read_text(encoding="utf-8")
    assert cells_of(page) == {
        "method": ["verdict", "similarity", "95% interval", "floor", "left", "95% interval",
                   "half gone", "scores that agree", "random maps", "two inputs",
                   "x times another m", "two random networks", "last SSIM",
                   "conservation or completeness error"],
        "gradient": ["changes completely", "0.25", "[0.25, 0.25]", "0.25", "0%", "[0%, 0%]",
                     "3 of 4", "2 of 2", "–", "0.25", "–", "0.50", "0.25", "–"],
        "steady": ["hardly", "0.80", "[0.80, 0.80]", "0.25", "73%", "[73%, 73%]",
                   "–", "2 of 2", "–", "0.25", "0.20", "0.50", "0.66", "0.12"],
        "between": ["in part", "0.40", "[0.40, 0.40]", "0.25", "20%", "[20%, 20%]",
                    "3 of 4", "2 of 2", "–", "0.25", "–", "0.50", "0.40", "0.75"],
        "input": ["negative control", "1.00", "[1.00, 1.00]", "–", "–", "–",
                  "–", "–", "–", "–", "–", "–", "1.00", "–"],
    }  # fmt: skip
    drawn = block_of(page, "study")["test"]["floors"]
    assert drawn["spearman_abs"] == [[0.25, "maps of two inputs"]] * 3 + [None]
    assert block_of(page, "study")["coverage"] == {
        "gradient": [], "steady": ["gelu", "softmax"], "between": []
    }  # fmt: skip
    heads = re.findall(r'<th scope="col"[^>]*aria-sort[^>]*><button type="button">(.*?)<', page)
    assert "conservation or completeness error" in heads  # sortable


def test_what_the_dataset_measured_is_shown(study: xarray.Dataset, page: str) -> None:
    rows = {row["method"]: row for row in block_of(page, "study")["test"]["rows"]}
    for name in map(str, study.method.values):
        held = study.sel({"method": name})
        error = float(held.conservation_error.max())
        assert rows[name]["error"] == (None if np.isnan(error) else error)
    assert rows["lrp_epsilon"]["error"] is not None and rows["gradient"]["error"] is None
    assert "Every method has a rule for every operation" in page


def test_attribution_by_quarters_of_the_inputs_values(study: xarray.Dataset, page: str) -> None:
    shares = block_of(page, "study")["attribution"]
    x = study["inputs"].values
    edges = np.percentile(x, [25, 50, 75]).tolist()
    maps = {str(n): study["maps"].values[k, 0] for k, n in enumerate(study.map_method.values)}
    wanted = attribution_by_value(maps, x, edges, units="absolute")
    np.testing.assert_allclose(shares["mean"][0], wanted["mean"].values, atol=1e-12)
    np.testing.assert_allclose(shares["chance"], wanted["chance"].values, atol=1e-12)
    assert 'id="shares-0"' in page and "over 3 inputs" in page


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([0.0, 0.0, 0.0, 0.0, 1.0, 2.0], ["< 1", ">= 1"]),
        ([0.0, 1.0, 2.0, 3.0], ["< 0.75", "0.75 to 1.5", "1.5 to 2.25", ">= 2.25"]),
        (
            [-3e38, 3e38],
            ["< 0", "0 to 3e+38", ">= 3e+38"],
        ),  # whose difference float32 does not hold
        ([5.0, 5.0, 5.0, 5.0], None),
        ([0.0, np.nan, 1.0, 2.0], None),
    ],
)
def test_classes_of_inputs_with_equal_values(values: list[float], classes: list[str] | None):
    x = np.tile(values, (2, 1, 9, 9)).astype(np.float32)
    space = ("axis_1", "axis_2", "axis_3")
    data = xarray.Dataset({
        "maps": (("map_method", "map_stage", "map_sample", *space), np.ones_like(x)[None, None]),
        "inputs": (("map_sample", *space), x),
    }, {"map_method": ["m"]})  # fmt: skip
    found = quarters(Study(data))
    assert (found if classes is None else list(found["class"].values)) == classes


def test_every_method_is_answered_for(study: xarray.Dataset, page: str) -> None:
    answer = page[page.index('id="answer"') : page.index('id="verdicts"')]
    for v in verdicts(study).values():
        assert v.role != "method" or v.method in answer
    assert "From 2 random networks and 4 inputs" in answer


def test_scores_without_maps_and_maps_without_scores(study: xarray.Dataset, tmp_path: Path) -> None:
    scores = study.drop_dims(["map_method", "map_stage", "map_sample"])
    page = build(scores, tmp_path / "scores.html").read_text(encoding="utf-8")
    assert "no maps to look at" in page and block_of(page, "study")["maps"] is None
    maps = study.drop_dims(["method", "stage"]).isel({"map_stage": [0]})
    page = build(maps, tmp_path / "maps.html").read_text(encoding="utf-8")
    assert "no randomisation test" in page and block_of(page, "study")["test"] is None
    assert 'id="verdicts"' not in page and 'id="limits"' not in page and "believed?" not in page


@pytest.mark.parametrize("shape", [(3, 6), (3, 2, 40), (3, 3, 32, 32), (2, 1, 4, 16, 16)])
def test_inputs_of_every_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = int(np.prod(shape[1:]))
    net = nn.Sequential(nn.Flatten(), nn.Linear(wide, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    data = randomization_test(
        net,
        torch.randn(shape),
        ["gradient"],
        cascade=Cascade(repeats=2),
        keep_maps=2,
        progress=False,
    ).data
    held = block_of(build(data, tmp_path / "a.html").read_text(), "study")["maps"]
    assert held["depth"] == (3 if shape[1:] == (3, 32, 32) else 1)
    assert held["size"] == [1 if len(shape) < 4 else shape[-2], shape[-1]]


def test_an_efficient_test_is_told_in_its_own_terms(tmp_path: Path) -> None:
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    data = randomization_test(
        small_net(), x, ["gradient"], kind="efficient", cascade=Cascade(repeats=2), progress=False
    ).data
    page = build(data, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "rise of complexity" in page.replace("rise of\ncomplexity", "rise of complexity")
    told = page[page.index("<main>") : page.index('id="limits"')]
    assert "etention" not in told and "floor" not in told.replace("floor control", "")
    assert 'id="curves"' not in page  # there is one stage
