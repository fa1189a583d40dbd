"""The figure that `Maps.plot` draws: pictures, curves or strips of tokens, as the input is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from salience._errors import expected
from salience._inputs import trees
from salience.plot._maps import maps as pictures
from salience.plot._tokens import tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from salience._study.maps import Maps


def picture(maps: Maps[object], *, of: str | int | None = None, **options: Any) -> Figure:
    """A row per sample and a column, or a strip of tokens, per method.

    of       which input, where there are several: a key or a position
    options  as for `salience.plot.maps`, or `salience.plot.tokens` where the input are ids

    Errors: SalienceError where an input is not named, has no maps, or no space to show them in.
    """
    parts = trees.parts_of(maps.inputs)
    if of not in parts:
        known = ", ".join(map(repr, parts))
        raise expected("of=, which of several inputs to show", repr(of), f"Choose from {known}.")
    x, alone = parts[of], of is trees.ALONE
    held: dict[str, Any] = {
        name: own if alone else trees.parts_of(own).get(of) for name, own in maps.maps.items()
    }
    if any(own is None for own in held.values()):
        raise expected("an input with maps", repr(of), "Masks, and ids without a table, have none.")
    if x.is_floating_point():
        if not 2 <= x.ndim <= 5:
            got = f"shape {tuple(x.shape)}"
            raise expected("inputs (N, F), (N, C, L), (N, C, H, W) or (N, C, D, H, W)", got, "")
        return pictures(x, held, **options)
    strips = {name: per_token(x, own) for name, own in held.items()}
    return tokens(trees.rows(x), strips, **options)


def per_token(ids: Tensor, held: Tensor | tuple[Tensor, ...] | Mapping[object, Tensor]) -> Tensor:
    """Relevance of ids (N, T): their maps (N, T, D), summed over D, and over embeddings."""
    several = list(trees.parts_of(held).values())
    if any(own.shape[:-1] != ids.shape for own in several):
        cure = "Sum the maps over the axes of the embedding yourself."
        raise expected(f"maps (*{tuple(ids.shape)}, D) of ids", f"{several[0].shape}", cure)
    return trees.rows(torch.stack([own.sum(-1) for own in several]).sum(0))
