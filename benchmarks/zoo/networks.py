"""The architectures of the zoo, with random weights that let no rule off lightly.

Every classifier of torchvision and one or a few of each family of timm. Nothing is downloaded.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from networks import calibrate, import_torchvision, inputs
from torch import Tensor, nn

__all__ = ["build", "inputs", "names"]

# By family: ResNet variants, RegNet, EfficientNet, MobileNet, ConvNeXt, NFNet, DenseNet, VGG,
# Inception, HRNet and DLA, re-parameterised, mobile hybrids, attention in ResNets, ViT, DeiT,
# windows, pyramids, MaxViT and CoAtNet, MLP-Mixer, PoolFormer and the like, others.
TIMM = (
    "resnet10t resnet26d resnet50d resnet50_gn resnetv2_50 resnetv2_50d_frn resnext50_32x4d "
    "seresnet50 ecaresnet26t skresnet18 resnest14d res2net50_26w_4s resnetblur50 resnet50_clip "
    "regnetx_002 regnety_002 regnetz_b16 "
    "efficientnet_b0 efficientnet_b0_gn efficientnet_lite0 tf_efficientnetv2_b0 mixnet_s "
    "mnasnet_small rexnet_100 fbnetv3_b "
    "mobilenetv1_100 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small lcnet_050 "
    "convnext_atto convnext_atto_rms convnextv2_atto inception_next_atto convmixer_768_32 "
    "nfnet_l0 dm_nfnet_f0 nf_resnet50 eca_nfnet_l0 nf_regnet_b1 "
    "densenetblur121d rdnet_tiny dpn68 vgg11_bn repghostnet_050 "
    "inception_v4 inception_resnet_v2 legacy_xception xception41 "
    "hrnet_w18_small dla34 dla46x_c selecsls42 cspresnet50 cs3darknet_s vovnet39a "
    "ese_vovnet19b_dw hgnetv2_b0 tresnet_m nasnetalarge "
    "repvgg_a0 mobileone_s0 repvit_m0_9 ghostnet_050 ghostnetv2_100 starnet_s050 fasternet_t0 "
    "mobilevit_xxs mobilevitv2_050 edgenext_xx_small fastvit_t8 efficientformer_l1 "
    "efficientvit_b0 efficientvit_m0 swiftformer_xs "
    "botnet26t_256 halonet26t lambda_resnet26t gcresnext26ts "
    "vit_tiny_patch16_224 vit_relpos_small_patch16_224 vit_tiny_r_s16_p8_224 beit_base_patch16_224 "
    "eva02_tiny_patch14_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 "
    "deit3_small_patch16_224 cait_xxs24_224 convit_tiny xcit_nano_12_p16_224 tnt_s_patch16_224 "
    "volo_d1_224 crossvit_9_240 "
    "swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 focalnet_tiny_srf "
    "davit_tiny gcvit_xxtiny twins_svt_small nest_tiny hiera_tiny_224 "
    "pvt_v2_b0 pit_ti_224 levit_128s coat_lite_tiny mvitv2_tiny visformer_tiny tiny_vit_5m_224 "
    "nextvit_small "
    "maxvit_pico_rw_256 maxvit_tiny_tf_224 coatnet_pico_rw_224 coatnet_0_224 "
    "mixer_s32_224 gmixer_12_224 resmlp_12_224 gmlp_ti16_224 sequencer2d_s "
    "poolformer_s12 poolformerv2_s12 convformer_s18 caformer_s18 mambaout_femto"
).split()

# Of the architectures whose smallest input is not SIZE pixels.
SIZE = 64
SIZES = {
    "torchvision/inception_v3": 96,
    "torchvision/maxvit_t": 224,
    "torchvision/vit_h_14": 56,
    "timm/inception_v4": 96,
    "timm/inception_resnet_v2": 96,
    "timm/halonet26t": 256,
}
OPTIONS = {
    f"torchvision/vit_{name}": {"image_size": SIZE} for name in "b_16 b_32 l_16 l_32".split()
}
OPTIONS["torchvision/vit_h_14"] = {"image_size": 56}


def names() -> list[str]:
    """Package/architecture of every network of the zoo."""
    models = import_torchvision().models
    return [
        *(f"torchvision/{name}" for name in models.list_models(module=models)),
        *(f"timm/{name}" for name in TIMM),
    ]


def build(name: str, seed: int = 0, samples: int = 32) -> tuple[nn.Module, int]:
    """A network in eval mode with its parameters frozen, and its input's pixels.

    samples  of the batch that BatchNorm has its statistics from
    """
    package, _, architecture = name.partition("/")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _timm(architecture) if package == "timm" else _torchvision(name)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    _randomize(model, torch.Generator().manual_seed(seed))
    size = SIZES.get(name) or _fixed_size(model) or SIZE
    calibrate(model, inputs(samples, size, seed + 1))
    _without_eps(model)
    return model.requires_grad_(False), size


def _torchvision(name: str) -> nn.Module:
    constructor = getattr(import_torchvision().models, name.partition("/")[2])
    options: dict[str, Any] = dict(OPTIONS.get(name, {}))
    if name.endswith(("googlenet", "inception_v3")):  # else scipy draws weights, for minutes
        options["init_weights"] = False
    return constructor(weights=None, **options)


def _timm(architecture: str) -> nn.Module:
    import_torchvision()
    import timm  # type: ignore[import-not-found]

    return timm.create_model(architecture, pretrained=False)


def _fixed_size(model: nn.Module) -> int | None:
    """The input size of an architecture of timm that takes no other one."""
    about = getattr(model, "pretrained_cfg", None) or {}
    return about["input_size"][1] if about.get("fixed_input_size") else None


@torch.no_grad()
def _randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Random values where the initialiser leaves a constant: biases of 0, scales of 0, 1 or 1e-6.

    A branch that is scaled with 0 would keep every law.
    """
    for name, parameter in model.named_parameters():
        if parameter.numel() == 0 or not bool((parameter == parameter.flatten()[0]).all()):
            continue
        constant = parameter.flatten()[0].item()
        if name.endswith("bias") or (constant == 0 and parameter.ndim != 1):
            parameter.normal_(0, _deviation(parameter), generator=generator)
        else:
            scale = constant if abs(constant) > 0.05 else 0.1  # of a layer scale of 1e-6
            parameter.uniform_(0.5, 1.5, generator=generator).mul_(scale)
    for name, parameter in model.named_parameters():  # biases with a scale of their own
        if name.endswith("bias") and parameter.ndim == 1:
            parameter.normal_(0, 0.1, generator=generator)


def _deviation(parameter: Tensor) -> float:
    weights = parameter.ndim > 1 and parameter[0].numel() > 1
    return 1 / math.sqrt(parameter[0].numel()) if weights else 0.1


def _without_eps(model: nn.Module) -> None:
    """The same function with BatchNorm's eps in the variances: zennit 0.5.1 folds without it."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_var += module.eps
            module.eps = 1e-12
