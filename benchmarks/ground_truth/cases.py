"""The networks of the benchmark, and what is explained of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from ground_truth import images, networks, relations, rows
from ground_truth.data import Generate
from ground_truth.networks import Make
from ground_truth.train import Recipe

_VALUE: dict[str, Any] = {"regression": True, "need": 0.9}


@dataclass(frozen=True)
class Case:
    """A network and which scalar of its output is explained: a row of `networks.HEADS`.

    family  the data: networks of one family are alike
    """

    recipe: Recipe
    family: str
    head: str = "logit"

    @property
    def name(self) -> str:
        plain = self.head == ("value" if self.recipe.regression else "logit")
        return self.recipe.name if plain else f"{self.recipe.name} {self.head}"


def _case(family: str, name: str, generate: Generate, make: Make, **other: Any) -> Case:
    head = other.pop("head", "value" if other.get("regression") else "logit")
    return Case(Recipe(f"{family}-{name}", generate, make, **other), family, head)


_cnn, _series, _mlp = (
    partial(partial, networks.cnn),
    partial(partial, networks.series_cnn),
    partial(partial, networks.mlp),
)
_text = partial(networks.Transformer, 2, rows.WIDTH, rows.TOKENS, 32)
_off, _rigid = partial(images.shortcut, planted=False), partial(images.suppressor, fixed=False)

CASES = [
    _case("glyph", "cnn", images.glyph, _cnn(2)),
    _case("glyph", "bn", images.glyph, _cnn(2, norm=True)),
    _case("glyph", "gelu", images.glyph, _cnn(2, activation=nn.GELU)),
    _case("glyph", "dense", images.glyph, _cnn(2, head=64)),
    _case("glyph", "resnet", images.glyph, partial(networks.resnet, 2)),
    _case("glyph", "vit", images.glyph, partial(networks.vit, 2), steps=1000),
    _case("glyph4", "bn", partial(images.glyph, kinds=4), _cnn(4, norm=True)),
    _case("ink", "cnn", images.ink, _cnn(4), steps=1000),
    _case("shortcut", "on", images.shortcut, _cnn(2)),
    _case("shortcut", "off", _off, _cnn(2)),
    _case("blob", "cnn", images.blob, _cnn(1), rate=6e-3, steps=1500, **_VALUE),
    _case("blob", "bn", images.blob, _cnn(1, norm=True), rate=5e-3, **_VALUE),
    _case("region", "linear", images.region, _mlp(576, 1, ()), **_VALUE),
    _case("region", "mlp", images.region, _mlp(576, 1), **_VALUE),
    _case("stripes", "cnn", images.stripes, _cnn(2)),
    _case("color", "cnn", images.color, _cnn(2, 3)),
    _case("suppressor", "linear", images.suppressor, _mlp(1024, 2, ())),
    _case("suppressor", "mlp", images.suppressor, _mlp(1024, 2)),
    _case("suppressor", "bn", _rigid, _cnn(2, norm=True)),
    _case("pulse", "cnn", rows.pulse, _series(2)),
    _case("chirp", "bn", rows.chirp, _series(1, norm=True), **_VALUE),
    _case("table", "mlp", rows.table, _mlp(16, 1), **_VALUE),
    _case("switch", "mlp", rows.switch, _mlp(16, 2)),
    _case("word", "attention", rows.word, partial(_text, 1)),
    _case("marked", "attention", rows.marked, partial(_text, 2)),
    _case("twice", "bn", relations.twice, _cnn(2, norm=True)),
    _case("product", "mlp", relations.product, _mlp(rows.FEATURES, 2)),
    _case("equal", "attention", relations.equal, partial(_text, 2), steps=1500),
    _case("glyph", "dead", images.glyph, _cnn(2), shuffled=True, steps=300),
]

# of the same networks, another scalar
_MORE = {
    "difference": "glyph-cnn glyph-gelu pulse-cnn color-cnn switch-mlp word-attention".split(),
    "probability": "glyph-bn ink-cnn shortcut-on twice-bn".split(),
}
CASES += [
    replace(case, head=head)
    for head, names in _MORE.items()
    for case in CASES
    if case.name in names
]
