"""What maps cost in plain gradients: no time is asserted, but what is timed, and how often."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from chosen import chosen
from randomized import conv_net, images
from reference_inputs import IDS, input_cases
from torch import Tensor, nn

import salience
from salience import SalienceError
from salience._tape import cost as module

CASES = input_cases()
SINGLE = [name for name, method in salience.methods.items() if method.single_pass]
FEW = {"smoothgrad": {"n": 6}, "integrated_gradients": {"max_steps": 8, "tol": 0.0}}


def counted(net: nn.Module, most: int = 99) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """A model, and the numbers of samples of its forward passes; memory is out beyond `most`."""
    calls: list[int] = []

    def model(x: Tensor) -> Tensor:
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        calls.append(len(x))
        return net(x)

    return model, calls


def test_more_passes_are_dearer():
    names, given = ["gradient", "smoothgrad"], {"smoothgrad": {"n": 64}}
    found = salience.cost(conv_net(), images(5, 1, 32, 32), chosen(given, names), 1)
    assert list(found) == names
    assert 0 < found["gradient"] < found["smoothgrad"]


def test_the_unit_is_a_forward_pass_and_its_gradient(monkeypatch):
    """By a clock that counts forward passes, of which a gradient is one."""
    model, calls = counted(conv_net())
    monkeypatch.setattr(module, "_now", lambda device: 0.01 * len(calls))
    names = [*SINGLE, "smoothgrad", "integrated_gradients"]
    found = salience.cost(model, images(3, 1, 8, 8), chosen(FEW, names), 1)
    # SmoothGrad: 6 copies in 2 passes; integrated gradients: values and gradients at 4 points,
    # then gradients at 4 more, a pass each
    wanted = {**dict.fromkeys(SINGLE, 1), "smoothgrad": 3, "integrated_gradients": 4}
    assert found == pytest.approx(wanted)


def test_a_time_is_the_median_of_three_unless_it_is_long():
    spent = iter([0.0, 0.03, 0.03, 0.04, 0.04, 0.09])  # 0.03, 0.01, 0.05
    assert module._seconds(lambda: None, lambda: next(spent)) == pytest.approx(0.03)
    spent = iter([0.0, 0.5])
    assert module._seconds(lambda: None, lambda: next(spent)) == 0.5


def test_the_first_batch_is_measured():
    x, each = images(20, 1, 8, 8), [0, 1, 2, 0, 1] * 4
    for size, wanted in ((None, 16), (5, 5), (50, 20)):
        model, calls = counted(conv_net())
        salience.cost(model, x, "gradient", each, batch_size=size)
        assert set(calls) == {wanted}


def test_memory_that_runs_out_halves_the_batch():
    model, calls = counted(conv_net(), most=4)
    assert salience.cost(model, images(16, 1, 8, 8), "gradient")["gradient"] > 0
    assert set(calls) == {4}


@pytest.mark.parametrize("name", CASES)
def test_several_inputs_and_ids(name):
    case = CASES[name]
    found = salience.cost(case.model, case.x, ["gradient", "lrp_epsilon"], 0)
    assert list(found) == ["gradient", "lrp_epsilon"] and min(found.values()) > 0


def test_methods_that_do_not_apply_are_left_out_unless_they_are_named():
    net, x = nn.Sequential(nn.Sigmoid(), nn.Linear(6, 3)).eval(), images(2, 6)
    with pytest.raises(SalienceError, match="between the input and the input layer"):
        salience.cost(net, x, ["gradient", "deep_taylor"])
    with pytest.warns(salience.SalienceWarning) as warned:
        found = salience.cost(net, x)
    told = [str(warning.message).split(":")[0] for warning in warned]
    left_out = ["deep_taylor", "lrp_composite"]
    assert told == [f"{name} is left out" for name in left_out]
    assert list(found) == [name for name in salience.methods if name not in left_out]
    assert warned[0].filename == __file__


def test_the_model_and_the_generators_stay_as_they_are():
    class Noisy(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return super().forward(x) + 0 * torch.rand(len(x), 1) * float(np.random.rand())

    net = Noisy().eval()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert salience.cost(net, images(3, 4), "gradient")["gradient"] > 0
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert net.count == 0 and all(p.grad is None for p in net.parameters())
    with torch.inference_mode():
        made = Noisy().eval()
        assert salience.cost(made, images(3, 4), "gradient")["gradient"] > 0


class NoFormula(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError("no formula")


MISTAKES = {
    "gradient": (lambda x: NoFormula.apply(x), images(2, 6), {}, "has a gradient of.*no formula"),
    "method": (nn.Linear(6, 2), images(2, 6), {"methods": "gradiant"}, "Did you mean 'gradient'"),
    "size": (nn.Linear(6, 2), images(2, 6), {"batch_size": 0}, "a batch size, a whole number"),
    "mode": (nn.Linear(6, 2).train(), images(2, 6), {}, "a model in eval mode"),
    "none": (nn.Linear(6, 2), images(0, 6), {}, "at least one sample; got none"),
    "ids": (nn.Linear(6, 2), IDS, {}, "that no embedding reads"),
    "targets": (nn.Linear(6, 2), images(2, 6), {"target": [0]}, "one target per sample, 2 in all"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    model, x, options, message = MISTAKES[name]
    if name != "mode" and isinstance(model, nn.Module):
        model.eval()
    with pytest.raises(SalienceError, match=message):
        salience.cost(model, x, **{"methods": "gradient", "target": 0, **options})
