"""Backward rules: what flows back through one operation, one idea each.

A rule gets the site and the multiplier m at its output, and returns the multiplier at its input.
Relevance is R = z m at the output, R_i = a_i m_i at the input. Rules for the input layer return the
relevance itself, since they give relevance to inputs that are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from salience._inputs.trees import columns
from salience._recording.linear_maps import Backward, LinearMap, linear_response
from salience._recording.nonlinear_sites import ElementSite, JointSite, NormSite


def guided(site: ElementSite, m: Tensor) -> Tensor:
    """m [y > 0] [m > 0] at a ReLU (Springenberg 2014)."""
    return site.transpose(m).clamp_(min=0)


def rectified(site: ElementSite, m: Tensor) -> Tensor:
    """max(m, 0) at a ReLU, whatever its input was (Zeiler and Fergus 2014)."""
    return m.clamp(min=0)


def proportional(site: ElementSite, m: Tensor) -> Tensor:
    """m (f(x) - f(0)) / x at an element-wise function, f'(0) at x = 0 (Achtibat 2024).

    What f gives at 0 is a bias, which keeps its share of the relevance.
    """
    transposed = site.transpose(m)
    if not site.shifted:
        x, y = site.x, site.y
        assert x is not None
        return torch.where(x == 0, transposed, m * y / torch.where(x == 0, 1, x))
    x, rise, slope = site.secant()
    # near 0 the difference of two numbers of order 1 is lost; the mean slope is exact to x^2
    near = x.abs() < torch.finfo(x.dtype).eps ** (1 / 3)
    return torch.where(near, (transposed + m * slope) / 2, m * rise / torch.where(near, 1, x))


def shared(site: JointSite, m: Tensor) -> tuple[Tensor | None, ...]:
    """Its share of its gradient to each factor, nothing to divisors (Achtibat 2024).

    The shares of a product are equal; those of attention are 1/4 for queries and keys, 1/2 for
    values, as its parts (a product, a softmax, a product) have them.
    """
    least = min((share for share in site.shares if share), default=1.0)
    parts = site.transpose(m if least == 1 else m * least)
    return tuple(
        (part if share == least else part * (share / least)) if share else None
        for part, share in zip(parts, site.shares, strict=True)
    )


def spread_held(site: NormSite, m: Tensor) -> Tensor:
    """The gradient of a normalisation with its 1 / sigma held constant (Achtibat 2024)."""
    return site.spread_held(m)


def unchanged(linear: LinearMap, m: Tensor) -> Tensor:
    """W^T m: the gradient, which is LRP-0."""
    return linear.transpose(m)


def epsilon(linear: LinearMap, m: Tensor, eps: float, eps_relative: float = 0.0) -> Tensor:
    """W^T (m z / (z + e sign z)), sign 0 = +1, z with its bias (Bach 2015).

    e = eps + eps_relative mean |z|, the mean over those z of the sample that relevance reaches:
    others may be rectified already.
    """
    if eps == 0 and eps_relative == 0:
        return linear.transpose(m)
    return linear.transpose_(stabilized(linear, m, eps, eps_relative))


def stabilized(linear: LinearMap, m: Tensor, eps: float, eps_relative: float = 0.0) -> Tensor:
    """m z / (z + e sign z)"""
    if eps_relative == 0:
        denominator = linear.z.abs().add_(eps)
        return torch.addcdiv(m, m, denominator, value=-eps)
    size = linear.z.abs()
    wide = torch.promote_types(size.dtype, torch.float32)
    reached = m != 0
    count = reached.flatten(1).sum(1).clamp_(min=1)
    typical = (size * reached).flatten(1).sum(1, dtype=wide) / count
    own = columns((typical * eps_relative + eps).to(size.dtype), size)
    return m - m * divide_(own.expand_as(size), size + own)


def divide_(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, 0 where the denominator is 0; written into the denominator."""
    return torch.div(numerator, denominator, out=denominator).nan_to_num_(0.0, 0.0, 0.0)


def alpha_beta(
    linear: LinearMap, m: Tensor, alpha: float = 1.0, beta: float = 0.0, bias: bool = True
) -> Tensor:
    """sum_j (alpha (a_i w_ij)+ / z+_j - beta (a_i w_ij)- / z-_j) R_j (Bach 2015).

    With P the part of W whose contributions to z are positive, and s+- = z m / z+-, this is
    P^T (alpha s+ + beta s-) - beta W^T s-, so that W- is not needed but where z- is so small
    beside z+ that their rounding would drown it.
    """
    z, (_, transpose) = linear.z, linear.positive()
    positive = positive_part(linear, bias)
    if beta == 0:
        share = divide_(z, positive).mul_(m)
        return transpose(share if alpha == 1 else share.mul_(alpha))
    lost, transpose_negative = negative_share(linear, m, positive, bias)
    if transpose_negative is not None:
        lost = transpose_negative(lost.mul_(beta))
        return transpose(divide_(z, positive).mul_(m).mul_(alpha)).add_(lost)
    share = divide_(z, positive).mul_(m).mul_(alpha).sub_(lost.mul_(beta))
    return transpose(share).add_(linear.transpose_(lost))


def positive_part(linear: LinearMap, bias: bool = True) -> Tensor:
    """z+, with b+ or without, in memory of its own."""
    biased = bias and linear.bias is not None
    return linear.positive()[0] + (linear.bias_part("+") if biased else 0.0)


