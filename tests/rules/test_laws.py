"""The laws that saliency methods obey, on random networks in float64.

Every law holds for a class of networks; the class is drawn by hypothesis. Where a law has a
condition, one example shows that it fails without.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple, cast

import pytest
import torch
from chosen import with_error
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nets import Add, GraphNet, Node, chain, fill, graph, new
from torch import Tensor, nn

import salience

law = settings(max_examples=20, deadline=None, derandomize=True, database=None)
SINGLE = [name for name, method in salience.methods.items() if method.single_pass]
# few draws and a fixed number of steps: these laws are not about accuracy
PARAMETERS: dict[str, dict[str, Any]] = {
    "smoothgrad": {"n": 3},
    "integrated_gradients": {"max_steps": 4, "tol": 0.0},
}


class Case(NamedTuple):
    net: GraphNet
    x: Tensor  # (B, 2, 8, 8)
    target: list[int]

    def values(self) -> Tensor:
        """The target of each sample (B,)."""
        return self.net(self.x).detach()[range(len(self.x)), self.target]

    def explain(self, method: str, **parameters: Any) -> Tensor:
        return salience.record(self.net, self.x).explain(method, target=self.target, **parameters)


def sums(maps: Tensor) -> Tensor:
    return maps.flatten(1).sum(1)


def close(ours: Tensor, fact: Tensor, tolerance: float = 1e-9) -> None:
    """Equal up to a share of the largest value of each sample's fact."""
    scale = fact.abs().flatten(1).amax(1).clamp(min=1e-300) if fact.ndim > 1 else fact.abs().amax()
    worst = (ours - fact).abs()
    worst = worst.flatten(1).amax(1) if fact.ndim > 1 else worst.amax()
    assert bool((worst <= tolerance * scale).all()), (worst / scale).tolist()


# ---------------------------------------------------------------- random networks


