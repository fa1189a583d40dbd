"""Naive float64 oracles of the saliency methods: the specification, one formula at a time.

A network is a list of steps. Every affine step (linear map, BatchNorm, average pool, sum,
concatenation, flatten) is the dense matrix W and bias b of z = W a + b for one flattened sample;
`weight[j, i]` is the formulas' w_ij, from input i to output j. Samples are explained one at a time:
a forward pass keeps every value, then one quantity goes back, summed where a value is read twice.

- gradient, guided_backprop, deconvnet: the multiplier m (m_in = W^T m), from 1 at the target.
- LRP, excitation backprop, deep Taylor: the *relevance* R itself, R_i = sum_j share_ij R_j, never
  a multiplier. Sums and average pools share in proportion to a_i w_ij (LRP-0), a max-pool gives
  all to its first winner, ReLU and ReLU6 hand relevance through. 0 / 0 is 0 in every share.

A BatchNorm that alone reads the output of a conv or linear map makes one linear map with it; any
other BatchNorm is a diagonal linear map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from nets import Add, Concat, GraphNet
from torch import Tensor, nn

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d),
    "norm": (nn.BatchNorm1d, nn.BatchNorm2d),
    "sum": (Add, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    "copy": (Concat, nn.Flatten),
    "relu": (nn.ReLU, nn.ReLU6),
    "max": (nn.MaxPool1d, nn.MaxPool2d),
}


@dataclass
class Step:
    """One local map, and the values that it reads and writes."""

    kind: str
    module: nn.Module  # a linear map and its folded BatchNorm are one Sequential
    inputs: tuple[int, ...]
    output: int
    first: bool  # no linear map upstream: a linear step is then an input layer
    weight: Tensor  # (outputs, inputs) of an affine step; of a max-pool 1 where i is in window j
    bias: Tensor  # (outputs,)


# step, input a, output z, what flows back to z -> what flows back to a; all flattened
Rule = Callable[[Step, Tensor, Tensor, Tensor], Tensor]


def _kind(module: nn.Module) -> str:
    for kind, types in KINDS.items():
        if isinstance(module, types):
            return kind
    raise TypeError(f"the oracles do not know the module {type(module).__name__}")


@torch.enable_grad()
def _affine(module: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """W and b: copy j of a zero input gives row j of the jacobian, its output is b."""
    zeros = [torch.zeros_like(value) for value in inputs]
    bias = module(*zeros).detach().flatten()
    copies = [z.repeat(len(bias), *[1] * (z.ndim - 1)).requires_grad_() for z in zeros]
    rows = torch.autograd.grad(module(*copies).flatten(1).diagonal().sum(), copies)
    return torch.cat([row.flatten(1) for row in rows], dim=1), bias


def _windows(module: nn.Module, value: Tensor) -> Tensor:
    """1 where input i is in window j: the pools of the unit vectors."""
    units = torch.eye(value.numel(), dtype=value.dtype)
    return module(units.reshape(-1, *value.shape[1:])).flatten(1).T


def build_steps(net: GraphNet, sample: Tensor) -> list[Step]:
    """The steps of `net` for inputs like `sample` (1, ...), with folded BatchNorms."""
    kinds = ["input", *(_kind(node.module) for node in net.nodes)]
    readers = [
        [k for k, node in enumerate(net.nodes, start=1) if v in node.inputs]
        for v in range(len(kinds))
    ]
    folded = {
        v: reads[0]
        for v, reads in enumerate(readers)
        if kinds[v] == "linear" and len(reads) == 1 and kinds[reads[0]] == "norm"
    }

    values, deep, steps = {0: sample}, {0: False}, []
    for output, (module, wires) in enumerate(net.nodes, start=1):
        if output in folded.values():
            continue  # made together with its linear map
        kind, inputs = kinds[output], [values[i] for i in wires]
        if output in folded:
            output = folded[output]
            module = nn.Sequential(module, net.nodes[output - 1].module)
        weight = bias = torch.zeros(0)
        if kind == "max":
            weight = _windows(module, *inputs)
        elif kind != "relu":
            weight, bias = _affine(module, inputs)
        first = not any(deep[i] for i in wires)
        steps.append(Step(kind, module, wires, output, first, weight, bias))
        values[output], deep[output] = module(*inputs), kind == "linear" or not first
    return steps


@torch.no_grad()
def _explain(net: GraphNet, x: Tensor, target: list[int], rule: Rule, seed: str) -> Tensor:
    """Walk back through the steps, sample by sample; `seed` is "one" or "value"."""
    steps = build_steps(net, x[:1])
    maps = []
    for sample, index in zip(x, target, strict=True):
        values = {0: sample[None]}
        for step in steps:
            values[step.output] = step.module(*(values[i] for i in step.inputs))
        back = {v: torch.zeros(value.numel(), dtype=x.dtype) for v, value in values.items()}
        last = steps[-1].output
        back[last][index] = 1.0 if seed == "one" else values[last][0, index]
        for step in reversed(steps):
            a = torch.cat([values[i].flatten() for i in step.inputs])
            arrived = rule(step, a, values[step.output].flatten(), back[step.output])
            parts = arrived.split([values[i].numel() for i in step.inputs])
            for i, part in zip(step.inputs, parts, strict=True):
                back[i] = back[i] + part
        maps.append(back[0].reshape(sample.shape))
    return torch.stack(maps)


def _switch(step: Step, a: Tensor) -> Tensor:
    """1 where input i is the first largest of window j."""
    seen = torch.where(step.weight > 0, a, -torch.inf)
    winners = torch.zeros_like(step.weight)
    for j, i in enumerate(seen.argmax(dim=1).tolist()):  # the first one on ties
        winners[j, i] = 1.0
    return winners


# ---------------------------------------------------------------- multipliers


def _multiplier(at_relu: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """m_in = W^T m, except that a ReLU gives `at_relu(open, m)`; `open` is its derivative."""

    def rule(step: Step, a: Tensor, z: Tensor, m: Tensor) -> Tensor:
        if step.kind == "relu":
            ceiling = 6.0 if isinstance(step.module, nn.ReLU6) else torch.inf
            return at_relu(((a > 0) & (a < ceiling)).to(a.dtype), m)
        return m @ (_switch(step, a) if step.kind == "max" else step.weight)

    return rule


def gradient(net: GraphNet, x: Tensor, target: list[int]) -> Tensor:
    return _explain(net, x, target, _multiplier(lambda is_open, m: m * is_open), "one")


def input_x_gradient(net: GraphNet, x: Tensor, target: list[int]) -> Tensor:
    return x * gradient(net, x, target)


def guided_backprop(net: GraphNet, x: Tensor, target: list[int]) -> Tensor:
    return _explain(net, x, target, _multiplier(lambda is_open, m: m * is_open * (m > 0)), "one")


def deconvnet(net: GraphNet, x: Tensor, target: list[int]) -> Tensor:
    return _explain(net, x, target, _multiplier(lambda is_open, m: m * (m > 0)), "one")


def smoothgrad(
    net: GraphNet,
    x: Tensor,
    target: list[int],
    *,
    draws: Tensor,
    n: int = 50,
    noise: float = 0.15,
    base: str = "gradient",
    **parameters: object,
) -> Tensor:
    """`draws` (n, *x.shape[1:]) are standard normal and the same for every sample."""
    if draws.shape != (n, *x.shape[1:]):
        raise ValueError(f"draws must be {(n, *x.shape[1:])}, not {tuple(draws.shape)}")
    maps = torch.zeros_like(x)
    for b, sample in enumerate(x):
        sigma = noise * (sample.max() - sample.min())
        noisy = sample + sigma * draws  # (n, ...)
        maps[b] = ORACLES[base](net, noisy, [target[b]] * n, **parameters).mean(dim=0)
    return maps


def integrated_gradients(
    net: GraphNet,
    x: Tensor,
    target: list[int],
    *,
    baseline: float | Tensor = 0.0,
    steps: int = 64,
    tol: float = 0.0,
) -> Tensor:
    """Midpoints of panels: of 4 equal ones the 2 that miss most are halved, one sample at a time.

    Until steps gradients were taken (at most), or from 16 on until the sum is right to tol.
    """
    start = torch.as_tensor(baseline, dtype=x.dtype).expand_as(x)
    return torch.stack([
        _integrated(net, x0, x1, k, steps, tol)
        for x0, x1, k in zip(start, x, target, strict=True)
    ])  # fmt: skip


def _integrated(
    net: GraphNet, x0: Tensor, x1: Tensor, k: int, most: int, tol: float
) -> Tensor:  # fmt: skip
    def f(t: float) -> float:
        return net((x0 + t * (x1 - x0))[None])[0, k].item()

    def panel(a: float, b: float) -> tuple[float, float, Tensor, float]:
        map = (b - a) * (x1 - x0) * gradient(net, (x0 + (a + b) / 2 * (x1 - x0))[None], [k])[0]
        return a, b, map, map.sum().item() - (f(b) - f(a))

    taken = min(4, most)
    panels = [panel(i / taken, (i + 1) / taken) for i in range(taken)]
    while taken + 4 <= most:
        if taken >= 16 and abs(sum(p[3] for p in panels)) <= tol * abs(f(1.0) - f(0.0)):
            break
        panels.sort(key=lambda p: -abs(p[3]))
        ends = [(a, b) for a, b, _, _ in panels[:2]]
        halves = [half for a, b in ends for half in ((a, (a + b) / 2), ((a + b) / 2, b))]
        panels = panels[2:] + [panel(a, b) for a, b in halves]
        taken += 4
    return torch.stack([p[2] for p in panels]).sum(0)


# ---------------------------------------------------------------- relevance


def _share(terms: Tensor, total: Tensor, r: Tensor) -> Tensor:
    """R_i = sum_j terms_ji / total_j R_j, where 1 / 0 counts as 0."""
    total = total[:, None]
    return (torch.where(total == 0, 0.0, terms / total) * r[:, None]).sum(dim=0)


def _relevance(linear: Rule) -> Rule:
    """`linear` at linear maps and unfolded BatchNorms, the common rules elsewhere."""

    def rule(step: Step, a: Tensor, z: Tensor, r: Tensor) -> Tensor:
        if step.kind in ("linear", "norm"):
            return linear(step, a, z, r)
        if step.kind == "sum":
            return _share(step.weight * a, z, r)
        if step.kind == "relu":
            return torch.where(z == 0, 0.0, r)
        return r @ (_switch(step, a) if step.kind == "max" else step.weight)

    return rule


def lrp_epsilon(
    net: GraphNet, x: Tensor, target: list[int], *, eps: float = 1e-3, eps_relative: float = 0.0
) -> Tensor:
    rule = partial(_epsilon, eps=eps, eps_relative=eps_relative)
    return _explain(net, x, target, _relevance(rule), "value")


def _epsilon(
    step: Step, a: Tensor, z: Tensor, r: Tensor, eps: float, eps_relative: float = 0.0
) -> Tensor:
    reached = z[r != 0].abs()
    eps = eps + eps_relative * float(reached.mean() if len(reached) else 0.0)
    return _share(step.weight * a, torch.where(z < 0, z - eps, z + eps), r)


def _alpha_beta(step: Step, a: Tensor, z: Tensor, r: Tensor, alpha: float, beta: float) -> Tensor:
    terms = step.weight * a
    plus, minus = terms.clamp(min=0), terms.clamp(max=0)
    z_plus = plus.sum(dim=1) + step.bias.clamp(min=0)
    z_minus = minus.sum(dim=1) + step.bias.clamp(max=0)
    return alpha * _share(plus, z_plus, r) - beta * _share(minus, z_minus, r)


def _gamma(step: Step, a: Tensor, z: Tensor, r: Tensor, gamma: float) -> Tensor:
    """Contributions (and biases) of the sign of z_j count 1 + gamma times."""
    sign = torch.where(z < 0, -1.0, 1.0)
    terms = step.weight * a
    favored = terms * (terms * sign[:, None] > 0)
    own = step.bias * (step.bias * sign > 0)
    total = z + gamma * (favored.sum(dim=1) + own)
    return _share(terms + gamma * favored, torch.where(z == 0, 0.0, total), r)


def lrp_gamma(net: GraphNet, x: Tensor, target: list[int], *, gamma: float = 0.25) -> Tensor:
    return _explain(net, x, target, _relevance(partial(_gamma, gamma=gamma)), "value")


def lrp_composite(
    net: GraphNet,
    x: Tensor,
    target: list[int],
    *,
    preset: str = "epsilon-plus-flat",
    eps: float = 1e-6,
    gamma: float = 0.25,
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """The composites of Kohlbrenner 2020 and Montavon 2019, spelled out."""
    plus = partial(_alpha_beta, alpha=1.0, beta=0.0)
    mixed = partial(_alpha_beta, alpha=2.0, beta=1.0)
    dense, favor = partial(_epsilon, eps=eps), partial(_gamma, gamma=gamma)
    at_convolutions, at_dense, at_input = {
        "epsilon-plus": (plus, dense, plus),
        "epsilon-plus-flat": (plus, dense, "flat"),
        "epsilon-gamma-box": (favor, dense, "box"),
        "alpha2beta1-flat": (mixed, dense, "flat"),
        "attnlrp": (dense, dense, dense),
        "attnlrp-gamma": (favor, favor, favor),
    }[preset]
    with torch.no_grad():
        bounds = {} if low is None or high is None else _bounds(net, x, low, high)

    def linear(step: Step, a: Tensor, z: Tensor, r: Tensor) -> Tensor:
        w = step.weight
        if step.first and step.kind == "norm" and isinstance(at_input, str):
            return r  # before the input layer: one to one
        if step.first and step.kind == "linear":
            if at_input == "flat":
                terms = (w != 0).to(w.dtype)
                return _share(terms, terms.sum(dim=1), torch.where(z == 0, 0.0, r))
            if isinstance(at_input, str):
                lo, hi = bounds[step.output]
                terms = w * a - w.clamp(min=0) * lo - w.clamp(max=0) * hi
                return _share(terms, terms.sum(dim=1), r)
            return at_input(step, a, z, r)
        first = step.module[0] if isinstance(step.module, nn.Sequential) else step.module
        convolution = step.kind == "linear" and not isinstance(first, nn.Linear)
        return (at_convolutions if convolution else at_dense)(step, a, z, r)

    return _explain(net, x, target, _relevance(linear), "value")


def lrp_alpha_beta(
    net: GraphNet, x: Tensor, target: list[int], *, alpha: float = 2.0, beta: float = 1.0
) -> Tensor:
    linear = partial(_alpha_beta, alpha=alpha, beta=beta)
    return _explain(net, x, target, _relevance(linear), "value")


def _z_plus(step: Step, a: Tensor, z: Tensor, r: Tensor) -> Tensor:
    plus = (step.weight * a).clamp(min=0)
    return _share(plus, plus.sum(dim=1), r)


def excitation_backprop(net: GraphNet, x: Tensor, target: list[int]) -> Tensor:
    return _explain(net, x, target, _relevance(_z_plus), "one")


def _bounds(
    net: GraphNet, x: Tensor, low: float | Tensor, high: float | Tensor
) -> dict[int, tuple[Tensor, Tensor]]:
    """Output value of each input layer -> its input's flattened (low, high)."""
    sides = [torch.as_tensor(side, dtype=x.dtype) for side in (low, high)]
    values = {0: [side.expand(1, *x.shape[1:]) for side in sides]}
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for step in build_steps(net, x[:1]):
        if step.first and step.kind == "linear":
            lo, hi = (torch.cat([values[i][k].flatten() for i in step.inputs]) for k in (0, 1))
            found[step.output] = lo, hi
        elif step.first:
            one, other = (step.module(*(values[i][k] for i in step.inputs)) for k in (0, 1))
            # a negative BatchNorm weight turns the lower bound into the upper one
            values[step.output] = [torch.minimum(one, other), torch.maximum(one, other)]
    return found


