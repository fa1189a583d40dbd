"""Networks of Hugging Face, torchvision and timm have the maps of their files.

An hour of exports: pytest -m slow -rs tests/models/test_sweep_files.py, which counts what an
exporter or the reader refuses.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import folder_nets
import pytest
import torch
from file_nets import Inputs, export, export_onnx
from torch import Tensor, nn

import salience
from salience._errors import SalienceError
from salience.models import load_model
from salience.models._optional import import_torchvision, need

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from zoo import networks as zoo

METHODS = ("gradient", "guided_backprop", "lrp_epsilon", "lrp_alpha_beta", "lrp_gamma")
FORMS = {"decomposed": export, "dynamic": export, "new": export_onnx, "opset 17": export_onnx}
# The exporters write Python's numbers, and weights into which they fold BatchNorm, in float32.
TOLERANCE = {"decomposed": 1e-8, "dynamic": 1e-8, "new": 1e-4, "opset 17": 1e-4}
ZOO = """
    torchvision/alexnet torchvision/densenet121 torchvision/googlenet torchvision/mobilenet_v3_small
    torchvision/resnet18 torchvision/shufflenet_v2_x0_5 torchvision/squeezenet1_1
    torchvision/vgg11_bn torchvision/swin_t timm/test_convnext timm/test_nfnet timm/test_vit
    timm/test_maxvit timm/levit_128s timm/poolformer_s12 timm/repghostnet_050 timm/mobilenetv2_050
""".split()


class Logits(nn.Module):
    """A network whose output is its logits alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.net(x)
        return outputs if isinstance(outputs, Tensor) else outputs.logits


def build(name: str) -> tuple[nn.Module, Tensor]:
    source, family = name.split("/", 1)
    if source == "transformers":
        import_torchvision("tests", "pip install torchvision")
        net = folder_nets.network(need("transformers", "tests", "pip install transformers"), family)
        size: Any = folder_nets.side(family)
    else:
        net, size = zoo.build(name, samples=2)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *(2 * (size,))[:2], generator=generator, dtype=torch.float64)
    return Logits(net).double().eval(), x


def through_a_file(net: nn.Module, form: str, folder: Path, x: Inputs) -> tuple[nn.Module, Path]:
    """What is read of a file of the network, and the file; a refusal is a skip."""
    file = folder / ("net.pt2" if FORMS[form] is export else "net.onnx")
    logging.disable(logging.CRITICAL)
    try:
        FORMS[form](net, file, form, x)
    except Exception as error:  # whatever an exporter raises
        pytest.skip(f"not exported: {type(error).__name__}")
    finally:
        logging.disable(logging.NOTSET)
    try:
        return load_model(str(file)), file
    except SalienceError as error:
        pytest.skip(f"refused: {error}")


def run_by_others(file: Path, x: Tensor) -> Tensor:
    """The outputs of a file by the libraries that its format comes from."""
    if file.suffix == ".pt2":
        return torch.export.load(file).module()(x).detach()
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(str(file))
    (output, *_) = session.run(None, {session.input_names[0]: x.numpy()})
    return torch.as_tensor(output)


NETWORKS = [*ZOO, *(f"transformers/{name}" for name in folder_nets.NETWORKS)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_maps_of_a_file(name: str, form: str, tmp_path: Path):
    net, x = build(name)
    loaded, file = through_a_file(net, form, tmp_path, x)
    values = net(x).detach()
    changes = (values[0] - values[1]).abs().max()  # little, where weights are random
    if (loaded(x) - values).abs().max() > TOLERANCE[form] * changes.clamp(max=1):
        assert off(loaded(x), run_by_others(file, x)) < 1e-6, "what the file holds"
        pytest.skip("another function: the exporter's")
    # how far the functions differ: a decomposition rounds otherwise, and kinks make more of that
    tolerance = max(TOLERANCE[form], 30 * off(slope(loaded, x), slope(net.eval(), x)))
    if tolerance > 1e-3:
        pytest.skip("another gradient: the exporter's")
    own, tape = salience.record(net, x), salience.record(loaded, x)
    for method in METHODS:
        one, two = tape.explain(method, 1), own.explain(method, 1)
        assert off(one, two) < tolerance, method


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-300))


def slope(net: nn.Module, x: Tensor) -> Tensor:
    """The gradient of class 1, by autograd alone."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x)[:, 1].sum(), x)[0]
