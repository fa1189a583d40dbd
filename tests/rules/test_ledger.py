"""Where relevance went: the entries of a ledger add up to the target, and are what they say."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counting import Convolutions
from nets import small_nets
from oracle_elements import ELEMENTWISE
from oracle_images import IMAGES
from oracle_norms import NORMS
from oracle_operations import TOKENS, Between
from torch import Tensor, nn
from transformer_nets import ViT, drawn, randn

import salience
from salience import Ledger, Method, SalienceError, rules
from salience._names import BIASES, EPS, INPUT, NO_NEGATIVE, NO_POSITIVE, OTHER
from salience.rules import _losses
from salience.rules import _rules as backward

BOUNDS = {"low": -30.0, "high": 30.0}
METHODS: dict[str, Method] = {
    "epsilon": rules.lrp_epsilon(),
    "epsilon 0": rules.lrp_epsilon(eps=0.0),
    "epsilon relative": rules.lrp_epsilon(eps=0.0, eps_relative=0.1),
    "alpha2beta1": rules.lrp_alpha_beta(2.0, 1.0),
    "alpha1beta0": rules.lrp_alpha_beta(1.0, 0.0),
    "gamma": rules.lrp_gamma(),
    "deep_taylor": rules.deep_taylor(),
    "deep_taylor bounded": rules.deep_taylor(**BOUNDS),
    "excitation_backprop": rules.excitation_backprop(),
    **{
        preset: rules.lrp_composite(preset, **(BOUNDS if "box" in preset else {}))
        for preset in rules._composites.PRESETS
    },
}
FEW = ("epsilon", "alpha2beta1", "gamma", "deep_taylor", "attnlrp")
NETS = small_nets()
BODIES = IMAGES | TOKENS | NORMS
Function = Callable[[Tensor], Tensor]


def imbalance(ledger: Ledger) -> float:
    """By how much the entries miss the target, in parts of all that flows."""
    held = torch.stack(list(ledger.values()))
    return float(((held.sum(0) - ledger.target).abs() / held.abs().sum(0)).max())


def check(ledger: Ledger, tolerance: float = 1e-12) -> Ledger:
    assert imbalance(ledger) < tolerance
    others = sum(ledger.others.values(), torch.zeros_like(ledger.target))
    torch.testing.assert_close(others, ledger[OTHER])
    return ledger


def sums(maps: Tensor) -> Tensor:
    return maps.flatten(1).sum(1)


# ---------------------------------------------------------------- the law


@pytest.mark.parametrize("name", NETS)
def test_entries_add_up_to_the_target(name: str):
    net, x = NETS[name]
    tape = salience.record(net, x)
    for method in METHODS.values():
        ledger = check(tape.ledger(method, target=1))
        torch.testing.assert_close(ledger[INPUT], sums(tape.explain(method, target=1)))
        start = torch.ones(len(x), dtype=x.dtype) if method.start else net(x)[:, 1].detach()
        torch.testing.assert_close(ledger.target, start)
        assert not ledger.others  # of these networks everything has a name


@pytest.mark.parametrize("name", BODIES)
def test_entries_add_up_beyond_relu(name: str):
    shape = (2, 4, 4) if name in IMAGES else (4, 5)
    tape = salience.record(drawn(Between(shape, BODIES[name][0]), 11), randn(2, *shape, seed=12))
    for method in FEW:
        check(tape.ledger(METHODS[method], target=1))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_element_wise_function_keeps_what_it_gives_at_0(name: str):
    function = ELEMENTWISE[name][0]
    tape = salience.record(drawn(Between((4, 5), lambda _: function), 11), randn(2, 4, 5, seed=12))
    ledger = check(tape.ledger("lrp_epsilon", target=1), 1e-9)
    at_0 = function(torch.zeros(1, dtype=torch.float64))
    assert list(ledger.others) == (["activation"] if bool(at_0.abs() > 1e-12) else [])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_attention_network_has_one_ledger_however_it_is_spelled(activation: str):
    """One of them has its sequence first and its heads folded into the batch."""
    x, found = randn(3, 3, 8, 8), []
    for style in ("module", "layer", "matmul"):
        tape = salience.record(drawn(ViT(style, activation), 3), x)
        found.append([check(tape.ledger(METHODS[name], target=1), 1e-10) for name in FEW])
    for ledgers in zip(*found, strict=True):
        for ledger in ledgers:
            assert list(ledger.others) == ["softmax"]
            for entry, held in ledger.items():
                torch.testing.assert_close(held, ledgers[0][entry], rtol=1e-8, atol=1e-10)


class Around(nn.Module):
    """A linear map, a function of its 6 features, a linear map."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.stem, self.head, self.function = nn.Linear(5, 6), nn.Linear(6, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.stem(x)))


