"""How often a test records: what its promise of one pass per batch is."""

from __future__ import annotations

import pytest
from randomized import ORDERS, images, study_of
from reference_randomization import cases
from torch import Tensor, nn

import salience

SINGLE = [name for name, method in salience.methods.items() if method.single_pass]


class Noted(nn.Module):
    """Notes the number of samples of each of its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[int] = []
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        return self.net(x)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("methods", [SINGLE[:1], SINGLE[:3], SINGLE, None], ids=str)
def test_two_passes_for_one_batch_however_many_methods_stages_and_repeats(
    recordings, methods, order
):
    """The plan's, of one sample, and the batch's."""
    model = Noted()
    study_of(model, images(3, 1, 8, 8), methods, order=order, repeats=3, progress=False)
    assert model.passes == recordings == [1, 3]


def test_each_batch_is_one_more_pass(recordings):
    model = Noted()
    study_of(model, images(5, 1, 8, 8), SINGLE, batch_size=2, keep_maps=3, progress=False)
    assert model.passes == recordings == [1, 2, 2, 1]


def test_what_cannot_be_replayed_is_recorded_once_for_each_random_network(recordings):
    case = cases()["opaque"]
    data = study_of(case.model, case.x, SINGLE, repeats=3, progress=False)
    assert len(recordings) == 2 + 3 * data.sizes["stage"]
