"""The oracles against facts that do not come from them: autograd, laws, sums done by hand."""

from __future__ import annotations

import pytest
import torch
from nets import Add, GraphNet, chain, graph, new, small_nets
from oracles import ORACLES, build_steps
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

NETS = small_nets()
METHODS = (
    "gradient", "input_x_gradient", "smoothgrad", "integrated_gradients", "guided_backprop",
    "deconvnet", "deep_taylor", "lrp_epsilon", "lrp_alpha_beta", "lrp_gamma",
    "lrp_composite", "excitation_backprop",
)  # fmt: skip
RELU_NETS = [name for name in NETS if name != "relu6"]
every_net = pytest.mark.parametrize("name", NETS)


def case(name: str) -> tuple[GraphNet, Tensor, list[int]]:
    net, x = NETS[name]
    return net, x, [(2 * b + 1) % net(x).shape[1] for b in range(len(x))]


def autograd(net: nn.Module, x: Tensor, target: list[int]) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x)[range(len(x)), target].sum(), x)[0]


def values_of(net: GraphNet, x: Tensor) -> list[Tensor]:
    values = [x]
    for module, inputs in net.nodes:
        values.append(module(*(values[i] for i in inputs)))
    return values


def affine(kind: type, *size: int, weight: object, bias: object = None, **kwargs: int) -> nn.Module:
    module = new(kind, *size, bias=bias is not None, **kwargs)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weight, dtype=torch.float64).reshape(module.weight.shape))
        if bias is not None:
            module.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return module


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Module:
    return affine(nn.Linear, len(weight[0]), len(weight), weight=weight, bias=bias)


def norm(weight: list[float], bias: list[float]) -> nn.Module:
    """A BatchNorm that computes weight * a + bias."""
    module = new(nn.BatchNorm1d, len(weight), eps=0.0)
    assert module.running_mean is not None
    assert module.running_var is not None
    with torch.no_grad():
        module.running_mean.zero_()
        module.running_var.fill_(1.0)
        module.weight.copy_(torch.tensor(weight))
        module.bias.copy_(torch.tensor(bias))
    return module.eval()


