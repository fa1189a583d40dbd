"""`Study`: what it says of its dataset, its table, its files and its faces."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from matplotlib.figure import Figure
from report_pages import small_net, small_study
from torch import nn
from typer.testing import CliRunner

import salience
from salience import SalienceError, Study
from salience._cli.app import app
from salience._study.files import open_study

DIMS = ("method", "stage", "repeat", "sample")
SINGLE = [name for name, method in salience.methods.items() if method.single_pass]


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(small_study())


def made(**methods: float) -> Study:
    """A test of two stages, five networks and six inputs with these retentions."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=(len(methods), 2, 5, 6))
    scores = np.array(list(methods.values()))[:, None, None, None] + noise
    return Study(
        xarray.Dataset(
            {"spearman_abs": (DIMS, scores), "pearson": (DIMS, -scores)},
            {
                "method": list(methods),
                "stage": ["last", "first"],
                "role": ("method", ["method"] * len(methods)),
                "constant_over_inputs": ("method", [0] * len(methods)),
                "number": ("stage", [0, 1]),
            },
            {"stage_count": 2, "model": "Net"},
        )
    )


# -- what is where ---------------------------------------------------------------------------------


def test_a_study_names_what_its_dataset_holds(study: Study) -> None:
    data = study.data
    assert study.methods == SINGLE and study.controls == ["input", "edges", "random_map"]
    assert list(study.roles) == list(data["method"].values)
    assert study.stages == ["4.weight", "0.weight"] or study.stages == list(data["stage"].values)
    assert (study.repeats, study.samples, study.score) == (2, 4, "spearman_abs")
    assert set(study.scores) == {name for name in salience.similarities if name in data}
    assert study.maps.dims[:3] == ("map_method", "map_stage", "map_sample")
    assert study.map_stages == ["trained", *study.stages] and study.map_names == ["0", "1", "2"]
    np.testing.assert_array_equal(study.values("pearson"), data["pearson"].values)
    turned = Study(data.transpose("sample", "stage", ...))
    np.testing.assert_array_equal(turned.values("pearson"), data["pearson"].values)
    assert turned.verdicts() == study.verdicts()


def test_a_study_is_made_of_a_dataset_and_stays_as_it_is(study: Study) -> None:
    with pytest.raises(SalienceError, match="the dataset of a randomisation test; got a dict"):
        Study({})  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.data = study.data  # type: ignore[misc]


def test_maps_that_were_not_kept_are_missed() -> None:
    with pytest.raises(SalienceError, match=r"a study with maps; got scores alone\. .*keep_maps"):
        _ = made(gradient=0.1).maps


# -- verdicts and their table ----------------------------------------------------------------------


def test_verdicts_are_about_the_score_that_the_study_says() -> None:
    study = made(gradient=0.05, strong=0.8)
    assert study.verdicts().score == "spearman_abs"
    named = Study(study.data.assign_attrs(score="pearson"))
    assert named.verdicts().score == salience.verdicts(named.data).score == "pearson"
    assert named.verdicts(score="spearman_abs") == study.verdicts() != named.verdicts()
    assert salience.verdicts(study, stages="last", seed=1) == study.verdicts(stages="last", seed=1)


def test_the_printed_study_is_its_verdicts_in_columns() -> None:
    lines = repr(made(gradient=0.05, a_long_name=0.8)).splitlines()
    assert lines == [
        "Study of Net: 2 methods, 0 controls, 2 stages (top_down)",
        "method       similarity  95% interval  floor  half  verdict",
        "gradient     0.05        [0.05, 0.06]  -      1/2   changes completely",
        "a_long_name  0.80        [0.79, 0.81]  -      -     hardly",
        "similarity: mean spearman_abs (6 inputs, 5 random networks)",
        "all 2 stages random (from last to first)",
        "floor: the same for maps that share less (noise, two inputs, x times another m)",
        "half: stages that are random when half of what lies above the floor is gone",
        "changes completely: under 5% of that is left; hardly: over 50%",
    ]
    lines = repr(made(gradient=0.05, a_long_name=0.8).verdicts(criterion="retention")).splitlines()
    assert lines == [
        "method       retention  95% interval  last  verdict",
        "gradient     0.05       [0.05, 0.06]  0.05  sensitive",
        "a_long_name  0.80       [0.79, 0.81]  0.80  insensitive",
        "retention: mean spearman_abs over the second half of the stages (6 inputs, 5 random "
        "networks)",
        "sensitive: interval below 0.2; insensitive: interval above 0.4",
    ]


