"""Activations, each in several spellings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = math.sqrt(2 / math.pi)


def letting_go(x: Tensor) -> Tensor:
    """leaky ReLU, by a program that keeps no value longer than it is read."""
    above = F.relu(x)
    x = F.relu(-x)
    return above - 0.1 * x


# the first spelling is torch's own
ACTIVATIONS = {
    "silu": [F.silu, nn.SiLU(), lambda x: x * torch.sigmoid(x), lambda x: x / (1 + torch.exp(-x)),
             lambda x: x * (1 / (1 + torch.exp(-x)))],
    "gelu": [F.gelu, nn.GELU(), lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
             lambda x: x * 0.5 * torch.erfc(-x / math.sqrt(2))],
    "gelu_tanh": [
        nn.GELU(approximate="tanh"),
        lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * x * x * x))),
        lambda x: x * torch.sigmoid(2 * ROOT * (x + 0.044715 * x**3))],
    "quick_gelu": [lambda x: F.silu(1.702 * x) / 1.702, lambda x: x * torch.sigmoid(1.702 * x),
                   lambda x: x / (1 + torch.exp(-1.702 * x))],
    "hardswish": [F.hardswish, lambda x: x * F.relu6(x + 3) / 6,
                  lambda x: x * ((x + 3).clamp(0, 6) / 6),
                  lambda x: x * (x + 3).clamp(min=0).clamp(max=6) / 6],
    "hardsigmoid": [lambda x: (x / 6 + 0.5).clamp(0, 1), lambda x: F.relu6(x + 3) / 6,
                    lambda x: F.hardtanh(x + 3, 0, 6) / 6,
                    lambda x: (x + 3).clamp(min=0).clamp(max=6) / 6],
    "bounded_relu": [lambda x: F.hardtanh(x, 0, 1), lambda x: x.clamp(0, 1),
                     lambda x: x.clamp(min=0).clamp(max=1), lambda x: x.clamp(max=1).clamp(min=0),
                     lambda x: F.relu(x).minimum(x.new_ones(())),
                     lambda x: F.relu(x.clamp(max=1)), lambda x: F.relu(x) - F.relu(x - 1)],
    "sigmoid": [torch.sigmoid, nn.Sigmoid(), lambda x: 1 / (1 + torch.exp(-x)),
                lambda x: 0.5 * (torch.tanh(x / 2) + 1), lambda x: (1 + (-x).exp()).reciprocal()],
    "softplus": [F.softplus, lambda x: torch.log(1 + torch.exp(x)), lambda x: x.exp().log1p()],
    "mish": [F.mish, lambda x: x * F.softplus(x).tanh(),
             lambda x: x * torch.tanh(torch.log1p(torch.exp(x)))],
    "leaky_relu": [lambda x: F.leaky_relu(x, 0.1), lambda x: torch.where(x > 0, x, 0.1 * x),
                   lambda x: torch.maximum(x, 0.1 * x), lambda x: F.relu(x) - 0.1 * F.relu(-x),
                   letting_go],
    "elu": [F.elu, nn.ELU(), lambda x: torch.where(x > 0, x, torch.expm1(x)),
            lambda x: x.clamp(min=0) + (torch.exp(x) - 1).clamp(max=0)],
    "relu": [F.relu, nn.ReLU(), lambda x: x * (x > 0), lambda x: (x + x.abs()) / 2,
             lambda x: torch.where(x > 0, x, 0.0), lambda x: x.masked_fill(x < 0, 0)],
    "softsign": [lambda x: x / (1 + x.abs()), lambda x: x * (1 / (1 + x.abs())),
                 lambda x: torch.where(x > 0, x / (1 + x.abs()), x / (1 - x))],
    "tanh": [torch.tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1,
             lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())],
    "square": [torch.square, lambda x: x * x, lambda x: x**2],
    "power": [lambda x: torch.exp2(x), lambda x: 2**x, lambda x: torch.exp(x * math.log(2))],
}  # fmt: skip
