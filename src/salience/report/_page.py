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
from typing import TYPE_CHECKING

from salience._files.writing import whole
from salience._study.sentences import SCORES
from salience._study.study import Study, study_of
from salience._study.verdicts import Verdicts
from salience.plot._pictures import shortened
from salience.report import _figures as figures
from salience.report import _numbers as numbers
from salience.report import _pixels as pixels
from salience.report import _words as words
from salience.report._extras import Extras, completed
from salience.report._recommendation import recommendation

if TYPE_CHECKING:
    import xarray
    from jinja2 import Template
    from markupsafe import Markup

LARGEST = 15_000_000  # bytes of the file
_RESERVE = 500_000  # for numbers, tables and names, beside scripts and pixels
_SCRIPTS = ("pixels.js", "gestures.js", "viewer.js", "curves.js", "page.js")


def build(
    study: Study | xarray.Dataset,
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

    study        from `randomization_test`, or its dataset; its maps are shown if it was run with
                 keep_maps=n
    title        of the page; by default the question, about the study's model
    attribution  from `attribution_by_value`; by default quarters of the values of the inputs held
    coverage     method -> operations that it has no rule for, in place of the study's
    errors       method -> largest relative conservation, completeness or sampling error, likewise
    score        that verdicts are about, as in `verdicts`
    largest      bytes that the file may have; maps are made smaller, and then fewer, to fit

    Errors: OSError where the file cannot be written.

    >>> import tempfile, torch, salience, salience.report
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> study = salience.randomization_test(net.eval(), torch.randn(3, 6), progress=False)
    >>> salience.report.build(study, tempfile.mkdtemp() + "/report.html").name
    'report.html'
    """
    extras = Extras(attribution, coverage, errors, score)
    return write(study_of(study), Path(path), extras, title, largest)


def write(
    study: Study, path: Path, extras: Extras, title: str | None, largest: int = LARGEST
) -> Path:
    """The page as a file; it is whole or not there."""
    plan = None
    with whole(path) as partial:
        if study.has_maps:
            room = largest - _RESERVE - sum(len(text.encode()) for text in _scripts())
            plan = pixels.fitted(study, room * 3 // 4)
        text = render(study, extras, title, plan, embedded=True)
        partial.write_text(text, encoding="utf-8")
    return path


def render(
    study: Study,
    extras: Extras,
    title: str | None,
    plan: pixels.Plan | None,
    *,
    embedded: bool,
) -> str:
    """The page; its pixels are in it, or asked for from where it came from."""
    extras, scripts = completed(extras, study), _scripts()
    judged = study.verdicts(score=extras.score) if study.tested else None
    shown, roots = _numbers(study, judged, extras, plan), _figures(study, extras, plan)
    question = f"What is left of the saliency maps of {study.model} when its weights are random?"
    if study.has_faithfulness:
        question = f"Which saliency maps of {study.model} to use"
    return _template().render(
        title=title
        or (question if judged or study.has_faithfulness else f"Saliency maps of {study.model}"),
        policy=_policy(scripts, "'none'" if embedded else "'self'"),
        style=_asset("page.css"),
        scripts=scripts,
        study=shown,
        data=_json(shown),
        bokeh=_json(figures.as_json(roots)),
        blocks=_blocks(study, plan) if plan and embedded else [],
        advice=recommendation(study),
        answer=words.answer(study, judged) if judged else [("No test", words.UNTESTED)],
        limits=words.LIMITS,
        provenance=numbers.provenance_rows(study.data.attrs),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={"salience": version("salience"), "Bokeh": version("bokeh")},
        curve_style=figures.curve_style,
    )


def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    return environment.from_string(_asset("page.html.jinja"))


def _numbers(
    study: Study,
    judged: Verdicts | None,
    extras: Extras,
    plan: pixels.Plan | None,
) -> dict[str, object]:
    """Everything that the page shows as a number, as the script reads it."""
    coverage, shares = extras.coverage, extras.attribution
    return {
        "test": _test(study, judged, extras) if judged else None,
        "maps": None if plan is None else _maps(study, plan),
        "attribution": None if shares is None else numbers.attribution_rows(shares),
        "coverage": None if coverage is None else {k: list(v) for k, v in coverage.items()},
        "errors": numbers.plain(dict(extras.errors or {})),
    }


def _test(study: Study, judged: Verdicts, extras: Extras) -> dict[str, object]:
    scores = numbers.ordered_scores(study, judged.score)
    return {
        "measure": judged.measure,
        "randomized": judged.randomized,
        "total": judged.total,
        "caption": judged.caption(),
        "methods": list(study.roles),
        "roles": list(study.roles.values()),
        "stages": study.stages,
        "order": study.order,
        "scores": {name: SCORES.get(name, name) for name in scores},
        "similarity": numbers.similarity(study, scores),
        "first": numbers.first_repeat(study, scores[0]),
        "floors": numbers.floors(study, scores),
        "rows": numbers.verdict_rows(study, judged, extras),
    }


def _maps(study: Study, plan: pixels.Plan) -> dict[str, object]:
    stages, names = study.map_stages, study.map_names
    return {
        "methods": study.map_methods,
        "stages": [stages[k] for k in plan.stages],
        "stage_numbers": list(plan.stages),
        "samples": list(plan.samples),
        "names": [f"input {names[k]}" if names[k].isdecimal() else names[k] for k in plan.samples],
        "size": list(plan.size),
        "inputs": list(plan.inputs),
        "full": list(pixels.picture_size(study)),
        "depth": pixels.inputs_depth(study),
        "signed": pixels.signed_methods(study),
        "clip": pixels.CLIP,
        "notes": _left_out(study, plan),
    }


def _left_out(study: Study, plan: pixels.Plan) -> list[str]:
    """In words, what of the maps the page does not hold."""
    height, width = pixels.picture_size(study)
    stages, samples = len(study.map_stages) - 1, len(study.map_names)
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


def _figures(study: Study, extras: Extras, plan: pixels.Plan | None) -> list[figures.figure]:
    roots = []
    if plan is not None:
        height, width = pixels.picture_size(study)
        color = pixels.inputs_depth(study) == 3
        roots += figures.panels(len(study.map_methods), height, width, color)
    if study.tested and not study.rises:
        stages = [shortened(name, 28) for name in study.stages]
        roots.append(figures.curves(list(study.roles.values()), stages))
    if extras.attribution is not None:
        rows = numbers.attribution_rows(extras.attribution)
        roots += [figures.shares(rows, number) for number in range(len(rows["outputs"]))]
    return roots


def _blocks(study: Study, plan: pixels.Plan) -> list[str]:
    """One for each input: the input, then its maps at each stage."""
    blocks = []
    for sample in plan.samples:
        maps = [pixels.map_block(study, sample, stage, plan.size) for stage in plan.stages]
        parts = [pixels.input_block(study, sample, plan.inputs), *maps]
        blocks.append(base64.b64encode(b"".join(parts)).decode())
    return blocks


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


def _json(value: object) -> Markup:
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
    return text.removeprefix("-") if float(text.rstrip("%")) == 0 else text
