"""The same function has the same maps in ONNX files of the new exporter."""

from __future__ import annotations

from pathlib import Path

import pytest
from spelled_layers import FORMS, check_form


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=[pytest.mark.slow] if form == "onnx 20 new" else [])
        for form in FORMS
        if form.endswith("new")
    ],
)
def test_one_function_in_many_spellings(form: str, tmp_path: Path):
    check_form(form, tmp_path)