def _conv(rng: torch.Generator, inputs: int, bias: bool, grouped: bool) -> nn.Module:
    """A convolution of random shape that keeps the size of its input."""
    kernel, dilation = ((1, 1), (3, 1), (3, 2))[_below(rng, 3)]
    outputs = 4 + 2 * _below(rng, 2)
    groups = 1 + _below(rng, 2) if grouped else 1
    padding = dilation * (kernel // 2)
    return new(nn.Conv2d, inputs, outputs, kernel, padding=padding, dilation=dilation,
               groups=groups, bias=bias)  # fmt: skip


def _below(rng: torch.Generator, n: int) -> int:
    return int(torch.randint(n, (), generator=rng))


def _build(
    rng: torch.Generator, blocks: list[str], rectify: bool, bias: bool, grouped: bool
) -> GraphNet:
    nodes: list[Node] = []
    channels = 2

    def put(module: nn.Module, *inputs: int) -> int:
        nodes.append(Node(module, inputs or (len(nodes),)))
        return len(nodes)

    def activate() -> None:
        if rectify:
            put(nn.ReLU())

    for block in ("conv", *blocks):
        if block in ("conv", "conv_bn"):
            module = _conv(rng, channels, bias, grouped)
            channels = cast(nn.Conv2d, module).out_channels
            put(module)
            if block == "conv_bn":
                put(new(nn.BatchNorm2d, channels))
            activate()
        elif block == "residual":
            start = len(nodes)
            put(new(nn.Conv2d, channels, channels, 3, padding=1, bias=bias))
            activate()
            put(new(nn.Conv2d, channels, channels, 1, bias=bias))
            put(Add(), len(nodes), start)
            activate()
        elif block == "batch_norm":
            put(new(nn.BatchNorm2d, channels))
        elif block == "max":
            put(nn.MaxPool2d(3, 2, 1))
        else:
            put(nn.AvgPool2d(2, 2, ceil_mode=True))
    put(nn.AdaptiveAvgPool2d(2))
    put(nn.Flatten())
    put(new(nn.Linear, 4 * channels, 6, bias=bias))
    activate()
    put(new(nn.Linear, 6, 3, bias=bias))
    net = GraphNet(nodes)
    fill(net, rng)
    if not bias:
        without_shifts(net)
    return net.eval()


@torch.no_grad()
def without_shifts(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.zero_()
            module.bias.zero_()


@st.composite
def cases(
    draw: st.DrawFn,
    blocks: str = "conv conv_bn residual batch_norm max avg",
    rectify: bool = True,
    bias: bool = True,
    non_negative: bool = False,
    grouped: bool = True,
) -> Case:
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    chosen = draw(st.lists(st.sampled_from(blocks.split()), min_size=1, max_size=4))
    net = _build(rng, chosen, rectify, bias, grouped)
    x = torch.randn(draw(st.integers(1, 3)), 2, 8, 8, generator=rng, dtype=torch.float64)
    target = torch.randint(3, (len(x),), generator=rng).tolist()
    case = Case(net, x.abs() if non_negative else x, target)
    assume(bool((case.values() != 0).all()))  # a narrow net may be closed all over
    return case


# ---------------------------------------------------------------- 1. epsilon -> 0


@law
@given(cases())
def test_epsilon_to_zero_is_input_x_gradient(case: Case):
    fact = case.explain("input_x_gradient")
    close(case.explain("lrp_epsilon", eps=0.0), fact)
    # a multiplier is off by eps / |z| at a unit z, and no |z| here is under 1e-6
    close(case.explain("lrp_epsilon", eps=1e-15), fact, 1e-9)
    coarse, fine = ((case.explain("lrp_epsilon", eps=e) - fact).abs().amax() for e in (1e-5, 1e-9))
    assert fine < 0.01 * coarse


# ---------------------------------------------------------------- 2. linear models


@law
@given(cases(blocks="conv conv_bn residual batch_norm avg", rectify=False))
def test_a_linear_models_maps_are_its_coefficients_and_contributions(case: Case):
    one = torch.zeros(1, *case.x.shape[1:], dtype=torch.float64)
    units = torch.eye(one.numel(), dtype=torch.float64).view(-1, *case.x.shape[1:])
    columns = (case.net(units) - case.net(one)).detach().T  # (3, features): f(e_i) - f(0)
    coefficients = columns[case.target].view_as(case.x)
    close(case.explain("gradient"), coefficients)
    for method, given_ in (
        ("input_x_gradient", {}),
        ("lrp_epsilon", {"eps": 0.0}),
        ("lrp_epsilon", {"eps": 1e-15}),
        ("integrated_gradients", {}),
    ):
        close(case.explain(method, **given_), case.x * coefficients)


@law
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_gradients_of_a_regression_are_its_coefficients(seed: int, features: int):
    rng = torch.Generator().manual_seed(seed)
    data = torch.randn(40, features + 1, generator=rng, dtype=torch.float64)
    design = torch.cat([data[:, :-1], torch.ones(40, 1, dtype=torch.float64)], 1)
    fit = torch.linalg.lstsq(design, data[:, -1:]).solution[:, 0]
    model = new(nn.Linear, features, 1).eval()
    with torch.no_grad():
        model.weight.copy_(fit[None, :-1])
        model.bias.copy_(fit[-1:])
    tape = salience.record(model, data[:, :-1])
    close(tape.explain("gradient", target=0), fit[:-1].expand(40, -1), 1e-14)
    close(tape.explain("input_x_gradient", target=0), data[:, :-1] * fit[:-1], 1e-14)


# ---------------------------------------------------------------- 3. no ReLU


@law
@given(cases(rectify=False))
def test_without_a_relu_guided_backprop_and_deconvnet_are_the_gradient(case: Case):
    fact = case.explain("gradient")
    for method in ("guided_backprop", "deconvnet"):
        close(case.explain(method), fact, 1e-13)


def test_with_a_relu_they_are_not():
    net = chain(new(nn.Linear, 4, 16), nn.ReLU(), new(nn.Linear, 16, 16), nn.ReLU(),
                new(nn.Linear, 16, 2)).eval()  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    fill(net, rng)
    case = Case(net, torch.randn(2, 4, generator=rng, dtype=torch.float64), [0, 1])
    maps = [case.explain(name) for name in ("gradient", "guided_backprop", "deconvnet")]
    assert all((a - b).abs().max() > 0.1 for a, b in pairwise(maps))


# ---------------------------------------------------------------- 4. excitation backprop


@law
@given(cases(bias=False, non_negative=True))
def test_excitation_backprop_is_alpha1_beta0_up_to_its_start(case: Case):
    fact = case.explain("lrp_alpha_beta", alpha=1.0, beta=0.0)
    excitation = case.explain("excitation_backprop")
    close(excitation * case.values().view(-1, 1, 1, 1), fact, 1e-12)
    start = torch.arange(len(case.x), dtype=torch.float64) + 2
    started = case.explain("excitation_backprop", start=start)
    close(started, excitation * start.view(-1, 1, 1, 1), 1e-12)


def test_with_biases_excitation_backprop_gives_them_nothing():
    net = new(nn.Linear, 2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 2.0]]))
        net.bias.fill_(3.0)
    x = torch.ones(1, 2, dtype=torch.float64)
    tape = salience.record(net.eval(), x)
    fact = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    close(tape.explain("lrp_alpha_beta", target=0, alpha=1.0, beta=0.0), fact, 1e-15)
    close(tape.explain("excitation_backprop", target=0), fact / 3, 1e-15)


# ---------------------------------------------------------------- 5. conservation


