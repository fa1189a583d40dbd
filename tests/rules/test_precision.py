"""Maps in float32 are those in float64 to rounding, also where z- nearly cancels out of z - z+."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from counting import Convolutions
from nets import fill
from torch import Tensor, nn

import salience

# float32 rounds at 6e-8, a few hundred terms and layers deep
TOLERANCE = 1e-4
RELEVANCE = [name for name, method in salience.methods.items() if method.relevance]


class Product(nn.Module):
    """x W, whose weight has its inputs first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def _nets() -> dict[str, nn.Module]:
    head = lambda: (nn.Flatten(), nn.LazyLinear(3))  # noqa: E731
    conv = lambda **given: nn.Conv2d(3, 4, 3, **given)  # noqa: E731
    nets = {
        "convolution": nn.Sequential(conv(), nn.ReLU(), *head()),
        "groups": nn.Sequential(conv(bias=False), nn.ReLU(), nn.Conv2d(4, 8, 1, groups=4), *head()),
        "folded": nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), *head()),
        "alone": nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(4), *head()),
        "dense": nn.Sequential(nn.Flatten(), nn.Linear(108, 12), Product(), nn.Linear(8, 3)),
        # its parts are formed a few rows at a time
        "large": nn.Sequential(
            nn.Flatten(), nn.Linear(108, 10_000), nn.ReLU(), nn.Linear(10_000, 3)
        ),
    }
    for seed, (name, net) in enumerate(nets.items()):
        net.eval()(torch.zeros(1, 3, 6, 6))
        generator = torch.Generator().manual_seed(seed)
        fill(net.double(), generator)
        with torch.no_grad():
            for module in net.modules():
                weight = getattr(module, "weight", None)
                # nearly all of z is z+ (or z-, where the input is negative)
                if isinstance(weight, Tensor) and not (name == "large" and weight.shape[0] == 3):
                    weight.copy_(torch.where(weight < 0, weight * 1e-6, weight))
                    bias = getattr(module, "bias", None)
                    if isinstance(bias, Tensor):
                        bias.abs_()
    return nets


NETS = _nets()
NOISE = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "non-negative": torch.abs, "nearly so": lambda x: torch.where(x < 0, -x * 1e-6, x),
    "nearly not": lambda x: torch.where(x < 0, x * 1e-6, x),
}  # fmt: skip


def _difference(name: str, sign: str, method: str) -> float:
    wide = NETS[name]
    # both nets and inputs are the same numbers
    narrow = copy.deepcopy(wide).float()
    wide = copy.deepcopy(narrow).double()
    x = INPUTS[sign](NOISE).float()
    found = salience.explain(narrow, x, method, target=1)[method]
    exact = salience.explain(wide, x.double(), method, target=1)[method]
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("method", RELEVANCE)
@pytest.mark.parametrize("sign", INPUTS)
@pytest.mark.parametrize("name", NETS)
def test_float32_is_as_exact_as_it_can_be(name: str, sign: str, method: str):
    assert _difference(name, sign, method) < TOLERANCE


def test_only_a_layer_that_cancels_costs_one_response_more():
    net = copy.deepcopy(NETS["convolution"][:-2])
    net.append(nn.Conv2d(4, 5, 3).double()).append(nn.Flatten()).append(nn.Linear(20, 3).double())
    fill(net[2:], torch.Generator().manual_seed(3))
    net = nn.Sequential(*net).float().eval()
    with Convolutions() as count:
        salience.record(net, NOISE.abs().float()).explain("lrp_alpha_beta", target=1)
    assert count.of(net) == [(3, 2), (2, 2)]
