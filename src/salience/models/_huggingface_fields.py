"""What the config.json of an image classifier may say: numbers and words of a known architecture.

transformers sets every field of a config on the network's configuration, and some fields name files
to unpickle, repositories to fetch and code to run. So a field that no table here names is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from salience._errors import SalienceError, expected
from salience.models._huggingface_sides import Sides, most, patches_of

_TRANSFORMER = """
hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob
attention_probs_dropout_prob layer_norm_eps image_size/patch_size num_channels
"""  # a/b: of which weights have a number for each patch
_VIT = f"{_TRANSFORMER} qkv_bias encoder_stride pooler_output_size pooler_act use_mask_token"
_BEIT = f"""
{_TRANSFORMER} use_mask_token use_absolute_position_embeddings use_relative_position_bias
use_shared_relative_position_bias layer_scale_init_value drop_path_rate use_mean_pooling
"""
_DINO = f"{_VIT} mlp_ratio layerscale_value drop_path_rate use_swiglu_ffn apply_layernorm"
_SWIN = """
image_size patch_size num_channels embed_dim depths num_heads window_size pretrained_window_sizes
mlp_ratio qkv_bias hidden_dropout_prob attention_probs_dropout_prob drop_path_rate hidden_act
use_absolute_embeddings layer_norm_eps encoder_stride hidden_size num_layers
"""
_CONVNEXT = """
num_channels patch_size num_stages hidden_sizes depths hidden_act layer_norm_eps drop_path_rate
layer_scale_init_value image_size
"""
_PYRAMID = """
image_size num_channels num_encoder_blocks depths hidden_sizes patch_sizes strides mlp_ratios
num_attention_heads hidden_act hidden_dropout_prob attention_probs_dropout_prob drop_path_rate
layer_norm_eps qkv_bias sr_ratios
"""
_RESNET = "num_channels embedding_size hidden_sizes depths layer_type hidden_act"
_MOBILENET = """
num_channels image_size depth_multiplier min_depth hidden_act tf_padding classifier_dropout_prob
layer_norm_eps
"""
_MOBILEVIT = """
num_channels image_size patch_size expand_ratio hidden_act conv_kernel_size output_stride
classifier_dropout_prob layer_norm_eps
"""
_FAMILIES = {
    "beit": _BEIT,
    "bit": f"{_RESNET} global_padding num_groups drop_path_rate embedding_dynamic_padding "
    "output_stride width_factor",
    "clip": "vision_config text_config projection_dim logit_scale_init_value",
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "cvt": "num_channels patch_sizes patch_stride patch_padding embed_dim num_heads depth "
    "mlp_ratio attention_drop_rate drop_rate drop_path_rate qkv_bias cls_token "
    "qkv_projection_method kernel_qkv padding_kv stride_kv padding_q stride_q layer_norm_eps",
    "data2vec-vision": _BEIT,
    "deit": _VIT,
    "dinat": "patch_size num_channels embed_dim depths num_heads kernel_size dilations mlp_ratio "
    "qkv_bias hidden_dropout_prob attention_probs_dropout_prob drop_path_rate hidden_act "
    "layer_norm_eps layer_scale_init_value hidden_size num_layers",
    "dinov2": _DINO,
    "dinov2_with_registers": f"{_DINO} num_register_tokens",
    "donut-swin": _SWIN,
    "efficientnet": "num_channels image_size width_coefficient depth_coefficient depth_divisor "
    "kernel_sizes in_channels out_channels depthwise_padding strides num_block_repeats "
    "expand_ratios squeeze_expansion_ratio hidden_act hidden_dim pooling_type batch_norm_eps "
    "batch_norm_momentum dropout_rate drop_connect_rate num_hidden_layers",
    "focalnet": "image_size patch_size num_channels embed_dim use_conv_embed hidden_sizes depths "
    "focal_levels focal_windows hidden_act mlp_ratio hidden_dropout_prob drop_path_rate "
    "use_layerscale layerscale_value use_post_layernorm use_post_layernorm_in_modulation "
    "normalize_modulator layer_norm_eps encoder_stride",
    "hgnet_v2": f"{_RESNET} stem_channels stem_strides stage_in_channels stage_mid_channels "
    "stage_out_channels stage_num_blocks stage_downsample stage_downsample_strides "
    "stage_light_block stage_kernel_size stage_numb_of_layers use_learnable_affine_block",
    "hiera": "embed_dim image_size patch_size patch_stride patch_padding mlp_ratio depths "
    "num_heads embed_dim_multiplier num_query_pool query_stride masked_unit_size "
    "masked_unit_attention drop_path_rate num_channels hidden_act layer_norm_init layer_norm_eps "
    "decoder_hidden_size decoder_depth decoder_num_heads normalize_pixel_loss mask_ratio "
    "hidden_size",
    "ijepa": _VIT,
    "levit": "image_size/patch_size num_channels kernel_size stride padding hidden_sizes "
    "num_attention_heads depths key_dim drop_path_rate mlp_ratio attention_ratio",
    "metaclip_2": "vision_config text_config projection_dim logit_scale_init_value",
    "mobilenet_v1": _MOBILENET,
    "mobilenet_v2": f"{_MOBILENET} depth_divisible_by expand_ratio output_stride "
    "first_layer_is_expansion finegrained_output",
    "mobilevit": f"{_MOBILEVIT} hidden_sizes neck_hidden_sizes num_attention_heads mlp_ratio "
    "hidden_dropout_prob attention_probs_dropout_prob qkv_bias",
    "mobilevitv2": f"{_MOBILEVIT} n_attn_blocks base_attn_unit_dims width_multiplier "
    "ffn_multiplier attn_dropout ffn_dropout",
    "perceiver": "num_latents d_latents d_model num_blocks num_self_attends_per_block "
    "num_self_attention_heads num_cross_attention_heads qk_channels v_channels "
    "cross_attention_shape_for_attention self_attention_widening_factor "
    "cross_attention_widening_factor hidden_act attention_probs_dropout_prob layer_norm_eps "
    "use_query_residual image_size",
    "poolformer": "num_channels patch_size stride pool_size mlp_ratio depths hidden_sizes "
    "patch_sizes strides padding num_encoder_blocks drop_path_rate hidden_act use_layer_scale "
    "layer_scale_init_value",
    "pvt": f"{_PYRAMID} sequence_reduction_ratios",
    "pvt_v2": f"{_PYRAMID} linear_attention",
    "regnet": f"{_RESNET} groups_width downsample_in_first_stage",
    "resnet": f"{_RESNET} downsample_in_first_stage downsample_in_bottleneck",
    "segformer": f"{_PYRAMID} classifier_dropout_prob reshape_last_stage",
    "siglip": "vision_config text_config",
    "swiftformer": "image_size num_channels depths embed_dims mlp_ratio downsamples hidden_act "
    "down_patch_size down_stride down_pad drop_path_rate drop_mlp_rate drop_conv_encoder_rate "
    "use_layer_scale layer_scale_init_value batch_norm_eps",
    "swin": _SWIN,
    "swinv2": _SWIN,
    "textnet": "stem_kernel_size stem_stride stem_num_channels stem_out_channels stem_act_func "
    "image_size conv_layer_kernel_sizes conv_layer_strides hidden_sizes batch_norm_eps depths",
    "timm_wrapper": "architecture model_args",
    "vit": _VIT,
    "vit_msn": _VIT,
}
_PARTS = {  # fields that are descriptions themselves
    "vision_config": f"{_TRANSFORMER} attention_dropout dropout projection_dim vision_use_head",
    "model_args": "img_size in_chans patch_size embed_dim depth depths num_heads mlp_ratio "
    "qkv_bias qk_norm init_values class_token no_embed_class reg_tokens fc_norm pre_norm "
    "final_norm dynamic_img_size global_pool window_size drop_rate drop_path_rate attn_drop_rate "
    "proj_drop_rate pos_drop_rate patch_drop_rate act_layer norm_layer output_stride",
}  # fmt: skip
# Said beside the architecture, and not handed on: how the network was trained and saved, what its
# outputs are called, how images are made ready, parts that a classifier of images does not have.
_ASIDE = """
architectures model_type transformers_version name_or_path _name_or_path _commit_hash torch_dtype
dtype id2label label2id num_labels num_classes label_names label_descriptions problem_type
finetuning_task initializer_range initializer_factor return_dict output_hidden_states
output_attentions use_cache use_return_dict torchscript gradient_checkpointing is_encoder_decoder
chunk_size_feed_forward _attn_implementation_autoset
stage_names out_features out_indices _out_features _out_indices reshape_hidden_states add_fpn
pool_scales use_auxiliary_head auxiliary_loss_weight auxiliary_channels auxiliary_num_convs
auxiliary_concat_input semantic_loss_ignore_index decoder_hidden_size aspp_out_channels atrous_rates
aspp_dropout_prob vocab_size path_norm down_ops downsampling_rates max_position_embeddings
train_size num_frames audio_samples_per_frame samples_per_patch output_shape output_num_channels
_label_trainable_num_channels do_pooling num_features global_pool pretrained_cfg
""".split()
_GENERATION = """
add_cross_attention bad_words_ids begin_suppress_tokens bos_token_id cross_attention_hidden_size
decoder_start_token_id diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
eos_token_id exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id is_decoder
length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
num_return_sequences output_scores pad_token_id prefix remove_invalid_values repetition_penalty
return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p typical_p
use_bfloat16
""".split()
_READ_ASIDE = {  # fields whose own fields must be known, though none is handed on
    "text_config": f"{_PARTS['vision_config']} projection_size",
    "pretrained_cfg": "tag input_size test_input_size min_input_size fixed_input_size "
    "interpolation crop_pct test_crop_pct crop_mode mean std num_classes pool_size "
    "test_pool_size first_conv classifier label_offset origin_url paper_ids "
    "paper_name license notes description",
}  # fmt: skip
_NOTHING = {  # fields that say nothing with these values, and more than an architecture with others
    "attn_implementation": (None, "eager", "sdpa"),
    "_attn_implementation": (None, "eager", "sdpa"),
    "pruned_heads": (None, {}),
    "text_config_dict": (None,), "vision_config_dict": (None,),
    "custom_load": (None, False),
}  # fmt: skip
_WORDS = frozenset(
    """
    gelu gelu_10 gelu_accurate gelu_fast gelu_new gelu_python gelu_python_tanh gelu_pytorch_tanh
    quick_gelu relu relu2 relu6 leaky_relu silu swish mish tanh sigmoid linear elu selu hardswish
    basic bottleneck preactivation x y same valid mean max q kv dw_bn avg avgmax catavgmax token
    map layernorm batchnorm rmsnorm
    """.split()
)
_ENTRIES = 256  # of a list: a number for each stage, or for each of its blocks
_NAME = re.compile(r"[a-zA-Z0-9_]{1,100}(\.\w{1,100})?", re.ASCII)


class Described(NamedTuple):
    """An architecture, as a config.json describes it."""

    family: str
    fields: dict[str, Any]
    labels: int | None
    classes: list[str]  # what the network is called in transformers


def described(config: Mapping[str, object], file: Path, sides: Sides) -> Described:
    """The architecture that a config.json describes, if it describes that and nothing else.

    sides   of the weights, which bound what is told

    Errors: SalienceError for a family, a field or a value that no table here allows.
    """
    family = config.get("model_type")
    if family is None and "pretrained_cfg" in config:
        family = "timm_wrapper"  # as timm saves it
    if not isinstance(family, str) or family not in _FAMILIES:
        raise expected(
            "an image classifier of Hugging Face",
            f"{file}, broken or of another kind: model_type {_short(family)}",
            f"Families that are read: {', '.join(_FAMILIES)}.",
        )
    fields = {}
    for name, value in _known(config, _FAMILIES[family], file).items():
        if name in _PARTS:
            part = _known(_mapping(value, name, file), _PARTS[name], file, f"{name}.")
            fields[name] = {
                key: _plain(held, key, file, sides, f"{name}.") for key, held in part.items()
            }
            _check_patches(_PARTS[name], fields[name], file, sides)
        elif name == "architecture":
            fields[name] = _architecture(value, file)
        elif name not in _READ_ASIDE:
            fields[name] = _plain(value, name, file, sides)
    _check_patches(_FAMILIES[family], fields, file, sides)
    for name in _READ_ASIDE.keys() & config.keys():
        _known(_mapping(config[name], name, file), _READ_ASIDE[name], file, f"{name}.")
    classes = config.get("architectures")
    named = [str(name) for name in classes] if isinstance(classes, list) else []
    return Described(family, fields, _labels(config, file, sides.longest), named)


def _known(
    config: Mapping[str, object], names: str, file: Path, above: str = ""
) -> dict[str, object]:
    """The fields that are handed on; a field that no table names is refused."""
    allowed = names.replace("/", " ").split()
    aside = {*_ASIDE, *_GENERATION} if above != "model_args." else set()
    for name, value in config.items():
        if name in allowed or name in aside or value in _NOTHING.get(name, ()):
            continue
        raise expected(
            f"a description of an architecture and nothing else in {file}",
            f"the field {_short(above + name)}: {_short(value)}",
            "Remove the field if the network is the same without it, or build the network in "
            "'file.py:factory' and give this folder's model.safetensors as --weights.",
        )
    return {name: value for name, value in config.items() if name in allowed}


def _mapping(value: object, name: str, file: Path) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refusal(name, value, file, "fields by their names")
    return value


def _plain(value: object, name: str, file: Path, sides: Sides, above: str = "") -> object:
    """A number, a word of the list, or a list of these."""
    if isinstance(value, list):
        if _count(value) > _ENTRIES:
            raise _refusal(above + name, value, file, "a list of numbers for each layer")
        return [_plain(item, name, file, sides, above) for item in value]
    if isinstance(value, str):
        if value.lower() not in _WORDS:
            raise _refusal(above + name, value, file, "a word that architectures are described by")
        return value
    if value is not None and not isinstance(value, int | float):
        raise _refusal(above + name, value, file, "a number or a word")
    bound = most(name, sides)
    if value is not None and not abs(value) <= bound:  # nor NaN
        raise _refusal(above + name, value, file, f"a number up to {bound}")
    return value


def _check_patches(names: str, fields: Mapping[str, object], file: Path, sides: Sides) -> None:
    """Raise for more patches of an image than any side of the weights has entries."""
    for pair in filter(lambda name: "/" in name, names.split()):
        count = patches_of(fields)
        if count is None or count > sides.longest:
            told = {name: fields[name] for name in pair.split("/") if name in fields}
            raise _refusal(
                pair, told, file, f"sizes with at most the {sides.longest} patches of its weights"
            )


def _count(items: list[object], depth: int = 4) -> int:
    """How many entries nested lists have; too many where they are nested too deeply."""
    if depth == 0:
        return _ENTRIES + 1
    return sum(_count(item, depth - 1) if isinstance(item, list) else 1 for item in items)


def _architecture(value: object, file: Path) -> str:
    """A name of timm without the tag of its weights; paths and repositories have other letters."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _refusal("architecture", value, file, "the name of an architecture of timm")
    return value.partition(".")[0]


def _labels(config: Mapping[str, object], file: Path, longest: int) -> int | None:
    """How many outputs the classifier has."""
    told = ("id2label", "num_labels")
    for name in ("num_classes", *told) if "architecture" in config else told:
        value = config.get(name)
        if value is None:
            continue
        count = len(value) if isinstance(value, dict) else value
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= longest:
            raise _refusal(
                name, count, file, f"labels that its weights can hold: {longest} at most"
            )
        return count
    return None


def _refusal(name: str, value: object, file: Path, wanted: str) -> SalienceError:
    return expected(f"{name} in {file} as {wanted}", _short(value), "Download it again.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