@st.composite
def paired(draw: st.DrawFn) -> Case:
    """A bias-free net in which no unit with a non-zero output has terms of one sign only.

    Channels come in equal pairs (2k, 2k + 1), from the input on, and every linear map has weights
    of opposite sign for the two of a pair: an active pair gives each of its readers both signs.
    """
    case = draw(cases(blocks="conv conv_bn residual max avg", bias=False, grouped=False))
    net = case.net
    with torch.no_grad():
        modules = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for module in modules:
            weight = module.weight.abs()
            if isinstance(module, nn.Linear) and module.in_features > 6:  # 2 x 2 pixels a channel
                weight[:, torch.arange(weight.shape[1]) // 4 % 2 == 1] *= -1
            else:
                weight[:, 1::2] *= -1
            if module is not modules[-1]:
                weight[1::2] = weight[::2]
            module.weight.copy_(weight)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None
                module.running_var[1::2] = module.running_var[::2]
                module.weight[1::2] = module.weight[::2]
    case = case._replace(x=case.x[:, :1].repeat(1, 2, 1, 1))
    assume(bool((case.values() != 0).all()))
    return case


def conserved(case: Case, maps: Tensor) -> None:
    """Sums equal to the targets, up to rounding of all the relevance that was moved about."""
    moved = maps.abs().flatten(1).sum(1)
    gap = (sums(maps) - case.values()).abs()
    assert bool((gap <= 1e-10 * moved).all()), (gap / moved).tolist()


@law
@given(paired(), st.floats(1.0, 3.0))
def test_alpha_beta_conserves_where_every_unit_has_terms_of_both_signs(case: Case, alpha: float):
    maps = case.explain("lrp_alpha_beta", alpha=alpha, beta=alpha - 1)
    conserved(case, maps)


@law
@given(cases(blocks="conv conv_bn max avg", bias=False))
def test_alpha1_beta0_conserves_positive_outputs_of_chains(case: Case):
    # an active unit without a bias has a positive term; a closed one has no relevance
    case = positive(case)
    conserved(case, case.explain("lrp_alpha_beta", alpha=1.0, beta=0.0))
    excitation = case.explain("excitation_backprop")
    close(sums(excitation), torch.ones(len(case.x), dtype=torch.float64), 1e-12)


def positive(case: Case) -> Case:
    """The same net with each sample's target turned to the positive side of its last map."""
    values = case.net(case.x).detach()
    sign = values[:, 0].sign()
    last = new(nn.Linear, 6, 2, bias=False)
    old = cast(nn.Linear, case.net.layers[-1])
    with torch.no_grad():
        last.weight.copy_(torch.stack([old.weight[0], -old.weight[0]]))
    if old.bias is not None:
        # the bias turns with the weights
        last.bias = nn.Parameter(torch.stack([old.bias[0], -old.bias[0]]).detach())
    nodes = [*case.net.nodes[:-1], Node(last, case.net.nodes[-1].inputs)]
    turned = Case(GraphNet(nodes).eval(), case.x, (sign < 0).long().tolist())
    assert bool((turned.values() >= 0).all())
    keep = turned.values() > 0
    assume(bool(keep.any()))
    target = [t for t, k in zip(turned.target, keep.tolist(), strict=True) if k]
    return Case(turned.net, case.x[keep], target)


def test_a_unit_with_terms_of_one_sign_loses_what_the_other_sign_should_take():
    # f = -2 - 3 has no positive term, so alpha gives nothing and beta takes all: -1 * f
    net = chain(new(nn.Linear, 2, 1, bias=False)).eval()
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.tensor([[-2.0, -3.0]]))
    case = Case(net, torch.ones(1, 2, dtype=torch.float64), [0])
    tape = salience.record(case.net, case.x)
    maps, error = with_error(tape, "lrp_alpha_beta", 0, alpha=1.0, beta=0.0)
    assert maps.tolist() == [[0, 0]]
    assert error.tolist() == [1]
    maps, error = with_error(tape, "lrp_alpha_beta", 0, alpha=2.0, beta=1.0)
    close(maps, torch.tensor([[2.0, 3.0]], dtype=torch.float64), 1e-15)
    assert error.tolist() == [2]


@law
@given(cases(blocks="conv conv_bn max avg"), st.booleans())
def test_deep_taylor_maps_of_positive_outputs_of_chains_are_non_negative(case: Case, bounded: bool):
    case = positive(case)
    bounds = {"low": float(case.x.min()), "high": float(case.x.max())} if bounded else {}
    maps = case.explain("deep_taylor", **bounds)
    assert maps.min() >= 0
    assert bool((sums(maps) <= case.values() * (1 + 1e-9)).all())


