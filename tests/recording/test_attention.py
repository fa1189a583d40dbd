"""Attention, spelled in every way, against one hand-written relevance pass."""

from __future__ import annotations

from collections import Counter
from functools import cache

import oracle_lrp as lrp
import pytest
import torch
import torch.nn.functional as F
from oracle_lrp import Value, explain
from relevance_cases import CASES, check, equal
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformer_nets import (
    CLASSES,
    DIM,
    HEADS,
    STYLES,
    ViT,
    attention,
    drawn,
    encoder_layer,
    feed_forward,
    heads,
    layer_norm,
    randn,
    self_attention,
    split_heads,
    vit_oracle,
)

import salience
from salience._recording.trace import every
from salience.models._optional import import_torchvision

BOUNDED = [*CASES, ("deep_taylor", {"low": -4.0, "high": 4.0})]
CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()


@cache
def vit(style: str, act: str = "gelu", masked: bool = False) -> ViT:
    mask = CAUSAL.T if masked else None  # the class token, first, sees all others
    net = drawn(ViT(style, act, mask), seed=3)
    assert isinstance(net, ViT)
    return net


@cache
def vit_map(case: int, act: str, masked: bool) -> Tensor:
    method, given = BOUNDED[case]
    net = vit("matmul", act, masked)
    return explain(vit_oracle(net), randn(2, 3, 8, 8), 1, method, given)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("act", "masked"), [("gelu", False), ("relu", True)])
def test_vit_equals_the_oracle(style, act, masked):
    tape = salience.record(vit(style, act, masked), randn(2, 3, 8, 8))
    for case, (method, given) in enumerate(BOUNDED):
        equal(tape, vit_map(case, act, masked), method, given)


def test_the_spellings_are_one_network():
    x = randn(2, 3, 8, 8)
    outputs = torch.stack([vit(style, "gelu", masked=True)(x) for style in STYLES])
    torch.testing.assert_close(outputs, outputs[:1].expand_as(outputs), rtol=1e-12, atol=1e-12)


class Attention(nn.Module):
    """q, k, v as three projections of tokens (B, 5, 6), any function of them, a head."""

    def __init__(self, attend) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, DIM) for _ in range(3))
        self.attend, self.head = attend, nn.Linear(5 * DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(project(x)) for project in (self.q, self.k, self.v))
        return self.head(self.attend(q, k, v).transpose(1, 2).flatten(1))

    def oracle(self, attend):
        def run(x: Value) -> Value:
            parts = [lrp.linear(x, p.weight, p.bias) for p in (self.q, self.k, self.v)]
            y = attend(*(split_heads(part) for part in parts))
            flat = lrp.reorder(y, lambda t: t.transpose(1, 2).flatten(1))
            return lrp.linear(flat, self.head.weight, self.head.bias)

        return run


SDPA = F.scaled_dot_product_attention
BIAS = randn(HEADS, 5, 5, seed=8)
LOOK = torch.tensor([[(i + 2 * j) % 3 != 1 for j in range(5)] for i in range(5)])
UNIT = (lambda t: F.normalize(t, dim=-1), lambda t: t / t.norm(dim=-1, keepdim=True))


def unit(q: Value) -> Value:
    return lrp.divide(q, q.data.norm(dim=-1, keepdim=True))


def first_head(t: Tensor) -> Tensor:
    return t[:, :1].repeat(1, HEADS, 1, 1)


def scores_of(q: Value) -> Value:
    return lrp.linear_map(q, lambda t: t @ BIAS[..., :4].mT)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return (q @ (k.mT @ v)) / (q @ k.sum(-2)[..., None])


def linear_attention_oracle(q: Value, k: Value, v: Value) -> Value:
    def elu(t: Tensor) -> Tensor:
        return torch.where(t > 0, t, t.exp() - 1)

    ones = torch.ones_like(q.data)
    q, k = (lrp.plus(lrp.elementwise(t, elu, 1.0), ones) for t in (q, k))
    state = lrp.product(lambda a, b: a.transpose(-1, -2) @ b, k, v)
    top = lrp.product(lambda a, b: a @ b, q, state)
    return lrp.divide(top, q.data @ k.data.sum(-2)[..., None])