def test_the_table_says_which_thresholds_and_stages_it_has() -> None:
    limits = {"criterion": "retention", "sensitive": 0.01, "insensitive": 0.03}
    text = repr(made(gradient=0.05).verdicts(stages="all", **limits))
    assert "over all stages" in text
    assert text.endswith("sensitive: interval below 0.01; insensitive: interval above 0.03")
    assert "uninformative" in text


def test_what_is_undefined_is_a_dash() -> None:
    data = made(gradient=0.05, gone=np.nan).data.isel(sample=[0], repeat=[0])
    rows = [line.split() for line in repr(Study(data)).splitlines()[2:4]]
    assert rows[0][0] == "gradient" and rows[0][2:] == ["-", "-", "1/2", "undefined"]
    assert rows[1] == ["gone", "-", "-", "-", "-", "undefined"]
    assert "(1 input, 1 random network)" in repr(Study(data))


def test_the_efficient_test_has_a_rise_and_no_thresholds_of_similarity() -> None:
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    study = salience.randomization_test(
        small_net(),
        x,
        "gradient",
        kind="efficient",
        cascade=salience.Cascade(repeats=2),
        progress=False,
    )
    text = repr(study)
    assert study.score == study.verdicts().score == "complexity_rise"
    assert text.splitlines()[1].split()[:2] == ["method", "rise"]
    assert "rise: mean complexity_rise (3 inputs, 2 random networks)" in text
    assert "all 2 stages random (the last one 0)" in text
    assert text.endswith("rises: interval above 0; does not rise: interval below 0")
    with pytest.raises(SalienceError, match="a test of similarity; got the efficient one"):
        study.plot.similarity()


def test_the_page_of_a_notebook_escapes_what_the_text_makes_printable() -> None:
    study = made(**{"<b>\x1b[31m": 0.05})
    study = Study(study.data.assign_attrs(model="<i>"))
    page = study._repr_html_()
    assert "<b>" not in page and "<i>" not in page and "\x1b" not in page + repr(study)
    assert "Study of &lt;i&gt;" in page and "&lt;b&gt;\\x1b[31m" in page
    assert "under 5% of that is left" in page and page.count("<tr>") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop_attrs(), "No verdicts: expected the dataset of a randomisation test"),
        (lambda d: d.isel(sample=0), "No verdicts: expected the dataset of a randomisation test"),
        (lambda d: d.drop_vars("role"), "No verdicts: expected the dataset of a randomisation"),
        (lambda d: d.drop_vars("method"), "No verdicts: expected the dataset of a randomisation"),
        (lambda d: d.assign_attrs(stage_count="many"), "No verdicts: invalid literal for int"),
        (lambda d: d.isel(method=0), "Neither maps nor a randomisation test."),
        (lambda d: xarray.Dataset(), "Neither maps nor a randomisation test."),
    ],
)
def test_what_is_printed_never_fails(change: Any, message: str) -> None:
    study = Study(change(made(gradient=0.05).data))
    assert message in repr(study) and message in study._repr_html_()


def test_verdicts_are_a_mapping_and_a_table_of_pandas() -> None:
    found = made(gradient=0.05, strong=0.8).verdicts()
    assert list(found) == ["gradient", "strong"] and len(found) == 2
    table = found.to_dataframe()
    assert list(table.index) == ["gradient", "strong"]
    assert list(table["verdict"]) == ["changes completely", "hardly"]
    assert table.loc["strong", "share_low"] == found["strong"].share.low
    assert table.loc["strong", "high"] == found["strong"].high
    assert table.loc["strong", "last_pearson"] == found["strong"].last["pearson"]


# -- files -----------------------------------------------------------------------------------------

ENDS = (".nc", ".zarr")


@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_what_is_saved_opens_as_it_was_in_either_format(
    study: Study, tmp_path: Path, first: str, second: str
) -> None:
    once = salience.open(study.save(tmp_path / f"a{first}"))
    file = once.save(tmp_path / f"b{second}")
    with salience.open(str(file)).data as data:
        xarray.testing.assert_equal(data, study.data)
        assert {k: np.array(v).tolist() for k, v in data.attrs.items()} == {
            k: np.array(v).tolist() for k, v in study.data.attrs.items()
        }
    assert sorted(os.listdir(tmp_path)) == sorted([f"a{first}", f"b{second}"])
    once.data.close()


