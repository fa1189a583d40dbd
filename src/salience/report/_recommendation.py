"""Which methods to use, as the page shows it first: a sentence, the plane, and a table."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

from salience._study.faithful import Faithful
from salience._study.study import Study
from salience.report._numbers import plain

DOTS = 110  # per inch of the figure


def recommendation(study: Study) -> dict[str, Any] | None:
    """What the page shows of a test of faithfulness; None where there is none."""
    if not study.has_faithfulness:
        return None
    found = study.recommend()
    rows = [
        {**_numbers(found.measured[name]), "gate": passed.gate, "why": passed.why}
        for name, passed in found.passed.items()
    ]
    controls = [_numbers(f) for f in found.measured.values() if f.role != "method"]
    return {
        "sentence": found.sentence,
        "rows": rows,
        "controls": controls,
        "score": found.measured.score,
        "networks": found.measured.networks,
        "told": found.measured.told,
        "gates": found.caption()[1:],
        "figure": _figure(study),
    }


def _numbers(f: Faithful) -> dict[str, Any]:
    return plain(
        {
            "name": f.name,
            "role": f.role,
            "score": f.score,
            "low": f.low,
            "high": f.high,
            "gain": f.gain,
            "gain_low": f.gain_low,
            "gain_high": f.gain_high,
            "p": f.p,
            "other": f.other,
            "error": f.error,
        }
    )


def _figure(study: Study) -> str:
    """The plane as a PNG in base64."""
    page = BytesIO()
    study.plot.plane().savefig(page, format="png", dpi=DOTS)
    return base64.b64encode(page.getvalue()).decode()