VARIANTS = {
    "causal": (lambda *a: SDPA(*a, is_causal=True), lambda *a: attention(*a, CAUSAL)),
    "bool_mask": (lambda *a: SDPA(*a, attn_mask=LOOK), lambda *a: attention(*a, LOOK)),
    "float_mask": (lambda *a: SDPA(*a, BIAS, 0.0), lambda *a: attention(*a, BIAS)),
    "scale": (lambda *a: SDPA(*a, scale=0.3), lambda *a: attention(*a, scale=0.3)),
    "keywords": (lambda q, k, v: SDPA(query=q, key=k, value=v), attention),
    "shared": (lambda q, k, v: SDPA(q, q, v), lambda q, k, v: attention(q, q, v)),
    "grouped": (
        lambda q, k, v: SDPA(q, k[:, :1], v[:, :1], enable_gqa=True),
        lambda q, k, v: attention(q, *(lrp.reorder(t, first_head) for t in (k, v))),
    ),
    "constant_keys": (
        lambda q, k, v: SDPA(q, BIAS[..., :4].expand(len(q), -1, -1, -1), v, scale=1.0),
        lambda q, k, v: lrp.product(lambda a, b: a @ b, lrp.softmax(scores_of(q)), v),
    ),
    "cosine": (
        lambda q, k, v: SDPA(UNIT[0](q), UNIT[0](k), v, scale=5.0),
        lambda q, k, v: attention(unit(q), unit(k), v, scale=5.0),
    ),
    "cosine_by_hand": (
        lambda q, k, v: (UNIT[1](q) @ UNIT[1](k).mT * 5).softmax(-1) @ v,
        lambda q, k, v: attention(unit(q), unit(k), v, scale=5.0),
    ),
    "linear": (linear_attention, linear_attention_oracle),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_variants(variant):
    attend, oracle = VARIANTS[variant]
    net = drawn(Attention(attend), seed=5)
    assert isinstance(net, Attention)
    check(net, net.oracle(oracle), randn(2, 5, 6), BOUNDED)


class Encoder(nn.Module):
    """A standard layer with its own projection in front; `make` builds the layer."""

    def __init__(self, layer: nn.Module, run=None) -> None:
        super().__init__()
        self.stem, self.layer = nn.Linear(6, DIM), layer
        self.run = run or (lambda layer, h: layer(h))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.layer, self.stem(x)).flatten(1)

    def oracle(self, run):
        def walk(x: Value) -> Value:
            h = lrp.linear(x, self.stem.weight, self.stem.bias)
            return lrp.reorder(run(self.layer, h), lambda t: t.flatten(1))

        return walk


def post_norm(layer, x: Value, mask: Tensor | None = None) -> Value:
    x = layer_norm(layer.norm1, lrp.plus(x, self_attention(layer.self_attn, x, mask)))
    return layer_norm(layer.norm2, lrp.plus(x, feed_forward(layer, x, "relu")))


def two_layers(encoder, x: Value) -> Value:
    for layer in encoder.layers:
        x = encoder_layer(layer, x, "relu")
    return x


def cross(decoder, x: Value) -> Value:
    """A pre-norm decoder layer whose memory is its own input."""
    memory, module = x, decoder.multihead_attn
    x = lrp.plus(x, self_attention(decoder.self_attn, layer_norm(decoder.norm1, x), CAUSAL))
    weights = zip(module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)
    reads = (layer_norm(decoder.norm2, x), memory, memory)
    q, k, v = (
        split_heads(lrp.linear(read, w, b)) for read, (w, b) in zip(reads, weights, strict=True)
    )
    y = lrp.reorder(attention(q, k, v), lambda t: t.transpose(1, 2).flatten(2))
    x = lrp.plus(x, lrp.linear(y, module.out_proj.weight, module.out_proj.bias))
    return lrp.plus(x, feed_forward(decoder, layer_norm(decoder.norm3, x), "relu"))