def vec(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def close(ours: Tensor, fact: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(ours, fact, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- the networks


def test_networks_leave_the_global_generator_alone_and_are_reproducible():
    before = torch.random.get_rng_state()
    again = small_nets()
    assert torch.equal(before, torch.random.get_rng_state())
    for name, (net, x) in NETS.items():
        assert torch.equal(x, again[name][1])
        assert torch.equal(net(x), again[name][0](x))


@every_net
def test_networks_are_float64_with_inputs_of_both_signs_and_3_or_4_outputs(name: str):
    net, x = NETS[name]
    assert not net.training
    assert x.dtype == net(x).dtype == torch.float64
    assert x.min() < 0 < x.max()
    assert net(x).shape in {(len(x), 3), (len(x), 4)}
    assert net(x).abs().min() > 1e-3


def test_relu6_activations_lie_below_between_and_above_its_corners():
    net, x = NETS["relu6"]
    values = values_of(net, x)
    for k in (1, 3):
        assert values[k].min() < 0
        assert values[k].max() > 6
        assert ((values[k] > 0) & (values[k] < 6)).any()


@every_net
def test_no_sum_is_zero_unless_all_its_terms_are(name: str):
    # the relevance form divides by sums; the multiplier form has a limit there and may differ
    net, x = NETS[name]
    values = values_of(net, x)
    for step in build_steps(net, x[:1]):
        if step.kind in ("linear", "norm", "sum"):
            a = torch.cat([values[i].flatten(1) for i in step.inputs], dim=1)
            z = values[step.output].flatten(1)
            assert not ((z == 0) & (a.abs() @ step.weight.abs().T > 0)).any()


# ---------------------------------------------------------------- the dense steps


@every_net
def test_dense_maps_reproduce_the_forward_pass(name: str):
    net, x = NETS[name]
    values = values_of(net, x)
    for step in build_steps(net, x[:1]):
        if step.kind not in ("relu", "max"):
            a = torch.cat([values[i].flatten(1) for i in step.inputs], dim=1)
            close(a @ step.weight.T + step.bias, values[step.output].flatten(1))


def test_which_batchnorms_fold():
    kinds = {name: [s.kind for s in build_steps(net, x[:1])] for name, (net, x) in NETS.items()}
    assert {name: found.count("norm") for name, found in kinds.items() if "norm" in found} == {
        "bn_alone": 2, "residual_unfolded": 1, "parallel": 1,
    }  # fmt: skip
    assert kinds["conv_bn_relu"].count("linear") == 4


@pytest.mark.parametrize(
    "method", ["lrp_epsilon", "lrp_alpha_beta", "deep_taylor", "excitation_backprop"]
)
def test_folding_equals_torchs_own_fusion(method: str):
    net, x, target = case("conv_bn_relu")
    layers = [node.module for node in net.nodes]
    conv, bn, relu, conv2, bn2, relu2, *head = layers
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(conv2, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    assert isinstance(bn2, nn.BatchNorm2d)
    fused = chain(fuse_conv_bn_eval(conv, bn), relu, fuse_conv_bn_eval(conv2, bn2), relu2, *head)
    close(ORACLES[method](net, x, target), ORACLES[method](fused, x, target), 1e-10)


def test_input_layers_have_no_linear_map_upstream():
    def first(name: str) -> list[int]:
        net, x = NETS[name]
        return [s.output for s in build_steps(net, x[:1]) if s.first and s.kind == "linear"]

    assert first("bn_alone") == [2]
    assert first("parallel") == [1, 4]
    assert first("residual") == [2]
    assert first("mlp_no_bias") == [2]


# ---------------------------------------------------------------- gradients


@every_net
def test_gradient_is_autograds(name: str):
    net, x, target = case(name)
    fact = autograd(net, x, target)
    close(ORACLES["gradient"](net, x, target), fact)
    close(ORACLES["input_x_gradient"](net, x, target), x * fact)


def test_a_max_pool_gives_ties_to_the_first_index():
    net = chain(nn.MaxPool1d(2), nn.Flatten(), linear([[1.0, 2.0]]))
    x = torch.tensor([[[3.0, 3.0, 0.0, 0.0]]], dtype=torch.float64)
    fact = torch.tensor([[[1.0, 0.0, 2.0, 0.0]]], dtype=torch.float64)
    close(ORACLES["gradient"](net, x, [0]), fact)
    close(autograd(net, x, [0]), fact)


def test_overlapping_padded_max_pools_give_ties_to_torchs_winner():
    net = chain(nn.MaxPool2d(3, 2, 1), nn.Flatten(), linear([[1.0, 2.0, 3.0, 4.0]]))
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    close(ORACLES["deconvnet"](net, x, [0]), autograd(net, x, [0]))


def test_guided_backprop_and_deconvnet_by_hand():
    # hidden units: 1 open, m > 0; 2 open, m < 0; 3 closed, m > 0; 4 closed, m < 0
    hidden = linear([[1.0, 0.0], [1.0, 3.0], [0.0, -5.0], [-7.0, 0.0]])
    net = chain(hidden, nn.ReLU(), linear([[2.0, -1.0, 4.0, -6.0]]))
    x = vec(1.0, 1.0)
    close(ORACLES["gradient"](net, x, [0]), vec(2 - 1, -3))
    close(ORACLES["guided_backprop"](net, x, [0]), vec(2, 0))
    close(ORACLES["deconvnet"](net, x, [0]), vec(2, -20))


def test_guided_backprop_and_deconvnet_at_relu6_by_hand():
    # unit 2 is above 6: its derivative is 0, which deconvnet does not look at
    net = chain(linear([[1.0, 0.0], [0.0, 9.0]]), nn.ReLU6(), linear([[2.0, 3.0]]))
    x = vec(1.0, 1.0)
    close(ORACLES["guided_backprop"](net, x, [0]), vec(2, 0))
    close(ORACLES["deconvnet"](net, x, [0]), vec(2, 27))


def test_guided_backprop_gates_the_sum_of_both_branches():
    # m at the ReLU is 2 - 3 < 0 although one branch alone is positive
    net = graph(nn.ReLU(), linear([[2.0]]), (linear([[-3.0]]), 1), (Add(), 2, 3), linear([[1.0]]))
    assert ORACLES["gradient"](net, vec(1.0), [0]).item() == -1
    assert ORACLES["guided_backprop"](net, vec(1.0), [0]).item() == 0


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_without_a_relu_they_are_the_gradient(method: str):
    net, x = NETS["conv_bn_relu"]
    net = chain(*(node.module for node in net.nodes if not isinstance(node.module, nn.ReLU)))
    close(ORACLES[method](net, x, [0, 1, 2]), autograd(net, x, [0, 1, 2]))


@pytest.mark.parametrize("name", RELU_NETS)
def test_integrated_gradients_are_complete(name: str):
    net, x, target = case(name)
    x, target = x[:1], target[:1]
    gap = (net(x) - net(torch.full_like(x, 0.1)))[0, target[0]].item()
    maps = ORACLES["integrated_gradients"](net, x, target, baseline=0.1, steps=500)
    # the midpoint rule is off by O(1 / steps) at each corner of a piecewise linear function
    assert maps.sum().item() == pytest.approx(gap, abs=0.01 * (1 + abs(gap)))


def test_integrated_gradients_of_one_relu_by_hand():
    # relu(x1 + x2 - 1) from (0, 0) to (2, 2): open on 3/4 of the path
    net = chain(linear([[1.0, 1.0]], [-1.0]), nn.ReLU())
    close(ORACLES["integrated_gradients"](net, vec(2.0, 2.0), [0], steps=4), vec(1.5, 1.5))


def test_smoothgrad_scales_its_noise_by_each_samples_own_range():
    net = chain(linear([[2.0, -3.0, 1.0]], [1.0]))
    x = torch.tensor([[0.0, 1.0, 4.0], [-10.0, 5.0, 10.0]], dtype=torch.float64)
    draws = torch.tensor([[1.0, 0.0, 2.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
    # the mean draw is (1.5, 0.5, 1); the ranges are 4 and 20
    shift = torch.cat([0.15 * 4 * vec(1.5, 0.5, 1.0), 0.15 * 20 * vec(1.5, 0.5, 1.0)])
    fact = (x + shift) * vec(2, -3, 1)
    maps = ORACLES["smoothgrad"](net, x, [0, 0], n=2, draws=draws, base="input_x_gradient")
    close(maps, fact)
    default = ORACLES["smoothgrad"](net, x, [0, 0], n=2, draws=draws)
    close(default, vec(2, -3, 1).expand(2, -1))


def test_smoothgrad_refuses_draws_of_another_number():
    net, x, target = case("mlp")
    with pytest.raises(ValueError, match=r"draws must be \(50, 6\), not \(49, 6\)"):
        ORACLES["smoothgrad"](net, x, target, draws=torch.zeros(49, 6))


# ---------------------------------------------------------------- relevance


@pytest.mark.parametrize("name", RELU_NETS)
def test_epsilon_to_zero_is_input_x_gradient(name: str):
    net, x, target = case(name)
    maps = ORACLES["lrp_epsilon"](net, x, target, eps=1e-14)
    close(maps, x * autograd(net, x, target), 1e-9)


def test_epsilon_by_hand_with_either_sign_of_z_and_the_default():
    # z = (3 - 2 + 1, -3 + 2 + 0.5) = (2, -0.5)
    net = chain(linear([[3.0, -1.0], [-3.0, 1.0]], [1.0, 0.5]))
    x = vec(1.0, 2.0).expand(2, 2)
    fact = torch.cat([vec(3, -2) * 2 / 2.5, vec(-3, 2) * -0.5 / (-0.5 - 0.5)])
    close(ORACLES["lrp_epsilon"](net, x, [0, 1], eps=0.5), fact)
    fact = torch.cat([vec(3, -2) * 2 / 2.001, vec(-3, 2) * -0.5 / (-0.5 - 1e-3)])
    close(ORACLES["lrp_epsilon"](net, x, [0, 1]), fact)


def test_epsilon_hands_relevance_through_relu6():
    # 9 is cut to 6: all of the relevance 3 * 6 passes
    net = chain(linear([[9.0]]), nn.ReLU6(), linear([[3.0]]))
    close(ORACLES["lrp_epsilon"](net, vec(1.0), [0], eps=1e-14), vec(18.0))


def test_alpha_beta_by_hand_with_either_sign_of_the_bias():
    # terms (3, -2); b = 1: z+ = 4, z- = -2, z = 2; b = -0.5: z+ = 3, z- = -2.5, z = 0.5
    net = chain(linear([[3.0, -1.0], [3.0, -1.0]], [1.0, -0.5]))
    x = vec(1.0, 2.0).expand(2, 2)
    oracle = ORACLES["lrp_alpha_beta"]
    fact = vec(2 * 3 / 4 * 2, -1 * 2), vec(2 * 1 * 0.5, -1 * 2 / 2.5 * 0.5)
    close(oracle(net, x, [0, 1]), torch.cat(fact))
    fact = vec(3 / 4 * 2, 0), vec(0.5, 0)
    close(oracle(net, x, [0, 1], alpha=1, beta=0), torch.cat(fact))


def test_alpha_beta_through_a_hidden_layer_by_hand():
    # h = (1 + 1, 3 - 1, closed); f = 2 * 2 - 2 = 2
    net = chain(linear([[1.0, -1.0], [3.0, 1.0], [-1.0, 1.0]]), nn.ReLU(),
                linear([[2.0, -1.0, 5.0]]))  # fmt: skip
    # R_h = (2 * 2, -1 * 2); unit 1 has no negative term, unit 2 has terms (3, -1)
    x = vec(1.0, -1.0)
    fact = vec(2 * 0.5 * 4, 2 * 0.5 * 4) + vec(2 * -2, -1 * -2)
    close(ORACLES["lrp_alpha_beta"](net, x, [0]), fact)


def bias_free(name: str) -> tuple[GraphNet, Tensor, list[int]]:
    net, x, target = case(name)
    net = small_nets()[name][0]
    with torch.no_grad():
        for part in net.modules():
            for key in ("bias", "running_mean"):
                value = getattr(part, key, None)
                if value is not None:
                    value.zero_()
    return net, x, target


# beta finds nothing to take in a unit without negative terms, alpha nothing to give in one without
# positive terms: such units lose relevance, by the definition. These nets have none that matter:
BOTH_SIGNS = ["avg_pool", "concat", "conv2d", "conv3d", "dilated", "max_pool", "relu6", "strided"]
POSITIVE = [*BOTH_SIGNS, "conv1d", "grouped", "mlp", "mlp_no_bias", "transposed", "transposed_bn"]


@pytest.mark.parametrize(
    ("name", "alpha"), [(n, 2.0) for n in BOTH_SIGNS] + [(n, 1.0) for n in POSITIVE]
)
def test_alpha_beta_conserves_without_biases(name: str, alpha: float):
    net, x, target = bias_free(name)
    maps = ORACLES["lrp_alpha_beta"](net, x, target, alpha=alpha, beta=alpha - 1)
    close(maps.flatten(1).sum(dim=1), net(x)[range(len(x)), target])


@every_net
def test_excitation_backprop_is_alpha1_beta0_over_its_seed_without_biases(name: str):
    net, x, target = bias_free(name)
    maps = ORACLES["lrp_alpha_beta"](net, x, target, alpha=1, beta=0)
    seed = net(x)[range(len(x)), target].reshape(-1, *[1] * (x.ndim - 1))
    close(ORACLES["excitation_backprop"](net, x, target), maps / seed)


def test_excitation_backprop_by_hand_drops_the_bias_and_starts_from_one():
    net = chain(linear([[3.0, -1.0, 1.0]], [10.0]))
    close(ORACLES["excitation_backprop"](net, vec(1.0, 2.0, 5.0), [0]), vec(3 / 8, 0, 5 / 8))


def test_deep_taylor_w_squared_by_hand_starts_from_the_value():
    # z = 3 - 2 + 1 = 2
    net = chain(linear([[3.0, -1.0]], [1.0]))
    close(ORACLES["deep_taylor"](net, vec(1.0, 2.0), [0]), vec(1.8, 0.2))


def test_deep_taylor_z_b_by_hand():
    # a w - low w+ - high w-: 1 * 3 + 1 * 3 = 6 and 2 * -1 - 3 * -1 = 1, of R = 2
    net = chain(linear([[3.0, -1.0]], [1.0]))
    x = vec(1.0, 2.0)
    maps = ORACLES["deep_taylor"](net, x, [0], low=-1.0, high=3.0)
    close(maps, vec(2 * 6 / 7, 2 * 1 / 7))
    # bounds of each feature: 1 * 3 + 2 * 3 = 9 and 2 * -1 - 4 * -1 = 2
    maps = ORACLES["deep_taylor"](net, x, [0], low=vec(-2, 0), high=vec(1, 4))
    close(maps, vec(2 * 9 / 11, 2 * 2 / 11))


def test_deep_taylor_shares_positive_terms_in_hidden_layers_without_bias():
    # h = (1, 3, 2), f = 2 * 1 + 4 * 3 - 1 * 2 + 2 = 14; R_h = 14 * (2, 12, 0) / 14
    net = chain(linear([[1.0, 0.0], [1.0, 2.0], [0.0, 2.0]]), nn.ReLU(),
                linear([[2.0, 4.0, -1.0]], [2.0]))  # fmt: skip
    fact = vec(2 + 12 / 5, 12 * 4 / 5)
    close(ORACLES["deep_taylor"](net, vec(1.0, 1.0), [0]), fact)


def test_deep_taylor_behind_a_batchnorm_on_the_input():
    # BatchNorm: (2 a + 1, -3 a), so x = (1, 1) -> (3, -3), [0, 2]^2 -> [1, 5] x [-6, 0]
    net = chain(norm([2.0, -3.0], [1.0, 0.0]), linear([[3.0, -1.0]], [-4.0]))
    x = vec(1.0, 1.0)  # z = 9 + 3 - 4 = 8
    close(ORACLES["deep_taylor"](net, x, [0]), 8 * vec(0.9, 0.1))
    # 3 * 3 - 1 * 3 = 6 and -3 * -1 - 0 * -1 = 3
    close(ORACLES["deep_taylor"](net, x, [0], low=0.0, high=2.0), 8 * vec(6 / 9, 3 / 9))


def test_a_closed_relu_before_the_input_layer_takes_its_relevance():
    # w^2 shares the output 3 * 2 between both inputs, whatever they are
    net = chain(nn.ReLU(), linear([[1.0, 3.0]]))
    close(ORACLES["deep_taylor"](net, vec(-1.0, 2.0), [0]), vec(0, 6 * 9 / 10))


def test_a_hidden_batchnorm_is_a_diagonal_map_under_the_methods_rule():
    # h = (1, 2) -> BatchNorm (2, -6) + (1, 8) = (3, 2) -> f = 3 + 2 = 5
    net = chain(linear([[1.0, 0.0], [0.0, 1.0]]), nn.ReLU(), norm([2.0, -3.0], [1.0, 8.0]),
                linear([[1.0, 1.0]]))  # fmt: skip
    x = vec(1.0, 2.0)
    close(ORACLES["lrp_epsilon"](net, x, [0], eps=1e-14), vec(2, -6))
    # alpha doubles R at each map: (6, 4) at the BatchNorm, where x1 has 2 of z+ = 2 + 1 (times
    # alpha) and x2 has all of z- = -6 (times -beta); then doubled again
    close(ORACLES["lrp_alpha_beta"](net, x, [0]), 2 * vec(2 * 2 / 3 * 6, -4))
    close(ORACLES["deep_taylor"](net, x, [0]), vec(3, 0))
    close(ORACLES["excitation_backprop"](net, x, [0]), vec(3 / 5, 0))


def test_sums_and_average_pools_share_in_proportion():
    # mean(1, 3) twice over; then 2 + 2 * -0.25 * 2 = 1, of which the branch has -1
    pool = nn.AdaptiveAvgPool1d(1)
    with pytest.raises(TypeError, match="do not know the module AdaptiveAvgPool1d"):
        ORACLES["lrp_alpha_beta"](chain(pool), torch.zeros(1, 1, 2), [0])
    net = graph(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear([[-0.5]]), (Add(), 2, 3))
    x = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    # R = 1: 2 to the direct path, -1 to the branch, which beta turns round: 2 + 1 in total
    close(ORACLES["lrp_alpha_beta"](net, x, [0]), x / 4 * 3)
    close(ORACLES["lrp_epsilon"](net, x, [0], eps=1e-14), x / 4 * 1)


# in a residual sum with a negative term the proportional share of the other one exceeds the whole
@pytest.mark.parametrize("name", [n for n in NETS if not n.startswith(("residual", "reused"))])
def test_deep_taylor_maps_of_a_positive_output_are_non_negative(name: str):
    net, x, _ = case(name)
    best = net(x).argmax(dim=1)
    keep = net(x).amax(dim=1) > 0
    x, target = x[keep], best[keep].tolist()
    assert len(x)
    for bounds in ({}, {"low": x.min().item(), "high": x.max().item()}):
        maps = ORACLES["deep_taylor"](net, x, target, **bounds)
        assert maps.min() >= 0
        assert maps.max() > 0


def test_deep_taylor_wants_both_bounds():
    net, x, target = case("mlp")
    with pytest.raises(ValueError, match="both low and high"):
        ORACLES["deep_taylor"](net, x, target, low=0.0)


# ---------------------------------------------------------------- all of them


def test_the_table_has_exactly_these_methods():
    assert sorted(ORACLES) == sorted(METHODS)


@every_net
def test_a_batch_is_its_samples_one_by_one(name: str):
    net, x, target = case(name)
    draws = torch.randn(2, *x.shape[1:], dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    special = {"smoothgrad": {"n": 2, "draws": draws}, "integrated_gradients": {"steps": 2}}
    for method, oracle in ORACLES.items():
        parameters = special.get(method, {})
        maps = oracle(net, x, target, **parameters)
        assert maps.shape == x.shape
        assert maps.isfinite().all()
        assert not maps.requires_grad
        close(maps[-1:], oracle(net, x[-1:], target[-1:], **parameters))
