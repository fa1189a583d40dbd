"""A small ViT and an attention layer, each spelled in several ways, with their oracles."""

from __future__ import annotations

import math
from collections.abc import Callable

import oracle_lrp as lrp
import torch
import torch.nn.functional as F
from oracle_lrp import Value
from torch import Tensor, nn

DIM, HEADS, HIDDEN, CLASSES = 8, 2, 12, 3


@torch.no_grad()
def drawn(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network in float64 and eval mode with every parameter and statistic drawn."""
    generator = torch.Generator().manual_seed(seed)
    net = net.double().eval()

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    for parameter in net.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.copy_(normal(parameter) / math.sqrt(fan_in))
    for module in net.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 1:  # a norm's scale
            weight.copy_(weight + torch.where(weight < 0, -0.5, 0.5))
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(normal(buffer) * 0.3)
        elif name.endswith("running_var"):
            buffer.copy_(normal(buffer).square() + 0.5)
    return net


def randn(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def heads(t: Tensor) -> Tensor:
    """(B, T, D) -> (B, H, T, D / H)"""
    return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.0)


def by_matmul(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k).mul(q.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores + torch.zeros_like(scores).masked_fill(~mask, -torch.inf)
    return torch.einsum("bhqk,bhkd->bhqd", F.softmax(scores, -1), v)


def by_bmm(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    flat = [t.flatten(0, 1) for t in (q, k, v)]
    scores = torch.bmm(flat[0] * (q.shape[-1] ** -0.5), flat[1].mT)
    if mask is not None:
        scores = torch.where(mask, scores, torch.tensor(-torch.inf, dtype=scores.dtype))
    return torch.bmm(torch.softmax(scores, -1), flat[2]).unflatten(0, q.shape[:2])


SPELLINGS: dict[str, Callable[..., Tensor]] = {
    "sdpa": sdpa,
    "matmul": by_matmul,
    "einsum": by_einsum,
    "bmm": by_bmm,
}
STYLES = [*SPELLINGS, "module", "module_weights", "layer"]


class Block(nn.Module):
    """A pre-LayerNorm transformer block; `style` says how it is written."""

    def __init__(self, style: str, act: str = "gelu", mask: Tensor | None = None) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            DIM, HEADS, HIDDEN, dropout=0.1, activation=act, batch_first=True, norm_first=True
        )
        self.style, self.act, self.mask = style, act, mask

    def attend(self, x: Tensor) -> Tensor:
        module = self.layer.self_attn
        if self.style.startswith("module"):
            mask = None if self.mask is None else ~self.mask  # True: may not look
            weights = self.style == "module_weights"
            return module(x, x, x, attn_mask=mask, need_weights=weights)[0]
        qkv = F.linear(x, module.in_proj_weight, module.in_proj_bias)
        q, k, v = (heads(t) for t in qkv.chunk(3, dim=-1))
        y = SPELLINGS[self.style](q, k, v, self.mask)
        return module.out_proj(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "layer":
            return self.layer(x, src_mask=None if self.mask is None else ~self.mask)
        x = x + self.attend(self.layer.norm1(x))
        hidden = self.layer.linear1(self.layer.norm2(x))
        hidden = F.gelu(hidden) if self.act == "gelu" else F.relu(hidden)
        return x + self.layer.linear2(hidden)


class ViT(nn.Module):
    """(B, 3, 8, 8) -> (B, 3): patches of 4, a class token, two blocks."""

    def __init__(self, style: str, act: str = "gelu", mask: Tensor | None = None) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, DIM, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.position = nn.Parameter(torch.zeros(1, 5, DIM))
        self.blocks = nn.ModuleList(Block(style, act, mask) for _ in range(2))
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # (B, 4, D)
        x = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


# ---------------------------------------------------------------- oracles


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def split_heads(x: Value) -> Value:
    """(T, D) -> (H, T, D / H)"""
    return lrp.reorder(x, lambda t: t.reshape(*t.shape[:2], HEADS, -1).transpose(1, 2))


def attention(
    q: Value, k: Value, v: Value, mask: Tensor | None = None, scale: float | None = None
) -> Value:
    """softmax(q k^T scale + mask) v over the last two dimensions."""
    scale = 1 / math.sqrt(q.data.shape[-1]) if scale is None else scale
    scores = lrp.product(lambda a, b: a @ b.transpose(-1, -2), q, k)
    scores = lrp.reorder(scores, lambda t: t * scale)
    if mask is not None:
        bias = mask
        if mask.dtype == torch.bool:
            bias = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
        scores = lrp.plus(scores, bias.expand(scores.data.shape))
    return lrp.product(lambda a, b: a @ b, lrp.softmax(scores), v)


def self_attention(module: nn.MultiheadAttention, x: Value, mask: Tensor | None = None) -> Value:
    assert module.in_proj_weight is not None
    qkv = lrp.linear(x, module.in_proj_weight, module.in_proj_bias)
    q, k, v = (
        split_heads(lrp.reorder(qkv, lambda t, c=c: t[..., c * DIM : (c + 1) * DIM]))
        for c in range(3)
    )
    y = lrp.reorder(attention(q, k, v, mask), lambda t: t.transpose(1, 2).flatten(2))
    return lrp.linear(y, module.out_proj.weight, module.out_proj.bias)


def layer_norm(module: nn.LayerNorm, x: Value) -> Value:
    return lrp.norm(x, (-1,), module.eps, module.weight.detach(), module.bias.detach())


def feed_forward(layer: nn.TransformerEncoderLayer, x: Value, act: str = "gelu") -> Value:
    hidden = lrp.linear(x, layer.linear1.weight, layer.linear1.bias)
    hidden = lrp.elementwise(hidden, gelu, 0.5) if act == "gelu" else lrp.relu(hidden)
    return lrp.linear(hidden, layer.linear2.weight, layer.linear2.bias)


def encoder_layer(
    layer: nn.TransformerEncoderLayer, x: Value, act: str, mask: Tensor | None = None
) -> Value:
    x = lrp.plus(x, self_attention(layer.self_attn, layer_norm(layer.norm1, x), mask))
    return lrp.plus(x, feed_forward(layer, layer_norm(layer.norm2, x), act))


def vit_oracle(net: ViT) -> Callable[[Value], Value]:
    def run(x: Value) -> Value:
        patches = lrp.linear_map(x, net.patches)
        tokens = lrp.reorder(patches, lambda t: t.flatten(2).transpose(1, 2))
        # the class token is a constant: a row of zeros in the map, plus it
        tokens = lrp.reorder(tokens, lambda t: F.pad(t, (0, 0, 1, 0)))
        constant = net.position[0].clone()
        constant[0] += net.token[0, 0]
        tokens = lrp.plus(tokens, constant)
        for block in net.blocks:
            assert isinstance(block, Block)
            tokens = encoder_layer(block.layer, tokens, block.act, block.mask)
        last = lrp.reorder(layer_norm(net.norm, tokens), lambda t: t[:, 0])
        return lrp.linear(last, net.head.weight, net.head.bias)

    return run