def negative_share(
    linear: LinearMap, m: Tensor, positive: Tensor, bias: bool = True
) -> tuple[Tensor, Backward | None]:
    """-z m / z-, 0 where z- is; and the transpose of the negative contributions, where z- had to be
    summed by itself.

    positive  z+
    """
    z = linear.z
    total = z if bias or linear.bias is None else z - linear.bias_part("+") - linear.bias_part("-")
    below = positive - total  # -z-
    # what rounding leaves of a sum without negative terms is not a denominator
    rounding = (4 if z.dtype.itemsize < 4 else 64) * torch.finfo(z.dtype).eps
    clear = torch.add(below, positive, alpha=-rounding).sign_().clamp_(min=0)
    lost = divide_(z, below.mul_(clear)).mul_(m)
    if not _cancelled(positive, lost, z, m, clear):
        return lost, None
    negative, transpose = linear.negative()
    negative = negative + (linear.bias_part("-") if bias and linear.bias is not None else 0.0)
    return divide_(z, negative.neg_()).mul_(m), transpose


def _cancelled(positive: Tensor, lost: Tensor, z: Tensor, m: Tensor, clear: Tensor) -> bool:
    """Whether the rounding of z- = z - z+ makes too large a part of some sample's relevance wrong.

    lost   -z m / z-: the rounding of z+ makes eps z+ |lost| of |z m| wrong
    clear  0 where z- was lost in rounding: 0, or all of |z m| is wrong. In float64 it is 0;
           overwritten, since fresh memory costs more than what is computed here
    """
    eps = torch.finfo(lost.dtype).eps
    unclear = _rows_(clear.neg_().add_(1).mul_(z).mul_(m)) if eps > 1e-8 else 0
    whole = _rows_(clear.copy_(z).mul_(m))
    wrong = _rows_(clear.copy_(positive).mul_(lost)) * eps + unclear
    return bool((wrong > whole * max(8 * eps, 1e-10)).any())


def _rows_(values: Tensor) -> Tensor:
    """The sum of absolute values of each sample; of values that may be overwritten."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return torch.atleast_2d(values.abs_()).flatten(1).sum(1, dtype=wide)


def z_plus(linear: LinearMap, m: Tensor) -> Tensor:
    """sum_j (a_i w_ij)+ / z+_j R_j without bias (Montavon 2017, Zhang 2016)."""
    return alpha_beta(linear, m, bias=False)


def gamma(linear: LinearMap, m: Tensor, gamma: float = 0.25) -> Tensor:
    """Contributions of the sign of z_j count 1 + gamma times (Montavon 2019, Andéol 2021).

    With c_ij = a_i w_ij and c^s its part of the sign s of z_j (0: +), biases alike,
    R_i = sum_j (c_ij + gamma c^s_ij) / (z_j + gamma z^s_j) R_j.
    """
    z, (_, transpose) = linear.z, linear.positive()
    share = favored_share(linear, m, gamma)
    below = torch.where(z < 0, share, 0).mul_(gamma)
    above = torch.where(z < 0, 0, share).mul_(gamma)
    return transpose(above.sub_(below)).add_(linear.transpose_(share.add_(below)))


def favored_share(linear: LinearMap, m: Tensor, gamma: float) -> Tensor:
    """z m / (z + gamma z^s)"""
    z, positive = linear.z, positive_part(linear)
    favored = torch.where(z < 0, z - positive, positive)
    return divide_(z, favored.mul_(gamma).add_(z)).mul_(m)


def flat(linear: LinearMap, m: Tensor) -> Tensor:
    """R_i = sum_j R_j / (number of inputs of j): every input alike (Lapuschkin 2017)."""
    total, transpose = counted(linear)
    return transpose(divide_(linear.z, total).mul_(m))


def counted(linear: LinearMap) -> tuple[Tensor, Backward]:
    """The number of inputs of each output, and the transpose of their sum."""
    ones = torch.ones_like(linear.weight)
    return linear_response(lambda a: linear.call(a, ones), torch.ones_like(linear.a))


def w_squared(linear: LinearMap, m: Tensor) -> Tensor:
    """R_i = sum_j w_ij^2 / sum_i' w_i'j^2 R_j: an unbounded input (Montavon 2017)."""
    total, transpose = squared(linear)
    return transpose(divide_(linear.z, total).mul_(m))


def squared(linear: LinearMap) -> tuple[Tensor, Backward]:
    """sum_i w_ij^2, and its transpose."""
    square = linear.weight.square()
    return linear_response(lambda a: linear.call(a, square), torch.ones_like(linear.a))


def z_bounded(linear: LinearMap, m: Tensor, low: object, high: object) -> Tensor:
    """R_i = sum_j (a_i w_ij - low w+_ij - high w-_ij) / (their sum over i) R_j (Montavon 2017).

    Written as (a_i - low) w+_ij + (a_i - high) w-_ij: terms of one sign, which do not cancel.
    """
    total, spread = bounded(linear, low, high)
    return spread(divide_(linear.z, total).mul_(m))


def bounded(linear: LinearMap, low: object, high: object) -> tuple[Tensor, Backward]:
    """sum_i ((a_i - low) w+_ij + (a_i - high) w-_ij), and what spreads shares of it over i."""
    low = torch.as_tensor(low, dtype=linear.a.dtype, device=linear.a.device).expand_as(linear.a)
    high = torch.as_tensor(high, dtype=linear.a.dtype, device=linear.a.device).expand_as(linear.a)
    above, upward = linear_response(
        lambda a: linear.call(a, linear.weight_part("+")), linear.a - low
    )
    below, downward = linear_response(
        lambda a: linear.call(a, linear.weight_part("-")), linear.a - high
    )

    def spread(share: Tensor) -> Tensor:
        return (linear.a - low) * upward(share) + (linear.a - high) * downward(share)

    return above.add_(below), spread