PADDED = torch.tensor([[False, False, True, False, True]])
SIZES = {"dim_feedforward": 12, "batch_first": True}
LAYERS = {
    "post_norm": (lambda: nn.TransformerEncoderLayer(DIM, HEADS, **SIZES), None, post_norm),
    "causal": (
        lambda: nn.TransformerEncoderLayer(DIM, HEADS, **SIZES),
        lambda layer, h: layer(h, src_mask=~CAUSAL, is_causal=True),
        lambda layer, x: post_norm(layer, x, CAUSAL),
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(DIM, HEADS, norm_first=True, **SIZES),
            num_layers=2,
            enable_nested_tensor=False,
        ),
        None,
        two_layers,
    ),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(DIM, HEADS, norm_first=True, **SIZES),
        lambda layer, h: layer(h, h, tgt_mask=~CAUSAL),
        cross,
    ),
    "padding": (
        lambda: nn.MultiheadAttention(DIM, HEADS, batch_first=True),
        lambda layer, h: layer(h, h, h, key_padding_mask=PADDED.expand(len(h), 5))[0],
        lambda module, x: self_attention(module, x, ~PADDED.expand(5, 5)),
    ),
    "sequence_first": (
        lambda: nn.MultiheadAttention(DIM, HEADS),
        lambda layer, h: layer(h.mT.permute(2, 0, 1), *[h.transpose(0, 1)] * 2)[0].transpose(0, 1),
        self_attention,
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_torch(layer):
    make, run, oracle = LAYERS[layer]
    net = drawn(Encoder(make(), run), seed=6)
    assert isinstance(net, Encoder)
    check(net, net.oracle(oracle), randn(2, 5, 6), BOUNDED)


# ---------------------------------------------------------------- as one call


class Long(nn.Module):
    """Causal attention of tokens (B, T, 8) to each other, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 3 * DIM), nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(t) for t in self.qkv(x).chunk(3, -1))
        y = SDPA(q, k, v, is_causal=True)
        return self.head(y.transpose(1, 2).flatten(2).mean(1))


class Calls(TorchDispatchMode):
    """Names of the calls of aten, and the most entries that one of their results has."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.largest = Counter[str](), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names[func.overloadpacket.__name__] += 1
        sizes = [t.numel() for t in every(result, Tensor)]
        self.largest = max([self.largest, *sizes])
        return result


@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon", "lrp_alpha_beta", "deep_taylor"])
def test_attention_is_one_call_whose_memory_is_linear_in_the_tokens(method: str):
    net, x = Long().eval(), torch.randn(1, 256, 8)
    with Calls() as calls:
        tape = salience.record(net, x)
        tape.explain(method, 0)
    fused = "_scaled_dot_product_flash_attention_for_cpu"
    assert (calls.names[fused], calls.names[f"{fused}_backward"]) == (1, 1)
    assert not any("softmax" in name or "bmm" in name for name in calls.names)
    assert (
        calls.largest == 256 * 3 * DIM
    )  # the projections; 256 x 256 scores would be 10 times that


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_output_of_attention_is_that_of_torch_bit_for_bit(dtype: torch.dtype):
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    for variant in ("causal", "bool_mask", "scale", "grouped", "shared"):
        net = drawn(Attention(VARIANTS[variant][0]), seed=5).to(dtype)
        with torch.no_grad():
            assert torch.equal(salience.record(net, x).output, net(x)), variant


def test_a_query_that_may_look_nowhere_gives_nothing_back():
    nowhere = CAUSAL.tril(-1)  # the first one

    def by_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q[..., 1:, :] @ k.mT / 2).masked_fill(~nowhere[1:], -torch.inf)
        return F.pad(scores.softmax(-1) @ v, (0, 0, 1, 0))

    nets = [
        drawn(Attention(attend), seed=5)
        for attend in (lambda *a: SDPA(*a, attn_mask=nowhere), by_parts)
    ]
    x = randn(2, 5, 6)
    for method in ("lrp_epsilon", "lrp_alpha_beta", "guided_backprop"):
        fused, parts = (salience.record(net, x).explain(method, 1) for net in nets)
        torch.testing.assert_close(fused, parts, rtol=1e-10, atol=1e-12)


def test_dropout_and_masks_made_of_the_input_have_parts():
    x = randn(2, 5, 6)

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return SDPA(q, k, v, attn_mask=q @ k.mT)

    def dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return SDPA(q, k, v, dropout_p=0.5)

    for attend in (masked, dropped):
        tape = salience.record(drawn(Attention(attend), seed=5), x)
        names = [row.operation for row in tape.coverage("lrp_epsilon")]
        assert "scaled_dot_product_attention" not in names and "_safe_softmax" in names
        assert not tape.uncovered(salience.methods["lrp_epsilon"])


@pytest.mark.parametrize("family", ["Llama", "Bert"])
def test_eager_and_fused_attention_of_hugging_face_have_one_map(family: str):
    transformers = pytest.importorskip("transformers")
    import_torchvision("Hugging Face", "make install")  # which transformers asks for
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40,
            "num_attention_heads": 4, "max_position_embeddings": 32}  # fmt: skip
    grouped = {"num_key_value_heads": 2} if family == "Llama" else {}
    config = getattr(transformers, f"{family}Config")(**size, **grouped, pad_token_id=0)
    maps = {}
    for form in ("eager", "sdpa"):
        config._attn_implementation = form
        net = getattr(transformers, f"{family}ForSequenceClassification")(config)
        ids = torch.tensor([[5, 7, 9, 3, 11, 2], [4, 4, 8, 1, 0, 0]])
        x = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        tape = salience.record(drawn(net, seed=4), x, output="logits")
        names = {row.operation for row in tape.coverage("gradient")}
        assert ("scaled_dot_product_attention" in names) == (form == "sdpa")
        maps[form] = [
            tape.explain(method, 1)["input_ids"]
            for method in ("gradient", "lrp_epsilon", "lrp_alpha_beta", "guided_backprop")
        ]
    for eager, fused in zip(*maps.values(), strict=True):
        # 1e-7 measured where the eager form takes its softmax in float32
        close = 1e-6 if family == "Llama" else 1e-10
        torch.testing.assert_close(fused, eager, rtol=0, atol=close * float(eager.abs().max()))
