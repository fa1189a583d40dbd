"""What a user sees in a notebook that asks for nothing: tables and figures, each once."""

import base64
import io
import sys
from typing import Any

import pytest
from notebooks import executed
from PIL import Image

CELLS = {
    "interpreter": "import sys; sys.executable",
    "network": """
import torch, salience
from torch import nn
torch.set_num_threads(1)
model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(72, 3)).eval()
x = torch.rand(2, 1, 8, 8)
tape = salience.record(model, x)
maps = salience.explain(model, x, ["gradient", "lrp_epsilon"], target=1)
study = salience.randomization_test(
    model, x, "gradient", cascade=salience.Cascade(repeats=2), keep_maps=1, progress=False)
""",
    "tape": "tape",
    "coverage": 'tape.coverage("guided_backprop")',
    "maps": "maps",
    "study": "study",
    "verdicts": "study.verdicts()",
    "figure of maps": "maps.plot()",
    "figure of the scores": "study.plot.similarity()",
    "figure of the cascade": "salience.plot.cascade(study)",
    "pyplot": "'matplotlib.pyplot' in sys.modules",
    "inline": "%matplotlib inline",
    "figure inline": "maps.plot()",
}
TABLES = {
    "tape": "Tape of Sequential",
    "coverage": "not covered",
    "maps": "Maps of 2 inputs by 2 methods",
    "study": "Study of Sequential",
    "verdicts": "similarity",
}
FIGURES = [name for name in CELLS if name.startswith("figure")]


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> dict[str, list[Any]]:
    """The outputs of each cell, by its name."""
    outputs = executed(list(CELLS.values()), tmp_path_factory.mktemp("notebook"))
    return dict(zip(CELLS, outputs, strict=True))


def only(outputs: list[Any]) -> dict[str, Any]:
    """The data of a cell that shows one thing, once."""
    (output,) = outputs
    return output["data"]


def test_the_kernel_is_this_interpreter(shown):
    assert only(shown["interpreter"])["text/plain"] == repr(sys.executable)


def test_a_cell_that_ends_in_no_value_shows_nothing(shown):
    assert shown["network"] == shown["inline"] == []


@pytest.mark.parametrize("name", TABLES)
def test_results_are_tables_in_html_and_in_text(shown, name: str):
    data = only(shown[name])
    assert "<table>" in data["text/html"] and TABLES[name] in data["text/html"]
    assert TABLES[name] in data["text/plain"] and len(data["text/plain"].splitlines()) > 2


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_pictures_once_with_and_without_inline(shown, name: str):
    data = only(shown[name])
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as picture:
        assert picture.format == "PNG" and min(picture.size) > 100


def test_nothing_was_needed_of_pyplot(shown):
    assert only(shown["pyplot"])["text/plain"] == "False"