def written(x: Tensor) -> Tensor:
    whole = torch.full((len(x), 6), 0.5, dtype=x.dtype)
    whole[:, 1:5] = x[:, :4]
    return whole


def overwritten(x: Tensor) -> Tensor:
    copy = x.clone()
    copy[:, 1:3] = 2.0
    return copy


class Unseen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x.sin() + 1

    @staticmethod
    def backward(ctx: Any, m: Tensor) -> Tensor:  # type: ignore[override]
        return m * ctx.saved_tensors[0].cos()


CONSTANTS: dict[str, Function] = {
    "number": lambda x: x + 1.0,
    "number minus": lambda x: 2 - x,
    "padded": lambda x: F.pad(x[:, :4], (1, 1), value=0.7),
    "beside": lambda x: torch.cat([x[:, :3], torch.ones(len(x), 3, dtype=x.dtype)], 1),
    "chosen": lambda x: torch.where(torch.arange(6) > 2, x, torch.full((6,), 0.3).to(x)),
    "masked": lambda x: x.masked_fill(torch.arange(6) > 3, 0.4),
    "detached": lambda x: x - x.detach() * 0.5,
    "written into": written,
    "overwritten": overwritten,
}
OTHERS: dict[str, tuple[Function, str]] = {
    "log": (lambda x: (x.abs() + 0.5).log(), "activation"),
    "reciprocal": (lambda x: 1 / (x.sum(1, keepdim=True) + x + 9) * 3, "reciprocal"),
    "logsumexp": (lambda x: x - torch.logsumexp(x, 1, keepdim=True), "logsumexp"),
    "softmax": (lambda x: x.softmax(1), "softmax"),
    "prod": (lambda x: x * x.prod(1, keepdim=True), "prod"),
    "unseen": (Unseen.apply, "unseen functions"),
    "of the batch": (lambda x: x - x.mean(0) * 0.1, "other samples"),
}  # type: ignore[assignment]


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_count_with_biases(name: str):
    tape = salience.record(drawn(Around(CONSTANTS[name]), 4), randn(3, 5, seed=2))
    for method in METHODS.values():
        if method.input_rule is None:  # which the calls behind the input layer are not for
            assert not check(tape.ledger(method, target=1)).others


@pytest.mark.parametrize("name", OTHERS)
def test_other_operations_are_named(name: str):
    function, called = OTHERS[name]
    tape = salience.record(drawn(Around(function), 4), randn(3, 5, seed=2))
    for method in FEW:
        assert list(check(tape.ledger(METHODS[method], target=1)).others) == [called]


