"""Studies read back, pages written and served, and what a hostile name cannot do."""

from __future__ import annotations

import html
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from report_pages import (
    HOSTILE,
    Reader,
    block_of,
    hostile,
    policy_of,
    small_study,
)
from typer.testing import CliRunner

import salience
from salience import Maps, SalienceError, Study, attribution_by_value, methods
from salience._cli.app import app
from salience._cli.report import report_command
from salience.report import build
from salience.report._extras import Extras
from salience.report._page import render
from salience.report._pixels import input_block, map_block, whole
from salience.report._serve import server


@pytest.fixture(scope="module")
def study() -> xarray.Dataset:
    return small_study()


@pytest.fixture(scope="module")
def page(study: xarray.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = build(study, tmp_path_factory.mktemp("report") / "report.html")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "form"), [("nc", "study.nc"), ("zarr", "study.zarr")])
def test_studies_are_read_from_their_folders(
    study: xarray.Dataset, tmp_path: Path, name: str, form: str
) -> None:
    study = study.assign_attrs(score="spearman")
    if name == "nc":
        study.to_netcdf(tmp_path / form)
    else:
        study.to_zarr(tmp_path / form, consolidated=False)
    for path in (tmp_path, tmp_path / form):
        found = salience.open(path)
        assert found.score == found.verdicts().score == "spearman"
        with found.data as held:
            np.testing.assert_array_equal(held["maps"].values, study["maps"].values)
    said: list[str] = []
    out = report_command(tmp_path, tmp_path / "new" / "page.html", edges=[0, 1], say=said.append)
    assert said == [str(out)]
    shares = block_of(out.read_text(), "study")["attribution"]
    assert shares["classes"] == ["< 0", "0 to 1", ">= 1"] and shares["units"] == "sigma"
    np.testing.assert_allclose(np.sum(shares["mean"][0], 1), 1, atol=1e-12)


