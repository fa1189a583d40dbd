"""Every figure shows itself in a notebook, and is a figure of matplotlib as any other."""

import io
import subprocess
import sys

import pytest
import torch
from matplotlib import rcParams
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import salience
from salience import plot


@pytest.fixture(scope="module")
def study():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).eval()
    cascade = salience.Cascade(repeats=2)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return salience.randomization_test(
        net, x, "gradient", cascade=cascade, keep_maps=1, progress=False
    )


X, IDS = torch.rand(2, 1, 4, 4), torch.tensor([[5, 1, 3], [2, 2, 0]])
MAPS = salience.explain(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval(), X, "gradient", 1)
FAITHFUL = salience.faithfulness(
    nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval(), X, "gradient", 1,
    salience.Removal(subsets=5), cascade=salience.Cascade(repeats=2), progress=False,
)  # fmt: skip
FIGURES = {
    "maps": lambda study: plot.maps(X, {"a": X}),
    "tokens": lambda study: plot.tokens(IDS, {"a": IDS / 5}),
    "similarity": plot.similarity,
    "plane": lambda study: plot.plane(FAITHFUL),
    "cascade": plot.cascade,
    "attribution_by_value": lambda study: plot.attribution_by_value(
        salience.attribution_by_value({"a": X}, X, edges=[0.5])
    ),
    "Maps.plot": lambda study: MAPS.plot(),
    "Study.plot.similarity": lambda study: study.plot.similarity(),
    "Study.plot.cascade": lambda study: study.plot.cascade(),
}


def test_every_function_of_the_room_is_here():
    assert set(plot.__all__) <= FIGURES.keys()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_itself_as_it_is_saved(name, study):
    before = dict(rcParams)
    figure, again = FIGURES[name](study), FIGURES[name](study)  # a layout may change as it is drawn
    assert isinstance(figure, Figure)
    shown, file = Image.open(io.BytesIO(figure._repr_png_())), io.BytesIO()
    again.savefig(file)
    saved = Image.open(file)
    assert shown.format == saved.format == "PNG" and shown.tobytes() == saved.tobytes()
    assert len(set(shown.convert("L").tobytes())) > 2  # something is drawn
    assert dict(rcParams) == before


def test_matplotlib_is_loaded_when_a_figure_is_drawn_and_not_before():
    program = "import sys, salience, salience.plot; assert 'matplotlib' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
