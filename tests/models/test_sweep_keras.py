"""The architectures of keras.applications have the maps of their files.

Minutes: pytest -m slow -rs tests/models/test_sweep_keras.py, which counts what the reader refuses.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import salience
from salience._errors import SalienceError
from salience.models import load_model

pytest.importorskip("h5py")
os.environ["KERAS_BACKEND"] = "torch"  # for the tests' own import of it
keras = pytest.importorskip("keras")

METHODS: dict[str, dict[str, float]] = {
    "gradient": {}, "guided_backprop": {}, "lrp_epsilon": {},
    "lrp_alpha_beta": {"alpha": 2, "beta": 1},
}  # fmt: skip
# Keras computes a BatchNorm of float64 in float32: everything is in float32 here, and relevance
# over sums near zero keeps three digits of it, or as many as one more ulp of the input leaves it
# (NASNet, alpha2-beta1: .5% of the map, file or not).
OUTPUT, GRADIENT, RELEVANCE = 1e-5, 1e-5, 1e-3
NETWORKS = {  # one of each family, with the pixels of its input
    "VGG16": 32, "ResNet50": 64, "ResNet50V2": 64, "MobileNet": 64, "MobileNetV2": 64,
    "MobileNetV3Small": 64, "DenseNet121": 64, "EfficientNetB0": 64, "EfficientNetV2B0": 64,
    "NASNetMobile": 64, "Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75,
    "ConvNeXtTiny": 64,
}  # fmt: skip
_MOBILE = {  # which Keras builds of the same parts on other backends alone
    "penultimate_filters": 1056, "num_blocks": 4, "stem_block_filters": 32,
    "skip_reduction": False, "filter_multiplier": 2,
}  # fmt: skip


def build(name: str) -> tuple[Any, Tensor]:
    """A network whose normalisations and biases do something, and images for it."""
    from keras.src.applications.nasnet import NASNet

    keras.utils.set_random_seed(0)
    side, mobile = NETWORKS[name], name == "NASNetMobile"
    model = (NASNet if mobile else getattr(keras.applications, name))(
        input_shape=(side, side, 3), weights=None, classes=7, classifier_activation=None,
        **_MOBILE if mobile else {},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for variable in model.variables:
        if variable.ndim == 1 and "seed" not in variable.path:  # statistics, scales and shifts
            values = torch.rand(variable.shape, generator=generator)
            positive = variable.path.endswith(("gamma", "variance"))
            variable.assign(0.5 + values if positive else 0.2 * values - 0.1)
    return model.eval(), 255 * torch.rand(2, side, side, 3, generator=generator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_maps_of_a_file(name: str, tmp_path: Path):
    model, x = build(name)
    model.save(tmp_path / "net.keras")
    try:
        loaded = load_model(str(tmp_path / "net.keras"))
    except SalienceError as error:
        pytest.skip(f"refused: {error}")
    own, tape = salience.record(model, x), salience.record(loaded, x)
    moved = [salience.record(model, by_ulps(x, k)) for k in (-3, -2, -1, 1, 2, 3)]
    assert off(tape.output, own.output) < OUTPUT
    for method, parameters in METHODS.items():
        wanted = own.explain(method, 1, **parameters)
        # a unit may be so close to its kink that rounding decides on which side it is
        rounding = max(off(tape.explain(method, 1, **parameters), wanted) for tape in moved)
        tolerance = (RELEVANCE if method.startswith("lrp") else GRADIENT) + rounding
        assert off(tape.explain(method, 1, **parameters), wanted) < tolerance, method


def by_ulps(x: Tensor, count: int) -> Tensor:
    """x and so many of the next numbers of its type, up or down."""
    end = torch.full_like(x, 1e3 if count > 0 else -1e3)
    for _ in range(abs(count)):
        x = torch.nextafter(x, end)
    return x


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())