def deep_taylor(
    net: GraphNet,
    x: Tensor,
    target: list[int],
    *,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
) -> Tensor:
    """w^2 at input layers, or z^B where `low` and `high` (the same for all samples) are given."""
    if (low is None) != (high is None):
        raise ValueError("give both low and high, or neither")
    with torch.no_grad():
        bounds = {} if low is None or high is None else _bounds(net, x, low, high)

    def linear(step: Step, a: Tensor, z: Tensor, r: Tensor) -> Tensor:
        if not step.first:
            return _z_plus(step, a, z, r)
        if step.kind == "norm":
            return r  # before the input layer: one to one
        w = step.weight
        if step.output in bounds:
            lo, hi = bounds[step.output]
            terms = w * a - w.clamp(min=0) * lo - w.clamp(max=0) * hi
        else:
            terms = w**2
        return _share(terms, terms.sum(dim=1), r)

    return _explain(net, x, target, _relevance(linear), "value")


ORACLES: dict[str, Callable[..., Tensor]] = {
    oracle.__name__: oracle
    for oracle in (
        gradient,
        input_x_gradient,
        smoothgrad,
        integrated_gradients,
        guided_backprop,
        deconvnet,
        deep_taylor,
        lrp_epsilon,
        lrp_alpha_beta,
        lrp_gamma,
        lrp_composite,
        excitation_backprop,
    )
}
