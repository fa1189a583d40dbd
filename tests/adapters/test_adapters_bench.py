"""The adapters inside captum's and Quantus' own tools (`make bench`)."""

from __future__ import annotations

import copy
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_adapters import REFUSED, SELECTED, Dense
from torch import nn

import salience
from salience import adapters

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

PEERS = ("captum", "quantus", "zennit", "torchvision")
pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in PEERS), reason=f"needs {', '.join(PEERS)}"
    ),
    pytest.mark.filterwarnings("ignore"),
]
CLASSES = [0, 3, 1, 4]


@pytest.fixture(scope="module")
def quantus() -> Any:
    networks: Any = pytest.importorskip("networks")
    networks.import_torchvision()  # which Quantus imports
    return pytest.importorskip("quantus")


class Net(nn.Module):
    """Without residual sums and `nn.Flatten`, so that captum's LRP is right."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU()
        )
        self.classes = nn.Sequential(nn.Linear(6 * 25, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classes(self.features(x).flatten(1))


@pytest.fixture
def net() -> nn.Module:
    return Net().double().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16).double()


# -- captum ---------------------------------------------------------------------------------------


def captum_lrp(net: nn.Module) -> Any:
    """captum's LRP with its epsilon rule on a copy, which it leaves its rules on."""
    from captum.attr import LRP  # type: ignore[import-not-found]
    from captum.attr._utils.lrp_rules import EpsilonRule  # type: ignore[import-not-found]

    own: Any = copy.deepcopy(net)
    for module in own.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MaxPool2d):
            module.rule = EpsilonRule(epsilon=1e-9)  # type: ignore[assignment]
    return LRP(own)


@pytest.mark.parametrize("target", [3, CLASSES, torch.tensor(CLASSES)], ids=str)
def test_calls_return_what_captums_lrp_returns(net, x, target):
    own = adapters.captum("lrp_epsilon", eps=1e-9)(net)
    ours, our_delta = own.attribute(x, target=target, return_convergence_delta=True)
    lrp = captum_lrp(net)
    theirs, delta = lrp.attribute(x.clone(), target=target, return_convergence_delta=True)
    # captum's rule adds 1e-9 to small denominators, and its delta has the biases' relevance too
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(our_delta, delta.detach(), rtol=1e-5, atol=1e-8)
    assert (delta.abs() > 1e-4).all()
    (alone,) = own.attribute((x,), target=target)
    assert torch.equal(alone, ours)


def test_the_delta_of_integrated_gradients_has_captums_sign(net, x):
    from captum.attr import IntegratedGradients  # type: ignore[import-not-found]

    def model(x):
        return net(x).tanh()

    # both take the midpoints of four equal steps
    own = adapters.captum("integrated_gradients", baseline=0.25, max_steps=4)(model)
    ours, our_delta = own.attribute(x, target=1, return_convergence_delta=True)
    theirs, delta = IntegratedGradients(model).attribute(
        x, 0.25, target=1, n_steps=4, method="riemann_middle", return_convergence_delta=True
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_delta, delta)
    assert (delta.abs() > 1e-6).all()


@pytest.mark.parametrize(("shape", "target"), [row[:2] for row in SELECTED])
def test_targets_that_captum_takes(shape, target):
    from captum.attr import Saliency  # type: ignore[import-not-found]

    model, x = Dense(*shape).double().eval(), torch.randn(2, 4).double()
    theirs = Saliency(model).attribute(x.clone(), target, abs=False)
    torch.testing.assert_close(adapters.captum("gradient")(model).attribute(x, target), theirs)


@pytest.mark.parametrize(("shape", "target"), [row for row in REFUSED if row[1] is not True])
def test_targets_that_captum_refuses(shape, target):
    from captum.attr import Saliency  # type: ignore[import-not-found]

    with pytest.raises((AssertionError, IndexError, RuntimeError, TypeError)):
        Saliency(Dense(*shape).eval()).attribute(torch.randn(2, 4), target)


def test_several_inputs_and_additional_arguments():
    from captum.attr import InputXGradient  # type: ignore[import-not-found]

    bilinear = nn.Bilinear(3, 5, 2).double().eval()

    class Model(nn.Module):
        def forward(self, a, b, factor, power):
            return bilinear(a, b * factor**power)

    model = Model().eval()
    inputs = (torch.randn(4, 3).double(), torch.randn(4, 5).double())
    given: Any = {"target": 1, "additional_forward_args": (torch.rand(4, 1).double(), 2)}
    ours = adapters.captum("input_x_gradient")(model).attribute(inputs, **given)
    theirs = InputXGradient(model).attribute(inputs, **given)
    assert isinstance(ours, tuple)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other.detach())


@pytest.mark.parametrize("target", [2, CLASSES], ids=str)
def test_noise_tunnel(net, x, target):
    from captum.attr import NoiseTunnel, Saliency  # type: ignore[import-not-found]

    def smooth(attribution, **options):
        torch.manual_seed(7)
        tunnel = NoiseTunnel(attribution)
        return tunnel.attribute(x, nt_samples=6, stdevs=0.1, target=target, **options)

    ours = smooth(adapters.captum("gradient")(net), nt_samples_batch_size=2)
    theirs = smooth(Saliency(net), nt_samples_batch_size=2, abs=False)
    torch.testing.assert_close(ours, theirs)

    maps, delta = smooth(adapters.captum("lrp_epsilon")(net), return_convergence_delta=True)
    assert maps.shape == x.shape and delta.shape == (6 * len(x),)
    torch.manual_seed(7)
    noise = torch.normal(0, torch.full((6 * len(x), *x.shape[1:]), 0.1))
    noisy = x.repeat_interleave(6, 0) + noise
    wanted = target if isinstance(target, int) else [t for t in target for _ in range(6)]
    own = salience.record(net, noisy).explain(
        "lrp_epsilon", wanted if isinstance(wanted, list) else [wanted] * len(noisy)
    )
    torch.testing.assert_close(maps, own.unflatten(0, (len(x), 6)).mean(1))


