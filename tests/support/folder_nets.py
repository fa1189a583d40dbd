"""A small image classifier of each family of transformers."""

import torch

_VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
_DINO = {**{name: n for name, n in _VIT.items() if name != "intermediate_size"}, "mlp_ratio": 2}
_SWIN = {
    "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2],
    "window_size": 4, "mlp_ratio": 2.0,
}  # fmt: skip
_CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
_PYRAMID = {
    "num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3],
    "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
}  # fmt: skip
_LEVIT = {
    "image_size": 64, "hidden_sizes": [16, 16, 16], "num_attention_heads": [1, 1, 1],
    "depths": [1, 1, 1], "key_dim": [4, 4, 4],
}  # fmt: skip
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
_PERCEIVER = {
    "num_latents": 4, "d_latents": 16, "d_model": 16, "num_self_attends_per_block": 1,
    "num_blocks": 1, "num_self_attention_heads": 2, "num_cross_attention_heads": 1,
    "image_size": 32,
}  # fmt: skip
NETWORKS = {  # family, or family/class
    "beit": {**_VIT, "use_relative_position_bias": True},
    "bit": {**_RESNET, "num_groups": 2, "global_padding": "SAME"},
    "clip": {"vision_config": _VIT},
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "cvt": {"embed_dim": [8, 8, 16], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
    "data2vec-vision": _VIT,
    "deit": _VIT,
    "deit/DeiTForImageClassificationWithTeacher": _VIT,
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "donut-swin": _SWIN,
    "efficientnet": {
        "width_coefficient": 0.25, "hidden_dim": 320, "in_channels": [32, 16],
        "out_channels": [16, 24], "kernel_sizes": [3, 3], "strides": [1, 2],
        "num_block_repeats": [1, 1], "expand_ratios": [1, 6], "depthwise_padding": [],
    },
    "focalnet": {
        "image_size": 64, "patch_size": 4, "embed_dim": 8, "hidden_sizes": [8, 16],
        "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3],
    },
    "hgnet_v2": {
        "stem_channels": [3, 8, 8], "stage_in_channels": [8, 16], "stage_mid_channels": [8, 8],
        "stage_out_channels": [16, 16], "stage_num_blocks": [1, 1], "depths": [1, 1],
        "stage_downsample": [False, True], "stage_downsample_strides": [2, 2],
        "stage_light_block": [False, True], "stage_kernel_size": [3, 5],
        "stage_numb_of_layers": [2, 2], "hidden_sizes": [16, 16], "embedding_size": 8,
    },
    "hiera": {
        "embed_dim": 8, "image_size": [64, 64], "depths": [1, 1], "num_heads": [1, 2],
        "num_query_pool": 1, "mlp_ratio": 2.0, "query_stride": [2, 2],
        "masked_unit_size": [8, 8], "masked_unit_attention": [True, False],
    },
    "ijepa": _VIT,
    "levit": _LEVIT,
    "levit/LevitForImageClassificationWithTeacher": _LEVIT,
    "metaclip_2": {"vision_config": _VIT},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 64},
    "mobilevit": {
        "image_size": 64, "hidden_sizes": [8, 8, 8], "num_attention_heads": 2,
        "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
    },
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.25},
    "perceiver": _PERCEIVER,
    "perceiver/PerceiverForImageClassificationFourier": {**_PERCEIVER, "image_size": 224},
    "poolformer": {
        "hidden_sizes": [8, 16], "depths": [1, 1], "patch_sizes": [7, 3], "strides": [4, 2],
        "padding": [2, 1], "num_encoder_blocks": 2,
    },
    "pvt": {**_PYRAMID, "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2],
            "image_size": 64},
    "pvt_v2": {**_PYRAMID, "sr_ratios": [2, 1], "image_size": 64},
    "regnet": {**_RESNET, "groups_width": 4},
    "resnet": {**_RESNET, "layer_type": "basic"},
    "segformer": {**_PYRAMID, "sr_ratios": [2, 1], "decoder_hidden_size": 16},
    "siglip": {"vision_config": _VIT},
    "swiftformer": {"depths": [1, 1], "embed_dims": [8, 16], "downsamples": [True, True]},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "textnet": {
        "stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 16, 16],
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3]], [[1, 3]], [[3, 1]]],
        "conv_layer_strides": [[1], [2], [2], [2]],
    },
    "timm_wrapper": {"architecture": "test_resnet"},
    "vit": _VIT,
    "vit_msn": _VIT,
}  # fmt: skip


def network(transformers, name):
    """A network of five classes with random weights, in inference."""
    family, _, written = name.partition("/")
    auto = transformers.models.auto.modeling_auto
    names = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[family]
    default = names if isinstance(names, str) else names[0]
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[family](**NETWORKS[name], num_labels=5)
    config._attn_implementation = "eager"
    return getattr(transformers, written or default)(config).eval()


def side(name):
    """The side of the images that a network takes, 64 where it takes any."""
    fields = NETWORKS[name].get("vision_config", NETWORKS[name])
    told = fields.get("image_size", 64)
    return told if isinstance(told, int) else told[0]
