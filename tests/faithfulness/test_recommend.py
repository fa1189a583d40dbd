"""The recommendation on real networks: trained, untrained, constant."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import salience
from salience import Cascade, Recommendation, Removal

WHERE = (slice(2, 6), slice(2, 6))  # of a patch whose brightness is the answer


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a patch of a brightness of its own, the answer."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 12, 12, generator=generator)
    answer = torch.randn(count, generator=generator)
    x[:, :, *WHERE] = 0.3 * x[:, :, *WHERE] + answer[:, None, None, None]
    return x, answer


def make() -> nn.Module:
    torch.manual_seed(3)
    layers = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 1))
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    net = make()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    loss = torch.tensor(1.0)
    for step in range(150):
        x, answer = images(64, 100 + step)
        loss = (net(x)[:, 0] - answer).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    return net


def recommended(net: nn.Module) -> Recommendation:
    x, _ = images(24, 0)
    return salience.recommend(
        net, x, ["gradient", "lrp_epsilon", "lrp_gamma"], 0,
        Removal(cell=2, replacement="mean"), cascade=Cascade(repeats=3), progress=False,
    )  # fmt: skip


def test_a_trained_network_has_methods_to_use(trained: nn.Module):
    found = recommended(trained)
    assert found.methods and "Use " in found.sentence
    assert all(found.measured[name].score > 0.6 for name in found.methods)
    assert all(found.measured[name].gain_low > 0 for name in found.methods)


def test_an_untrained_network_has_none():
    found = recommended(make())
    assert found.methods == ()
    assert "on an untrained network" in found.sentence


def test_a_constant_network_has_none(trained: nn.Module):
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make()

        def forward(self, x: Tensor) -> Tensor:
            return 1 + 0 * self.net(x)

    found = recommended(Constant().eval())
    assert found.methods == ()
    assert "no more than rounding does" in found.sentence