def test_noise_tunnel_with_additional_arguments():
    from captum.attr import InputXGradient, NoiseTunnel  # type: ignore[import-not-found]

    def model(x, factor):
        return (x * factor).cumsum(1).tanh()

    x, factor = torch.randn(3, 4), torch.rand(3, 1)
    found = []
    for attribution in (adapters.captum("input_x_gradient")(model), InputXGradient(model)):
        torch.manual_seed(1)
        found.append(NoiseTunnel(attribution).attribute(
            x, nt_type="vargrad", target=2, additional_forward_args=factor))  # fmt: skip
    torch.testing.assert_close(found[0], found[1].detach())


def test_metrics(net, x):
    from captum.attr import Saliency  # type: ignore[import-not-found]
    from captum.metrics import infidelity, sensitivity_max  # type: ignore[import-not-found]

    def scores(explain):
        torch.manual_seed(3)
        sensitivity = sensitivity_max(explain, x, target=CLASSES, n_perturb_samples=3)
        maps = explain(x, target=CLASSES)

        def perturb(inputs):
            noise = 0.1 * torch.randn_like(inputs)
            return noise, inputs - noise

        return sensitivity, infidelity(net, perturb, x, maps, target=CLASSES)

    ours = scores(adapters.captum("gradient")(net).attribute)
    theirs = scores(partial(Saliency(net).attribute, abs=False))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.double(), other.double())
        assert (own > 0).all()


def test_visualization(net, x):
    from captum.attr import visualization  # type: ignore[import-not-found]
    from matplotlib.figure import Figure

    map = adapters.captum("lrp_epsilon")(net).attribute(x, target=1)[0].permute(1, 2, 0).numpy()
    figure = Figure()
    visualization.visualize_image_attr(
        map, plt_fig_axis=(figure, figure.subplots()), use_pyplot=False
    )
    assert figure.axes[0].images


# -- Quantus --------------------------------------------------------------------------------------


class Spy:
    """An explanation function that keeps what it was called with and what it returned."""

    def __init__(self, explain: Any) -> None:
        self.explain, self.calls = explain, []

    def __call__(self, model: nn.Module, inputs: Any, targets: Any, **given: Any) -> Any:
        maps = self.explain(model, inputs, targets, **given)
        self.calls.append((copy.deepcopy(model), inputs.copy(), targets.copy(), maps))
        return maps


METRICS: dict[str, Any] = {
    "Sparseness": {},
    "FaithfulnessCorrelation": {"nr_runs": 5, "subset_size": 64, "return_aggregate": False},
    "PixelFlipping": {"features_in_step": 64},
    "MPRT": {},
    "MaxSensitivity": {"nr_samples": 2},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_of_quantus_run_on_our_maps(quantus, net, x, metric, dtype):
    net = net.float()
    spy = Spy(adapters.quantus("lrp_epsilon"))
    test = getattr(quantus, metric)(disable_warnings=True, **METRICS[metric])
    given: Any = {
        "model": net, "x_batch": x.numpy().astype(dtype), "y_batch": np.array(CLASSES),
        "device": "cpu", "batch_size": 3, "explain_func_kwargs": {"eps": 1e-2},
    }  # fmt: skip
    if metric in ("FaithfulnessCorrelation", "PixelFlipping") and dtype == np.float64:
        given["x_batch"] = given["x_batch"].astype(np.float32)  # they call the model themselves
    np.random.seed(0)
    with torch.random.fork_rng():
        scores = test(explain_func=spy, **given)
    assert np.isfinite(_flat(scores)).all() and len(_flat(scores)) >= len(x)
    for model, inputs, classes, maps in spy.calls:
        tape = salience.record(model, torch.tensor(inputs, dtype=torch.float32))
        expected = tape.explain("lrp_epsilon", classes.tolist(), eps=1e-2)
        np.testing.assert_allclose(maps, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert len(spy.calls) >= 2 and not net.training


def _flat(scores: Any) -> np.ndarray:
    if isinstance(scores, dict):
        return np.concatenate([_flat(part) for part in scores.values()])
    return np.concatenate([np.ravel(part) for part in scores])


def test_a_metric_scores_our_maps_as_it_scores_the_same_arrays(quantus, net, x):
    net, y = net.float(), np.array(CLASSES)
    explain_func, images = adapters.quantus("gradient"), x.numpy().astype(np.float32)
    given: Any = {"model": net, "x_batch": images, "y_batch": y, "device": "cpu"}
    sparse = quantus.Sparseness(disable_warnings=True)
    arrays = salience.record(net, x.float()).explain("gradient", CLASSES).numpy()
    np.testing.assert_allclose(
        sparse(explain_func=explain_func, **given), sparse(a_batch=arrays, **given), rtol=1e-5
    )


def test_evaluate_of_quantus(quantus, net, x):
    net, y = net.float(), np.array(CLASSES)
    explain_funcs = {name: adapters.quantus(name) for name in ("gradient", "lrp_epsilon")}
    found = quantus.evaluate(
        {"Sparseness": quantus.Sparseness(disable_warnings=True)}, explain_funcs, net,
        x.numpy().astype(np.float32), y, explain_func_kwargs={},
        call_kwargs={"all": {"device": "cpu"}},
    )  # fmt: skip
    assert list(found) == list(explain_funcs)
    for scores in found.values():
        assert len(scores["Sparseness"]) == len(x) and np.isfinite(scores["Sparseness"]).all()
    assert found["gradient"] != found["lrp_epsilon"]