FACTORY = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(144, 3))
"""


def test_the_page_of_a_plain_check_has_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(FACTORY)
    x = np.random.default_rng(0).normal(size=(5, 1, 14, 14)).astype(np.float32)
    np.save("x.npy", x)
    for arguments in (["check", "nets.py:net", "x.npy", "--repeats", "2", "-o", "out"],
                      ["report", "out", "-o", "page.html"]):  # fmt: skip
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    page = Path("page.html").read_text(encoding="utf-8")
    held = block_of(page, "study")
    assert held["maps"]["stages"] == ["trained", "4.weight", "0.weight"]
    assert held["maps"]["names"] == ["input 0", "input 1", "input 2", "input 3"]
    assert held["coverage"]["guided_backprop"] == ["gelu"] and held["coverage"]["gradient"] == []
    assert "<dt>guided_backprop</dt><dd>gelu</dd>" in page
    rows = {row["method"]: row for row in held["test"]["rows"]}
    sums = {name for name, m in methods.items() if m.relevance and m.single_pass}
    assert {n for n, row in rows.items() if row["error"] is not None} == sums
    shares = held["attribution"]
    assert len(shares["classes"]) == 4 and shares["units"] == "absolute" and shares["inputs"] == 4
    np.testing.assert_allclose(shares["chance"], 0.25, atol=0.01)  # quarters
    assert "Not measured" not in page and "not recorded" not in page
    for name in ("command_line", "model_fingerprint", "data_fingerprint", "machine", "time",
                 "seed", "torch", "numpy", "salience"):  # fmt: skip
        assert f"<dt>{name}</dt>" in page


def test_maps_of_explain_are_reported(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    inputs = torch.from_numpy(x)
    Maps(
        {"lrp_epsilon": 2 * inputs, "gradient": inputs},
        inputs,
        inputs[:, 0, 0],
        inputs[:, 0, 0, 0],
        {"lrp_epsilon": torch.tensor([0.1, 0.3], dtype=torch.float64)},
        error_names={"lrp_epsilon": "conservation_error"},
        attrs={"model": "Net", "options": json.dumps({"target": 1})},
    ).save(tmp_path / "maps.nc")
    page = report_command(tmp_path, tmp_path / "report.html", say=lambda _: None).read_text()
    held = block_of(page, "study")
    assert held["maps"]["methods"] == ["lrp_epsilon", "gradient"]
    assert held["errors"] == {"lrp_epsilon": 0.3}
    assert "<dt>lrp_epsilon</dt><dd>0.3</dd>" in page
    assert held["attribution"]["methods"] == ["lrp_epsilon", "gradient"]


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SalienceError, match=r"expected a folder with study\.nc"):
        salience.open(tmp_path)
    (tmp_path / "study.nc").write_text("nothing")
    with pytest.raises(SalienceError, match="expected a study in"):
        salience.open(tmp_path)
    xarray.Dataset({"a": ("b", [1.0])}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(SalienceError, match=r"the maps of one input, in .*; got a"):
        salience.open(tmp_path / "other.nc")


def test_a_failed_report_leaves_the_old_one(study: xarray.Dataset, tmp_path: Path) -> None:
    path = build(study, tmp_path / "report.html")
    before = path.read_bytes()
    with pytest.raises(SalienceError, match="score"):
        build(study, path, score="nonsense")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def asked(address: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
        return answer.read()


def test_the_view_serves_maps_on_demand_to_this_machine(study: xarray.Dataset) -> None:
    serving = server(Study(study), Extras())
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        assert serving.server_address[0] == "127.0.0.1"
        address = f"http://127.0.0.1:{serving.server_port}"
        page = asked(f"{address}/").decode()
        assert "connect-src 'self'" in policy_of(page) and 'class="block"' not in page
        assert asked(f"{address}/maps/2/1") == map_block(Study(study), 2, 1, (32, 32))
        assert asked(f"{address}/inputs/2") == input_block(Study(study), 2, (32, 32))
        for path in ("/maps/3/0", "/maps/0/99", "/inputs/-1", "/../secret", "/maps/0/0/x"):
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                asked(address + path)
            refused.value.close()
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            asked(f"{address}/", Host="evil.example")
        refused.value.close()
    finally:
        serving.shutdown()
        thread.join()
        serving.server_close()


def test_ctrl_c_ends_the_view(study: xarray.Dataset, tmp_path: Path) -> None:
    study.to_netcdf(tmp_path / "study.nc")
    environment = {**os.environ, "BROWSER": "true"}  # a browser that does nothing
    command = [sys.executable, "-m", "salience", "view", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment) as view:  # fmt: skip
        assert view.stdout is not None
        address = view.stdout.readline().split()[0]
        assert b"<h1>" in asked(address)
        view.send_signal(signal.SIGINT)
        out, error = view.communicate(timeout=20)
    assert view.returncode == 0
    assert out.strip() == "" and error == ""


def test_pages_differ_in_where_pixels_come_from_alone(study: xarray.Dataset) -> None:
    plan = whole(Study(study))
    held, served = (
        block_of(render(Study(study), Extras(), None, plan, embedded=e), "study")
        for e in (True, False)
    )
    assert held == served


def test_names_cannot_inject_markup(study: xarray.Dataset, page: str, tmp_path: Path) -> None:
    made = hostile(study)
    shares = attribution_by_value(
        {HOSTILE: made["maps"].values[0, 0]}, made["inputs"].values, [0.0]
    )
    path = build(made, tmp_path / "report.html", title=HOSTILE, attribution=shares,
                 coverage={HOSTILE: [HOSTILE]}, errors={HOSTILE: 0.1})  # fmt: skip
    seen, usual = Reader(path.read_text(encoding="utf-8")), Reader(page)
    kinds = {tag for tag, _ in usual.elements} | {"h3", "circle", "span"}
    assert {tag for tag, _ in seen.elements} <= kinds
    scripts = [name for name, _ in seen.elements].count("script")
    assert scripts == [name for name, _ in usual.elements].count("script")
    assert not any(key.startswith("on") for _, given in seen.elements for key in given)
    assert HOSTILE in " ".join(seen.words)  # it is shown, as text
    assert html.escape(HOSTILE) not in block_of(path.read_text(), "study")["test"]["methods"][0]


def test_nothing_is_asked_of_other_hosts(page: str) -> None:
    for tag, given in Reader(page).elements:
        assert tag not in ("iframe", "object", "embed", "form-action", "base")
        for key in ("src", "href", "action", "data", "srcset"):
            assert (given.get(key) or "#").startswith(("#", "data:")), (tag, given)
    policy = policy_of(page)
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy
    scripts = policy.split("script-src")[1].split(";")[0]
    assert "unsafe" not in scripts and scripts.count("'sha256-") == 2
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