@law
@given(cases(blocks="conv conv_bn max avg", bias=False), st.booleans())
def test_deep_taylor_conserves_positive_outputs_of_bias_free_chains(case: Case, bounded: bool):
    case = positive(case)
    bounds = {"low": -9.0, "high": 9.0} if bounded else {}
    conserved(case, case.explain("deep_taylor", **bounds))


def test_a_negative_summand_of_a_residual_sum_makes_deep_taylor_negative():
    # h = (3, 1), u = h_1 = 3, v = 5 h_2 - 2 h_1 = -1: of the sum f = 2, u gets 3 and v gets -1
    hidden, skip, branch = (new(nn.Linear, 2, n, bias=False) for n in (2, 1, 1))
    with torch.no_grad():
        hidden.weight.copy_(torch.eye(2))
        skip.weight.copy_(torch.tensor([[1.0, 0.0]]))
        branch.weight.copy_(torch.tensor([[-2.0, 5.0]]))
    net = graph(hidden, nn.ReLU(), (skip, 2), (branch, 2), (Add(), 3, 4)).eval()
    case = Case(net, torch.tensor([[3.0, 1.0]], dtype=torch.float64), [0])
    assert case.values().item() == 2
    fact = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    close(case.explain("deep_taylor"), fact, 1e-14)


# ---------------------------------------------------------------- 6. completeness


@law
@given(cases(), st.sampled_from([0.0, 0.3, -1.0]), st.sampled_from([0.1, 0.03]))
def test_integrated_gradients_add_up_to_the_difference(case: Case, baseline: float, tol: float):
    given = {"baseline": baseline, "tol": tol, "max_steps": 1024}
    tape = salience.record(case.net, case.x)
    maps, told = with_error(tape, "integrated_gradients", case.target, **given)
    start = Case(case.net, torch.full_like(case.x, baseline), case.target).values()
    gap = case.values() - start
    error = (sums(maps) - gap).abs() / gap.abs()
    close(told, error, 1e-9)
    assert bool((error <= tol).all()), error.tolist()


# ---------------------------------------------------------------- 7. positive homogeneity


@law
@given(cases(bias=False), st.floats(0.1, 10.0))
def test_input_x_gradient_of_a_bias_free_net_adds_up_to_its_output(case: Case, scale: float):
    maps = case.explain("input_x_gradient")
    conserved(case, maps)
    close(Case(case.net, scale * case.x, case.target).explain("input_x_gradient"), scale * maps)


# ---------------------------------------------------------------- 8. dense maps, batches


@law
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2),
       st.sampled_from([1, 2]), st.booleans())  # fmt: skip
def test_a_convolution_equals_the_linear_map_of_its_dense_matrix(
    seed: int, kernel: int, stride: int, padding: int, groups: int, bias: bool
):
    rng = torch.Generator().manual_seed(seed)
    conv = new(nn.Conv2d, 2, 4, kernel, stride=stride, padding=padding, groups=groups, bias=bias)
    fill(conv, rng)
    x = torch.randn(2, 2, 5, 5, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        shift = conv(torch.zeros_like(x[:1])).flatten()
        matrix = (conv(torch.eye(50, dtype=torch.float64).view(50, 2, 5, 5)).flatten(1) - shift).T
    head = new(nn.Linear, len(shift), 3)
    fill(head, rng)
    dense = new(nn.Linear, 50, len(shift), bias=bias)
    with torch.no_grad():
        dense.weight.copy_(matrix)
        if bias:
            dense.bias.copy_(shift)
    target = [0, 2]
    convolved = Case(chain(conv, nn.ReLU(), nn.Flatten(), head).eval(), x, target)
    flat = Case(chain(nn.Flatten(), dense, nn.ReLU(), head).eval(), x, target)
    # a composite's rules depend on the kind of the layer, but for presets with one rule
    given = {**PARAMETERS, "lrp_composite": {"preset": "attnlrp-gamma"}}
    for method in salience.methods:
        parameters = given.get(method, {})
        close(convolved.explain(method, **parameters), flat.explain(method, **parameters), 1e-11)


@pytest.mark.parametrize("method", salience.methods)
@law
@given(case=cases(), seed=st.integers(0, 100))
def test_permuting_a_batch_permutes_the_maps_and_samples_do_not_mix(
    method: str, case: Case, seed: int
):
    parameters = PARAMETERS.get(method, {})
    maps = case.explain(method, **parameters)
    order = torch.randperm(len(case.x), generator=torch.Generator().manual_seed(seed))
    permuted = Case(case.net, case.x[order], [case.target[i] for i in order.tolist()])
    close(permuted.explain(method, **parameters), maps[order], 1e-11)
    alone = [
        Case(case.net, case.x[b : b + 1], case.target[b : b + 1]).explain(method, **parameters)
        for b in range(len(case.x))
    ]
    close(torch.cat(alone), maps, 1e-11)
