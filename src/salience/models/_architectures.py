"""Architectures of torchvision and timm by name; nothing is downloaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from torch import nn

from salience._errors import expected, warn
from salience.models._factory import guarded
from salience.models._optional import import_torchvision, need

_TORCHVISION = "pip install torchvision"
_TIMM = "pip install 'salience[timm]'"


def build(scheme: str, name: str, has_weights: bool) -> nn.Module:
    """The architecture of a library by name, with random weights.

    Errors: SalienceError for a library that is not there and a name that it does not know.
    """
    names, make = (_torchvision if scheme == "torchvision" else _timm)()
    if name not in names:
        near = get_close_matches(name.lower(), names, n=3, cutoff=0.5)
        cure = f"Did you mean {' or '.join(near)}?" if near else f"It has {_sample(names)}."
        raise expected(f"an architecture of {scheme}", repr(name), cure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about their initialisers
        model = guarded(lambda: make(name), f"{scheme} to build {name}")
    if not has_weights:
        warn(
            f"{scheme}:{name} has random weights: its maps show nothing that was learned. "
            "Nothing is downloaded; give a file of weights by --weights."
        )
    return model


def _sample(names: Sequence[str]) -> str:
    return f"{len(names)}, such as {', '.join(names[:: max(1, len(names) // 5)][:5])}"


def _torchvision() -> tuple[list[str], Callable[[str], nn.Module]]:
    import_torchvision("torchvision:NAME", _TORCHVISION)
    models = need("torchvision.models", "torchvision:NAME", _TORCHVISION)

    def make(name: str) -> nn.Module:
        given: dict[str, object] = {"weights": None}
        if name in models.list_models(models.segmentation) + models.list_models(models.detection):
            given["weights_backbone"] = None  # it would be downloaded
        return models.get_model(name, **given)

    return models.list_models(), make


def _timm() -> tuple[list[str], Callable[[str], nn.Module]]:
    import_torchvision("timm:NAME, which needs it", _TIMM)
    timm = need("timm", "timm:NAME", _TIMM)
    return timm.list_models(), lambda name: timm.create_model(name, pretrained=False)