@pytest.mark.parametrize("end", ENDS)
def test_a_file_is_replaced_only_where_that_is_asked_for(
    study: Study, tmp_path: Path, end: str
) -> None:
    file = study.save(tmp_path / f"study{end}")
    few = Study(salience.open(file).data.isel(method=[0, 3], map_method=[0, 3]))
    with pytest.raises(SalienceError, match="expected a new file"):
        few.save(file)
    assert salience.open(file).verdicts() == study.verdicts()
    few.save(file, overwrite=True)  # of which it is read
    with salience.open(file).data as data:
        xarray.testing.assert_equal(data, study.data.isel(method=[0, 3], map_method=[0, 3]))
    assert os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("end", ENDS)
def test_a_study_that_cannot_be_written_leaves_the_old_one(
    study: Study, tmp_path: Path, end: str
) -> None:
    file = study.save(tmp_path / f"study{end}")
    broken = Study(study.data.assign_attrs(strange=object()))
    with pytest.raises(TypeError, match="attr"):
        broken.save(file, overwrite=True)
    assert salience.open(file).verdicts() == study.verdicts()
    assert os.listdir(tmp_path) == [file.name]


def test_a_folder_that_cannot_take_its_place_leaves_the_one_that_is_there(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, replace = study.save(tmp_path / "study.zarr"), Path.replace

    def refused(path: Path, target: Path) -> Path:
        if path.suffix == ".part":
            raise PermissionError
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(PermissionError):
        Study(study.data.isel(method=[0])).save(file, overwrite=True)
    assert salience.open(file).verdicts() == study.verdicts()
    assert os.listdir(tmp_path) == ["study.zarr"]


def test_what_could_not_be_opened_is_not_saved(study: Study, tmp_path: Path) -> None:
    with pytest.raises(SalienceError, match=r"expected a file \.nc or \.zarr"):
        study.save(tmp_path / "study.csv")
    with pytest.raises(SalienceError, match=r"dimensions .* Select with lists"):
        Study(study.data.isel(repeat=0)).save(tmp_path / "study.nc")
    with pytest.raises(SalienceError, match="neither scores nor maps"):
        Study(xarray.Dataset()).save(tmp_path / "study.nc")
    assert not os.listdir(tmp_path)


def test_the_folder_of_the_command_opens_with_its_score_and_has_one_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    )
    np.save("x.npy", np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return done.output

    check = ("check", "nets.py:net", "x.npy", "--methods", "gradient", "-o", "out")
    run(*check, "--repeats", "1")
    first = salience.open("out")
    assert first.score == "spearman_abs" and first.repeats == 1
    first.data.close()
    run(*check, "--repeats", "3", "--score", "pearson", "--format", "zarr", "--overwrite")
    second = salience.open("out")
    assert second.repeats == 3 and second.verdicts().score == "pearson"
    assert sorted(os.listdir("out")) == ["cascade.png", "similarity.png", "study.zarr"]
    run("report", "out", "-o", "page.html")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "From 3 random networks" in page and "From 1 random network" not in page
    assert "--score=pearson" in page


def test_maps_of_explain_open_too(tmp_path: Path) -> None:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    salience.explain(lambda x: x.square().flatten(1) / 2, x, "gradient", 3).save(
        tmp_path / "maps.nc"
    )
    assert isinstance(salience.open(tmp_path), salience.Maps)
    study = open_study(tmp_path)
    assert study.methods == study.map_methods == ["gradient"] and not study.tested
    assert study.maps.shape == (1, 1, 2, 1, 8, 8)
    assert "Maps, and no randomisation test." in repr(study)
    assert study.save(tmp_path / "study.zarr").exists()


# -- faces -----------------------------------------------------------------------------------------


def test_figures_and_the_report_are_those_of_their_rooms(study: Study, tmp_path: Path) -> None:
    figure, same = (
        study.plot.similarity(score="pearson"),
        salience.plot.similarity(study.data, score="pearson"),
    )
    assert isinstance(figure, Figure)
    lines = [[line.get_ydata() for line in f.axes[0].get_lines()] for f in (figure, same)]
    np.testing.assert_array_equal(*map(np.array, lines))
    assert len(study.plot.cascade([0, 2]).axes) == 2 + 2 * len(SINGLE) * 3
    page = study.report(tmp_path / "page.html", title="Mine").read_text(encoding="utf-8")
    assert "<h1>Mine</h1>" in page


def test_the_figure_is_about_the_score_that_the_study_says(study: Study) -> None:
    named = Study(study.data.assign_attrs(score="ssim"))
    assert named.plot.similarity().axes[0].get_ylabel().startswith("SSIM")


def test_a_test_returns_a_study() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    study = salience.randomization_test(
        net, torch.randn(3, 4), cascade=salience.Cascade(repeats=1), progress=False
    )
    assert isinstance(study, Study) and study.methods == SINGLE
