"""One self-contained HTML file of a study."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salience._files.writing import whole
from salience._study.schema import tested
from salience._study.verdicts import THRESHOLDS, Verdict, Verdicts, verdicts
from salience.plot._pictures import shortened
from salience.report import _figures as figures
from salience.report import _numbers as numbers
from salience.report import _pixels as pixels
from salience.report import _words as words
from salience.report._extras import Extras, completed

if TYPE_CHECKING:
    import xarray

LARGEST = 15_000_000  # bytes of the file
_RESERVE = 500_000  # for numbers, tables and names, beside scripts and pixels
_SCRIPTS = ("pixels.js", "gestures.js", "viewer.js", "curves.js", "page.js")


def build(
    dataset: xarray.Dataset,
    path: str | Path,
    *,
    title: str | None = None,
    attribution: xarray.Dataset | None = None,
    coverage: Mapping[str, Sequence[str]] | None = None,
    errors: Mapping[str, float] | None = None,
    score: str | None = None,
    largest: int = LARGEST,
) -> Path:
    """Write a study as one HTML file that needs nothing beside it, and return its path.

    dataset      from `randomization_test`; its maps are shown if it was run with keep_maps=n
    title        of the page; by default the question, about the dataset's model
    attribution  from `attribution_by_value`; by default quarters of the values of the inputs held
    coverage     method -> operations that it has no rule for, in place of the dataset's
    errors       method -> largest relative conservation or completeness error, in the same way
    score        that verdicts are about, as in `verdicts`
    largest      bytes that the file may have; maps are made smaller, and then fewer, to fit

    Errors: OSError where the file cannot be written.

    >>> import tempfile, torch, salience, salience.report
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> data = salience.randomization_test(net.eval(), torch.randn(3, 6), progress=False)
    >>> salience.report.build(data, tempfile.mkdtemp() + "/report.html").name
    'report.html'
    """
    extras = Extras(attribution, coverage, errors, score)
    return write(dataset, Path(path), extras, title, largest)


def write(
    dataset: xarray.Dataset, path: Path, extras: Extras, title: str | None, largest: int = LARGEST
) -> Path:
    """The page as a file; it is whole or not there."""
    plan = None
    with whole(path) as partial:
        if "maps" in dataset:
            room = largest - _RESERVE - sum(len(text.encode()) for text in _scripts())
            plan = pixels.fitted(dataset, room * 3 // 4)
        text = render(dataset, extras, title, plan, embedded=True)
        partial.write_text(text, encoding="utf-8")
    return path


def render(
    dataset: xarray.Dataset,
    extras: Extras,
    title: str | None,
    plan: pixels.Plan | None,
    *,
    embedded: bool,
) -> str:
    """The page; its pixels are in it, or asked for from where it came from."""
    extras = completed(extras, dataset)
    judged, scripts = _judged(dataset, extras.score), _scripts()
    study, roots = _numbers(dataset, judged, extras, plan), _figures(dataset, extras, plan)
    model = str(dataset.attrs.get("model", "this network"))
    question = f"Which saliency maps of {model} can be believed?"
    return _template().render(
        title=title or (question if judged else f"Saliency maps of {model}"),
        policy=_policy(scripts, "'none'" if embedded else "'self'"),
        style=_asset("page.css"),
        scripts=scripts,
        study=study,
        data=_json(study),
        bokeh=_json(figures.as_json(roots)),
        blocks=_blocks(dataset, plan) if plan and embedded else [],
        answer=words.answer(dataset, judged) if judged else [("No test", words.UNTESTED)],
        limits=words.LIMITS,
        provenance=numbers.provenance_rows(dataset.attrs),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={"salience": version("salience"), "Bokeh": version("bokeh")},
        curve_style=figures.curve_style,
    )


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    return environment.from_string(_asset("page.html.jinja"))


def _judged(dataset: xarray.Dataset, score: str | None) -> Verdicts:
    if not tested(dataset):
        return Verdicts()
    low, high = THRESHOLDS
    return verdicts(dataset, score=score, sensitive=low, insensitive=high)


def _numbers(
    dataset: xarray.Dataset,
    judged: Mapping[str, Verdict],
    extras: Extras,
    plan: pixels.Plan | None,
) -> dict[str, Any]:
    """Everything that the page shows as a number, as the script reads it."""
    coverage, shares = extras.coverage, extras.attribution
    return {
        "thresholds": list(THRESHOLDS),
        "test": _test(dataset, judged, extras) if judged else None,
        "maps": None if plan is None else _maps(dataset, plan),
        "attribution": None if shares is None else numbers.attribution_rows(shares),
        "coverage": None if coverage is None else {k: list(v) for k, v in coverage.items()},
        "errors": numbers.plain(dict(extras.errors or {})),
    }


def _test(dataset: xarray.Dataset, judged: Mapping[str, Verdict], extras: Extras) -> dict[str, Any]:
    rises = dataset.attrs.get("kind") == "efficient"
    scores = numbers.ordered_scores(dataset, extras.score)
    return {
        "measure": "rise" if rises else "retention",
        "methods": list(map(str, dataset["method"].values)),
        "roles": list(map(str, dataset["role"].values)),
        "stages": list(map(str, dataset["stage"].values)),
        "order": str(dataset.attrs.get("order", "top_down")),
        "scores": {name: numbers.SCORES.get(name, name) for name in scores},
        "similarity": numbers.similarity(dataset, scores),
        "first": numbers.first_repeat(dataset, scores[0]),
        "rows": numbers.verdict_rows(dataset, judged, extras.errors),
    }


def _maps(dataset: xarray.Dataset, plan: pixels.Plan) -> dict[str, Any]:
    stages = list(map(str, dataset["map_stage"].values))
    return {
        "methods": list(map(str, dataset["map_method"].values)),
        "stages": [stages[k] for k in plan.stages],
        "stage_numbers": list(plan.stages), "samples": list(plan.samples),
        "names": [_input_name(dataset, k) for k in plan.samples],
        "size": list(plan.size), "inputs": list(plan.inputs),
        "full": list(pixels.picture_size(dataset)),
        "depth": pixels.inputs_depth(dataset), "signed": pixels.signed_methods(dataset),
        "clip": pixels.CLIP, "notes": _left_out(dataset, plan),
    }  # fmt: skip


def _left_out(dataset: xarray.Dataset, plan: pixels.Plan) -> list[str]:
    """In words, what of the maps the page does not hold."""
    height, width = pixels.picture_size(dataset)
    stages, samples = dataset.sizes["map_stage"] - 1, dataset.sizes["map_sample"]
    notes = []
    if plan.size != (height, width):
        notes.append(
            f"Maps of {height} x {width} pixels were averaged to {plan.size[0]} x {plan.size[1]}, "
            "so that this file stays small enough to be sent."
        )
    if plan.inputs != (height, width):
        notes.append(f"Inputs were averaged to {plan.inputs[0]} x {plan.inputs[1]} pixels.")
    if len(plan.stages) - 1 < stages:
        notes.append(f"{len(plan.stages) - 1} of {stages} randomised stages are held.")
    if len(plan.samples) < samples:
        notes.append(f"{len(plan.samples)} of {samples} inputs are held.")
    return [*notes, "The whole study opens with salience view."] if notes else []


def _input_name(dataset: xarray.Dataset, number: int) -> str:
    named = "map_sample" in dataset.coords
    name = str(dataset["map_sample"].values[number]) if named else str(number)
    return f"input {name}" if name.isdecimal() else name


def _figures(dataset: xarray.Dataset, extras: Extras, plan: pixels.Plan | None) -> list[Any]:
    roots = []
    if plan is not None:
        height, width = pixels.picture_size(dataset)
        colour = pixels.inputs_depth(dataset) == 3
        roots += figures.panels(dataset.sizes["map_method"], height, width, colour)
    if tested(dataset) and dataset.attrs.get("kind") != "efficient":
        roles, stages = map(list, (dataset["role"].values, dataset["stage"].values))
        roots.append(figures.curves(list(map(str, roles)), _short(stages), THRESHOLDS))
    if extras.attribution is not None:
        rows = numbers.attribution_rows(extras.attribution)
        roots += [figures.shares(rows, number) for number in range(len(rows["outputs"]))]
    return roots


def _short(stages: Sequence[Any]) -> list[str]:
    return [shortened(str(name), 28) for name in stages]


def _blocks(dataset: xarray.Dataset, plan: pixels.Plan) -> list[str]:
    """One for each input: the input, then its maps at each stage."""
    return [
        base64.b64encode(b"".join([
            pixels.input_block(dataset, sample, plan.inputs),
            *(pixels.map_block(dataset, sample, stage, plan.size) for stage in plan.stages),
        ])).decode()
        for sample in plan.samples
    ]  # fmt: skip


def _scripts() -> list[str]:
    """Bokeh's and our own; what the policy of the page allows to run, and nothing else."""
    from bokeh.resources import Resources

    bokeh = Resources(mode="inline", components=["bokeh"]).js_raw[0]
    own = "\n".join(_asset(name) for name in _SCRIPTS)
    return [bokeh, f"'use strict';(() => {{\n{own}\n}})();"]


def _policy(scripts: Sequence[str], connect: str) -> str:
    """Only the page's own scripts run, known by their hashes; nothing is asked of other hosts."""
    allowed = " ".join(f"'sha256-{_digest(text)}'" for text in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:;"
        f" connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return files("salience.report").joinpath("assets", name).read_text(encoding="utf-8")


def _json(value: Any) -> Any:
    """JSON that no string in it can leave: it stands in a script element."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _number(value: float | None, form: str = ".2f") -> str:
    if value is None:
        return "–"
    text = format(value, form)
    return text.removeprefix("-") if float(text) == 0 else text
