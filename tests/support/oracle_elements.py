"""Element-wise functions from their formulas: name -> (module or call, formula, f'(0) or None).

None: the derivative at 0 has a jump, or two conventions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def leaky(slope: float) -> Function:
    return lambda x: torch.where(x > 0, x, slope * x)


def elu(alpha: float = 1.0, scale: float = 1.0, width: float = 1.0) -> Function:
    return lambda x: scale * torch.where(x > 0, x, alpha * (torch.exp(x / width) - 1))


SELU = elu(1.6732632423543772, 1.0507009873554805)

ELEMENTWISE: dict[str, tuple[Function, Function, float | None]] = {
    "gelu": (nn.GELU(), gelu, 0.5),
    "F.gelu": (F.gelu, gelu, 0.5),
    "gelu_tanh": (nn.GELU(approximate="tanh"), gelu_tanh, 0.5),
    "silu": (nn.SiLU(), lambda x: x * sigmoid(x), 0.5),
    "silu_inplace": (nn.SiLU(inplace=True), lambda x: x * sigmoid(x), 0.5),
    "mish": (nn.Mish(), lambda x: x * torch.tanh(softplus(x)), 0.6),
    "hardswish": (nn.Hardswish(), lambda x: x * (x + 3).clamp(0, 6) / 6, 0.5),
    "hardswish_inplace": (nn.Hardswish(inplace=True), lambda x: x * (x + 3).clamp(0, 6) / 6, 0.5),
    "hardsigmoid": (nn.Hardsigmoid(), lambda x: (x + 3).clamp(0, 6) / 6, 1 / 6),
    "leaky_relu": (nn.LeakyReLU(0.2), leaky(0.2), None),
    "F.leaky_relu_": (lambda x: F.leaky_relu_(x * 1, 0.2), leaky(0.2), None),
    "rrelu": (nn.RReLU().eval(), leaky((1 / 8 + 1 / 3) / 2), None),
    "elu": (nn.ELU(1.5), elu(1.5), None),
    "selu": (nn.SELU(), SELU, None),
    "celu": (nn.CELU(0.7), elu(0.7, 1.0, 0.7), 1.0),
    "softplus": (nn.Softplus(), softplus, 0.5),
    "softplus_beta": (nn.Softplus(beta=2), lambda x: softplus(2 * x) / 2, 0.5),
    "sigmoid": (nn.Sigmoid(), sigmoid, 0.25),
    "x.sigmoid": (lambda x: x.sigmoid(), sigmoid, 0.25),
    "special.expit": (torch.special.expit, sigmoid, 0.25),
    "logsigmoid": (nn.LogSigmoid(), lambda x: -softplus(-x), 0.5),
    "tanh": (nn.Tanh(), torch.tanh, 1.0),
    "x.tanh_": (lambda x: (x + 0).tanh_(), torch.tanh, 1.0),
    "tanhshrink": (nn.Tanhshrink(), lambda x: x - torch.tanh(x), 0.0),
    "softsign": (nn.Softsign(), lambda x: x / (1 + x.abs()), 1.0),
    "softshrink": (nn.Softshrink(0.3), lambda x: x.sign() * (x.abs() - 0.3).clamp(min=0), 0.0),
    "hardshrink": (nn.Hardshrink(0.4), lambda x: x * (x.abs() > 0.4), 0.0),
    "hardtanh": (nn.Hardtanh(-0.5, 0.7), lambda x: x.clamp(-0.5, 0.7), 1.0),
    "clamp": (lambda x: x.clamp(-0.5, 0.7), lambda x: x.clamp(-0.5, 0.7), 1.0),
    "erf": (torch.erf, torch.erf, 2 / math.sqrt(math.pi)),
    "atan": (torch.atan, torch.atan, 1.0),
    "sin": (torch.sin, torch.sin, 1.0),
    "cos": (torch.cos, torch.cos, 0.0),
    "exp": (torch.exp, torch.exp, 1.0),
    "expm1": (torch.expm1, lambda x: torch.exp(x) - 1, 1.0),
    "asinh": (torch.asinh, lambda x: torch.log(x + torch.sqrt(x**2 + 1)), 1.0),
    "x ** 2": (lambda x: x**2, lambda x: x * x, 0.0),
    "square": (torch.square, lambda x: x * x, 0.0),
    "pow 3": (lambda x: torch.pow(x, 3), lambda x: x * x * x, 0.0),
    "x.pow(2.0)": (lambda x: x.pow(2.0), lambda x: x * x, 0.0),
    "pow keyword": (lambda x: torch.pow(x, exponent=2), lambda x: x * x, 0.0),
    "abs": (torch.abs, lambda x: x.abs(), None),
}
ELEMENTWISE["mish"] = (*ELEMENTWISE["mish"][:2], math.tanh(math.log(2)))
BIAS_FREE = [name for name, (_, f, _) in ELEMENTWISE.items() if f(torch.zeros(())) == 0]
