"""The same function has the same maps in ONNX files of the new exporter."""

from pathlib import Path

import pytest
from spelled_layers import check_form, forms


@pytest.mark.parametrize("form", forms("onnx", "new"))
def test_one_function_in_many_spellings(form: str, tmp_path: Path):
    check_form(form, tmp_path)
