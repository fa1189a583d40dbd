"""The report's file: its numbers, its size, what it says, and what it cannot be made to do."""

from __future__ import annotations

import base64
import html
import json
import re
import threading
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from torch import nn

from salience import SalienceError, attribution_by_value, randomization_test, verdicts
from salience.report import build
from salience.report.command import report_command
from salience.report.page import Extras, render
from salience.report.pixels import LEVELS, fitted, input_block, map_block, quantised, whole
from salience.report.serve import server
from salience.report.store import open_study

HOSTILE = '</script><img src=x onerror="document.body.dataset.hit=1"><script>alert(1)</script>'


def small_net(channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 64, 3)).eval()


@pytest.fixture(scope="module")
def study() -> xarray.Dataset:
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    return randomization_test(small_net(), x, repeats=2, keep_maps=3, progress=False)


@pytest.fixture(scope="module")
def page(study: xarray.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = build(study, tmp_path_factory.mktemp("report") / "report.html")
    return path.read_text(encoding="utf-8")


def block_of(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


class Reader(HTMLParser):
    """Every element with its attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in ("script", "style"):
            self.words.append(data)


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
    first = study["spearman_abs"].values[:, :, 0, :3]
    np.testing.assert_array_equal(np.array(test["first"], dtype=float), first)


def test_verdicts_are_those_of_the_dataset(study: xarray.Dataset, page: str) -> None:
    judged = verdicts(study)
    rows = {row["method"]: row for row in block_of(page, "study")["test"]["rows"]}
    assert rows.keys() == judged.keys()
    for name, v in judged.items():
        assert rows[name]["verdict"] == v.verdict and rows[name]["sentence"] == v.sentence
        assert rows[name]["retention"] == v.retention
        assert (rows[name]["low"], rows[name]["high"]) == (v.low, v.high)
        assert rows[name]["last"] == v.last
    told = " ".join(Reader(page).words)
    for v in judged.values():
        assert f"[{v.low + 0.0:.2f}, {v.high:.2f}]".replace("[-0.00", "[0.00") in told


def test_what_is_known_beside_the_test_is_shown(study: xarray.Dataset, tmp_path: Path) -> None:
    page = build(
        study, tmp_path / "a.html", errors={"lrp_epsilon": 0.125}, costs={"gradient": 1.5},
        coverage={"gradient": [], "lrp_epsilon": ["aten::gelu"]},
    ).read_text(encoding="utf-8")  # fmt: skip
    assert 'data-value="0.125">0.12<' in page and 'data-value="1.5">1.5<' in page
    assert "<dt>lrp_epsilon</dt><dd>aten::gelu</dd>" in page and "<dt>gradient</dt>" not in page
    for key, value in study.attrs.items():
        assert f"<dt>{key}</dt><dd>{html.escape(str(value), quote=False)}"[:60] in page.replace(
            "&#39;", "'"
        ).replace("&#34;", '"')


def test_every_method_is_answered_for(study: xarray.Dataset, page: str) -> None:
    answer = page[page.index('id="answer"') : page.index('id="verdicts"')]
    for v in verdicts(study).values():
        assert v.role != "method" or v.method in answer
    assert "From 2 random networks and 4 inputs" in answer


def test_pixels_give_back_the_maps(study: xarray.Dataset, page: str) -> None:
    held = block_of(page, "study")["maps"]
    blocks = re.findall(r'<script type="text/plain" class="block">(.*?)</script>', page)
    assert len(blocks) == 3 and held["size"] == [32, 32] and not held["notes"]
    count, pixels = len(held["methods"]), 32 * 32
    for sample, text in enumerate(blocks):
        raw = base64.b64decode(text)
        low, high = np.frombuffer(raw[:8], "<f4")
        grey = low + np.frombuffer(raw[8 : 8 + pixels], np.uint8) / 255 * (high - low)
        x = study["inputs"].values[sample, 0]
        np.testing.assert_allclose(grey.reshape(32, 32), x, atol=0.51 * (high - low) / 255)
        at = 8 + pixels
        for stage in range(study.sizes["map_stage"]):
            peaks = np.frombuffer(raw[at : at + 4 * count], "<f4")
            at += 8 * count
            codes = np.frombuffer(raw[at : at + count * pixels], np.int8).astype(float)
            at += count * pixels
            ratio = np.sign(codes) * (codes / LEVELS) ** 2
            maps = study["maps"].values[:, stage, sample, 0]
            shown = ratio.reshape(maps.shape) * peaks[:, None, None]
            # codes are rounded roots: half a code is 1 / 254 of the root of the peak
            tolerance = 2 * np.sqrt(np.abs(maps) * peaks[:, None, None]) * 0.51 / LEVELS
            assert (np.abs(shown - maps) <= tolerance + peaks[:, None, None] * 2e-5).all()
        assert at == len(raw)


def test_codes_of_undefined_and_empty_maps() -> None:
    pictures = np.array([[[np.nan, 1.0], [-2.0, np.inf]], [[0.0, 0.0], [0.0, 0.0]]])
    peaks, limits, codes = quantised(pictures)
    assert peaks.tolist() == [2.0, 0.0] and limits[1] == 0
    assert codes[0].ravel().tolist() == [-128, round(127 * 0.5**0.5), -127, -128]
    assert not codes[1].any()


def large(methods: int = 10, stages: int = 20, samples: int = 16, side: int = 128) -> Any:
    """A study of noise: the least compressible maps, and scores of the right shape."""
    random = np.random.default_rng(0)
    names = np.array([f"method_{i}" for i in range(methods)], dtype=object)
    steps = np.array([f"layer{i}.weight" for i in range(stages)], dtype=object)
    scores = random.uniform(0, 1, (methods, stages, 5, samples))
    dims = ("method", "stage", "repeat", "sample")
    maps = random.standard_normal((methods, stages + 1, samples, 1, side, side), dtype=np.float32)
    space = ("axis_1", "axis_2", "axis_3")
    return xarray.Dataset(
        {
            **dict.fromkeys(("spearman_abs", "spearman", "ssim"), (dims, scores)),
            "other_inputs": (("method", "sample"), scores[:, 0, 0]),
            "maps": (("map_method", "map_stage", "map_sample", *space), maps),
            "inputs": (("map_sample", *space), maps[0, 0]),
        },
        {
            "method": names, "stage": steps, "role": ("method", ["method"] * methods),
            "constant_over_inputs": ("method", [0] * methods),
            "number": ("stage", np.arange(stages)), "map_method": names,
            "map_stage": np.array(["trained", *steps], dtype=object),
        },
        {"stage_count": stages, "model": "Large"},
    )  # fmt: skip


def test_a_large_study_fits_into_15_megabytes_and_says_what_it_left_out(tmp_path: Path) -> None:
    path = build(large(), tmp_path / "large.html")
    assert path.stat().st_size <= 15_000_000
    page = path.read_text(encoding="utf-8")
    held = block_of(page, "study")["maps"]
    assert len(held["samples"]) == 16 and len(held["methods"]) == 10 and len(held["stages"]) == 21
    assert min(held["size"]) >= 48
    words = " ".join(Reader(page).words)
    assert f"Maps of 128 x 128 pixels were averaged to {held['size'][0]} x" in words
    assert "salience view" in words


@pytest.mark.parametrize("budget", [50_000, 150_000, 300_000, 10_000_000])
def test_plans_keep_to_their_budget(budget: int) -> None:
    dataset = large(3, 8, 4, 64)
    plan = fitted(dataset, budget)
    maps = sum(
        len(map_block(dataset, sample, stage, plan.size))
        for sample in plan.samples for stage in plan.stages
    )  # fmt: skip
    inputs = sum(len(input_block(dataset, sample, plan.inputs)) for sample in plan.samples)
    heads = 8 * (1 + 3 * len(plan.stages)) * len(plan.samples)
    assert maps + inputs - heads <= budget
    assert plan.stages[0] == 0 and plan.stages[-1] == 8  # trained, and wholly random
    assert (plan == whole(dataset)) == (budget == 10_000_000)


def test_averages_keep_the_mean() -> None:
    dataset = large(2, 1, 1, 60)
    raw = map_block(dataset, 0, 0, (20, 20))
    peaks = np.frombuffer(raw[:8], "<f4")
    codes = np.frombuffer(raw[16:], np.int8).reshape(2, 20, 20) / LEVELS
    blocks = dataset["maps"].values[:, 0, 0, 0].reshape(2, 20, 3, 20, 3).mean((2, 4))
    shown = np.sign(codes) * codes**2 * peaks[:, None, None]
    np.testing.assert_allclose(shown, blocks, atol=0.01 * peaks.max())


def hostile(study: xarray.Dataset) -> xarray.Dataset:
    """The study with markup in every name that a user can choose."""
    names = [f"{name}{HOSTILE}" if k == 0 else name for k, name in enumerate(study.method.values)]
    stages = [f"{HOSTILE}{name}" for name in study.stage.values]
    seen = [f"{name}{HOSTILE}" if name == study.method.values[0] else name
            for name in study.map_method.values]  # fmt: skip
    made = study.assign_coords({
        "method": np.array(names, dtype=object), "stage": np.array(stages, dtype=object),
        "map_method": np.array(seen, dtype=object),
        "map_stage": np.array(["trained", *stages], dtype=object),
        "map_sample": np.array([f"{k}{HOSTILE}" for k in range(3)], dtype=object),
    })  # fmt: skip
    return made.assign_attrs({"model": HOSTILE, "command": HOSTILE, HOSTILE: f"$$x$$ {HOSTILE}"})


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


def policy_of(page: str) -> str:
    held = [given for _, given in Reader(page).elements if "http-equiv" in given]
    assert [given["http-equiv"] for given in held] == ["Content-Security-Policy"]
    return str(held[0]["content"])


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
        net, torch.randn(shape), ["gradient"], repeats=2, keep_maps=2, progress=False
    )
    held = block_of(build(data, tmp_path / "a.html").read_text(), "study")["maps"]
    assert held["depth"] == (3 if shape[1:] == (3, 32, 32) else 1)
    assert held["size"] == [1 if len(shape) < 4 else shape[-2], shape[-1]]


def test_an_efficient_test_is_told_in_its_own_terms(tmp_path: Path) -> None:
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    data = randomization_test(
        small_net(), x, ["gradient"], kind="efficient", repeats=2, progress=False
    )
    page = build(data, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "rise of complexity" in page.replace("rise of\ncomplexity", "rise of complexity")
    assert "etention" not in page[page.index("<main>") : page.index('id="limits"')]
    assert 'id="curves"' not in page  # there is one stage


def test_studies_are_read_from_their_folders(study: xarray.Dataset, tmp_path: Path) -> None:
    told = {"score": "spearman", "uncovered": {"lrp_epsilon": ["gelu"]},
            "model_fingerprint": study.attrs["model_fingerprint"]}  # fmt: skip
    for name, form in (("nc", "study.nc"), ("zarr", "study.zarr")):
        folder = tmp_path / name
        folder.mkdir()
        text = {n: c.astype(object) for n, c in study.coords.items() if c.dtype.kind == "U"}
        held = study.assign_coords(text)
        if name == "nc":
            held.to_netcdf(folder / form)
        else:
            held.to_zarr(folder / form, consolidated=False)
        (folder / "verdicts.json").write_text(json.dumps(told))
        for path in (folder, folder / form):
            found = open_study(path)
            assert found.coverage == {"lrp_epsilon": ["gelu"]} and found.score == "spearman"
            np.testing.assert_array_equal(found.dataset["maps"].values, study["maps"].values)
        (folder / "verdicts.json").write_text(json.dumps({**told, "model_fingerprint": "other"}))
        assert open_study(folder).coverage is None
    said: list[str] = []
    out = report_command(tmp_path / "nc", tmp_path / "new" / "page.html", edges=[0, 1],
                         say=said.append)  # fmt: skip
    assert said == [str(out)]
    shares = block_of(out.read_text(), "study")["attribution"]
    assert shares["classes"] == ["< 0", "0 to 1", ">= 1"]
    np.testing.assert_allclose(np.sum(shares["mean"][0], 1), 1, atol=1e-12)


def test_maps_of_explain_are_reported(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    origin = json.dumps({"model": "Net", "options": {"target": 1}})
    np.savez(
        tmp_path / "maps.npz", input=x, output=x[:, 0, 0], target_value=x[:, 0, 0, 0],
        lrp_epsilon=2 * x, provenance=np.array(origin),
        **{"lrp_epsilon.conservation_error": np.array([0.1, 0.3])},
    )  # fmt: skip
    stored = open_study(tmp_path)
    assert stored.errors == {"lrp_epsilon": 0.3}
    page = report_command(tmp_path, tmp_path / "report.html", say=lambda _: None).read_text()
    assert block_of(page, "study")["maps"]["methods"] == ["lrp_epsilon"]


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SalienceError, match=r"expected a folder with study\.nc"):
        open_study(tmp_path)
    (tmp_path / "study.nc").write_text("nothing")
    with pytest.raises(SalienceError, match="expected a study in"):
        open_study(tmp_path)
    xarray.Dataset({"a": ("b", [1.0])}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(SalienceError, match=r"expected scores or maps in .*; got \['a'\]"):
        open_study(tmp_path / "other.nc")


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
    serving = server(study, Extras())
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        assert serving.server_address[0] == "127.0.0.1"
        address = f"http://127.0.0.1:{serving.server_port}"
        page = asked(f"{address}/").decode()
        assert "connect-src 'self'" in policy_of(page) and 'class="block"' not in page
        assert asked(f"{address}/maps/2/1") == map_block(study, 2, 1, (32, 32))
        assert asked(f"{address}/inputs/2") == input_block(study, 2, (32, 32))
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


def test_pages_differ_in_where_pixels_come_from_alone(study: xarray.Dataset) -> None:
    plan = whole(study)
    held, served = (
        block_of(render(study, Extras(), None, plan, embedded=e), "study") for e in (True, False)
    )
    assert held == served