@pytest.mark.parametrize("samples", [1, 3, 6])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.TransformerEncoderLayer])
def test_a_batch_has_the_ledgers_of_its_samples(kind: Any, samples: int):
    """Sequences (T, B, ...) of 6, so that T may be B."""

    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            attends = kind is nn.TransformerEncoderLayer
            self.body, self.head = kind(4, 2, 8) if attends else kind(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out = self.body(x.transpose(0, 1))
            return self.head((out[0] if isinstance(out, tuple) else out)[-1])

    net, x = drawn(Sequences(), 5), randn(samples, 6, 4, seed=6)
    for method in ("lrp_epsilon", "lrp_alpha_beta"):
        whole = check(salience.record(net, x).ledger(method, target=1), 1e-10)
        ones = [salience.record(net, one[None]).ledger(method, target=1) for one in x]
        for entry, held in whole.items():
            torch.testing.assert_close(held, torch.cat([one[entry] for one in ones]))


class Padded(nn.Module):
    def __init__(self, padding: int, bias: bool) -> None:
        super().__init__()
        self.padding = (padding,) * 4
        size = 4 * (4 + 2 * padding) ** 2
        self.conv, self.head = nn.Conv2d(2, 4, 3, bias=bias), nn.Linear(size, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad((x - 0.3) / 0.7, self.padding)
        return self.head(F.relu(self.conv(padded)).flatten(1))


def test_padding_before_an_input_layer():
    """A flat rule gives relevance to the padding, too, which stays there."""
    tape = salience.record(drawn(Padded(1, True)), randn(3, 2, 6, 6))
    for method in METHODS.values():
        check(tape.ledger(method, target=1))
    flat = rules.lrp_composite(rules=lambda layer: "flat" if layer.first else "gradient")
    for padding in (0, 1):
        tape = salience.record(drawn(Padded(padding, False)), randn(3, 2, 6, 6))
        assert bool(check(tape.ledger(flat, target=1))[BIASES].abs().max() > 1e-9) == bool(padding)


def test_single_precision():
    net, x = NETS["conv_bn_relu"]
    double, single = salience.record(net, x), salience.record(deepcopy(net).float(), x.float())
    for method in ("epsilon", "alpha2beta1", "epsilon-plus-flat"):
        ours, fact = (tape.ledger(METHODS[method], target=1) for tape in (single, double))
        assert imbalance(ours) < 1e-5
        for entry, held in fact.items():
            torch.testing.assert_close(ours[entry].double(), held, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- a naive ledger


def two_layers(dead: bool) -> tuple[nn.Module, Tensor, list[np.ndarray]]:
    """z = W2 max(W1 x + b1, 0) + b2, and its parts; a dead unit has no terms of the other sign."""
    net = drawn(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), 8)
    x = randn(3, 4, seed=9).abs()
    if dead:
        with torch.no_grad():  # unit 0 is alive by its bias alone, unit 1 has no negative terms
            net[0].weight[0] = -net[0].weight[0].abs()  # type: ignore[index,union-attr]
            net[0].bias[0] = 9.0  # type: ignore[index,union-attr]
            net[0].weight[1], net[0].bias[1] = net[0].weight[1].abs(), 0.5  # type: ignore[index,union-attr]
    return net, x, [p.detach().numpy() for p in net.parameters()]


def naive(
    x: np.ndarray, parts: list[np.ndarray], target: int, rule: Callable[..., dict[str, Any]]
) -> dict[str, float]:
    """One sample's ledger, unit by unit."""
    w1, b1, w2, b2 = parts
    z1 = w1 @ x + b1
    hidden = np.maximum(z1, 0)
    z2 = w2 @ hidden + b2
    found = dict.fromkeys((INPUT, BIASES, EPS, NO_POSITIVE, NO_NEGATIVE), 0.0)

    def unit(a: np.ndarray, w: np.ndarray, b: float, relevance: float) -> np.ndarray:
        told = rule(a, w, b, a @ w + b, relevance)
        for name, lost in told.items():
            if name != "a":
                found[name] += lost
        return told["a"]

    at_hidden = unit(hidden, w2[target], b2[target], z2[target])
    at_x = np.zeros_like(x)
    for j, relevance in enumerate(at_hidden):
        if z1[j] > 0:
            at_x = at_x + unit(x, w1[j], b1[j], relevance)
    found[INPUT] = at_x.sum()
    return found


def of_epsilon(
    a: np.ndarray, w: np.ndarray, b: float, z: float, r: float, eps: float
) -> dict[str, Any]:
    total = z + (eps if z >= 0 else -eps)
    return {"a": a * w / total * r, BIASES: b / total * r, EPS: (total - z) / total * r}


def of_gamma(
    a: np.ndarray, w: np.ndarray, b: float, z: float, r: float, gamma: float
) -> dict[str, Any]:
    terms = np.append(a * w, b)
    terms = terms + gamma * terms * ((terms > 0) == (z >= 0))
    shares = terms / terms.sum() * r
    return {"a": shares[:-1], BIASES: shares[-1]}


def of_alpha_beta(
    a: np.ndarray,
    w: np.ndarray,
    b: float,
    z: float,
    r: float,
    alpha: float,
    beta: float,
    bias: bool = True,
) -> dict[str, Any]:
    terms = np.append(a * w, b if bias else 0.0)
    found = {"a": np.zeros_like(a), BIASES: 0.0}
    sides = ((alpha, np.maximum(terms, 0), NO_POSITIVE), (-beta, np.minimum(terms, 0), NO_NEGATIVE))
    for factor, own, nothing in sides:
        if own.sum() == 0:
            found[nothing] = factor * r
            continue
        shares = factor * own / own.sum() * r
        found["a"], found[BIASES] = found["a"] + shares[:-1], found[BIASES] + shares[-1]
    return found


RULES: dict[str, tuple[Method, Callable[..., dict[str, Any]]]] = {
    "epsilon": (rules.lrp_epsilon(eps=0.1), partial(of_epsilon, eps=0.1)),
    "gamma": (rules.lrp_gamma(0.5), partial(of_gamma, gamma=0.5)),
    "alpha2beta1": (rules.lrp_alpha_beta(), partial(of_alpha_beta, alpha=2.0, beta=1.0)),
    "alpha1beta0": (rules.lrp_alpha_beta(1, 0), partial(of_alpha_beta, alpha=1.0, beta=0.0)),
    "z+": (
        rules.lrp_composite(rules=lambda _: ("plus", {"bias": False})),
        partial(of_alpha_beta, alpha=1.0, beta=0.0, bias=False),
    ),
}


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_a_naive_ledger_of_two_layers(name: str, dead: bool):
    method, rule = RULES[name]
    net, x, parts = two_layers(dead)
    ledger = salience.record(net, x).ledger(method, target=1)
    facts = [naive(sample.numpy(), parts, 1, rule) for sample in x]
    for entry in facts[0]:
        expected = torch.tensor([fact[entry] for fact in facts], dtype=torch.float64)
        torch.testing.assert_close(ledger[entry], expected, rtol=1e-10, atol=1e-12)
    reached = {"epsilon": EPS, "alpha2beta1": NO_NEGATIVE, "z+": NO_POSITIVE}.get(name)
    if dead and reached is not None:
        assert bool(ledger[reached].any())


def test_softmax_and_normalization_by_their_formulas():
    """w softmax(x): it keeps y m - x J^T m. A LayerNorm whose spread is held keeps its bias."""
    x, w = randn(2, 6, seed=3), randn(6, seed=4)
    exact = rules.lrp_epsilon(eps=0.0)
    ledger = salience.record(lambda x: x.softmax(1) @ w[:, None], x).ledger(exact, 0)
    y = x.softmax(1)
    back = y * (w - (y * w).sum(1, keepdim=True))
    torch.testing.assert_close(ledger.others["softmax"], (y * w - x * back).sum(1))
    assert not ledger[BIASES].any()
    bias = randn(6, seed=5)
    ledger = salience.record(lambda x: F.layer_norm(x, (6,), 1 + w, bias) @ w[:, None], x).ledger(
        exact, 0
    )
    torch.testing.assert_close(ledger[BIASES], (bias * w).sum().expand(2))
    assert not ledger.others


def test_alpha_and_beta_that_do_not_differ_by_1():
    net, x = NETS["mlp"]
    with pytest.warns(salience.SalienceWarning, match="alpha - beta"):
        method = rules.lrp_alpha_beta(1.0, 1.0)
    assert list(check(salience.record(net, x).ledger(method, target=1)).others) == ["alpha - beta"]


def test_targets_and_starts():
    net, x = NETS["mlp"]
    tape = salience.record(net, x)
    ledger = check(tape.ledger("lrp_epsilon", lambda out: out.softmax(1)[:, 0]))
    assert list(ledger.others) == ["target"]
    assert not check(tape.ledger("lrp_epsilon", (1, 2))).others
    twice = tape.ledger("lrp_epsilon", 1, start=2.0)
    torch.testing.assert_close(twice.target, torch.full((len(x),), 2.0, dtype=x.dtype))
    check(twice)


# ---------------------------------------------------------------- what holds it


@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta", "gamma", "proportional", "spread_held"])
def test_a_broken_split_is_seen(rule: str, monkeypatch: pytest.MonkeyPatch):
    net = drawn(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Sigmoid(), nn.Linear(5, 2)), 8)
    methods = {"alpha_beta": "lrp_alpha_beta", "gamma": "lrp_gamma"}
    method = methods.get(rule, "lrp_epsilon")
    tape = salience.record(net, randn(3, 4, seed=9))
    check(tape.ledger(method, target=1))
    function = getattr(backward, rule)
    whole = _losses.LOSSES[function]

    def broken(*args: Any, **given: Any) -> Any:
        return ((name, loss * 1.001) for name, loss in whole(*args, **given) or ())

    monkeypatch.setitem(_losses.LOSSES, function, broken)
    assert imbalance(tape.ledger(method, target=1)) > 1e-6


def test_a_lost_operation_is_seen(monkeypatch: pytest.MonkeyPatch):
    """Nothing stands in for what was not noted, whatever is missing."""
    tape = salience.record(drawn(ViT("matmul", "gelu"), 3), randn(2, 3, 8, 8))
    monkeypatch.setattr("salience._tape.backward.losses", lambda *_: ())
    assert imbalance(tape.ledger("lrp_epsilon", target=1)) > 1e-6


def test_every_rule_of_a_relevance_method_says_what_it_loses():
    for method in METHODS.values():
        for rule in (*method.rules.values(), method.input_rule):
            function = rule.func if isinstance(rule, partial) else rule
            assert function is None or function in _losses.LOSSES


def half(linear: Any, m: Tensor) -> Tensor:
    return linear.transpose(m) / 2


def test_a_rule_without_a_companion_is_named():
    net, x = NETS["mlp"]
    mine = Method("mine", "", "", "x * m", rules={"linear": half}, relevance=True, start=None)
    assert list(check(salience.record(net, x).ledger(mine, target=1)).others) == ["half"]


def test_a_ledger_runs_no_convolution_beside_those_of_its_maps():
    net, x = NETS["conv2d"]
    for name in ("epsilon", "alpha2beta1", "gamma", "attnlrp"):
        counts = []
        for ask in ("explain", "ledger"):
            tape = salience.record(net, x)
            with Convolutions() as count:
                getattr(tape, ask)(METHODS[name], target=1)
            counts.append(count.of(net))
        assert counts[0] == counts[1]


def test_a_method_whose_maps_are_no_relevance():
    tape = salience.record(*NETS["mlp"])
    for name in ("gradient", "smoothgrad", "integrated_gradients"):
        with pytest.raises(SalienceError, match="relevance"):
            tape.ledger(name)


# ---------------------------------------------------------------- in words


def test_a_sentence_with_shares_of_the_target():
    def of(**shares: list[float]) -> str:
        entries = {entry: torch.zeros(2) for entry in _entries()}
        given = {name.replace("_", " "): torch.tensor(values) for name, values in shares.items()}
        others = {"softmax": given[OTHER], "tiny": torch.zeros(2)} if OTHER in given else {}
        return Ledger("m", entries | given, torch.tensor([4.0, -4.0]), others).sentence()

    told = of(input=[2.0, -3.12], biases=[2.0, -0.8], eps=[0.0, -0.08])
    assert told == "m: 64% reached the input, 35% stayed with biases, 1% was absorbed by eps"
    assert of(input=[5.0, -5.0], biases=[-1.0, 1.0]) == (
        "m: 125% reached the input, 25% came from biases"
    )
    assert of(input=[-1.0, 1.0], no_positive_terms=[3.0, -3.0], other_operations=[2.0, -2.0]) == (
        "m: -25% reached the input, 75% was lost at units without positive terms, "
        "50% was lost in other operations (softmax)"
    )


def _entries() -> list[str]:
    return [INPUT, BIASES, EPS, NO_POSITIVE, NO_NEGATIVE, OTHER]


def test_a_target_of_0():
    tape = salience.record(*NETS["mlp"])
    ledger = tape.ledger("lrp_epsilon", lambda out: out[:, 0] * 0)
    assert ledger.sentence() == "lrp_epsilon: its target is 0, so that no relevance flows"
    assert repr(ledger).splitlines()[-1].split() == [INPUT, "-"]
    with pytest.warns(salience.SalienceWarning, match="exactly 0"):
        ledger = tape.ledger("excitation_backprop", lambda out: out[:, 0] * 0)
    assert not torch.stack(list(ledger.values())).any() and not ledger.target.any()


def test_a_ledger_is_a_table():
    tape = salience.record(drawn(ViT("matmul", "gelu"), 3), randn(2, 3, 8, 8))
    ledger = tape.ledger("lrp_epsilon", target=1)
    head, columns, *rows = repr(ledger).splitlines()
    assert head == "Ledger of lrp_epsilon, 2 samples" and columns.split()[0] == "entry"
    assert [row.split("  ")[0] or row.split()[0] for row in rows] == [
        INPUT, BIASES, EPS, OTHER, "softmax",
    ]  # fmt: skip
    shares = [float(row.split()[-1].rstrip("%")) for row in rows[:4]]
    assert abs(sum(shares) - 100) < 0.03
    assert all(f"<td>{entry}</td>" in ledger._repr_html_() for entry in (INPUT, BIASES, EPS, OTHER))
    assert list(ledger) == _entries() and len(ledger) == 6
