"""Networks of Hugging Face for text and sound have the maps of their files, from ids and masks.

Minutes: pytest -m slow -rs tests/models/test_sweep_text.py, which counts what an exporter or the
reader refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_sweep_files import FORMS, METHODS, TOLERANCE, off, through_a_file
from torch import Tensor, nn

import salience
from salience.models._optional import import_torchvision, need

_SIZES: dict[str, dict[str, Any]] = {
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "pad_token_id": 0},
    "Bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 24, "max_position_embeddings": 16},
    "DistilBert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24,
                   "max_position_embeddings": 16},
    "Wav2Vec2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "intermediate_size": 24, "conv_dim": (8, 8), "conv_kernel": (5, 3),
                 "conv_stride": (3, 2), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
                 "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8},
}  # fmt: skip


class OfText(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.net(input_ids=input_ids, attention_mask=attention_mask).logits


class OfSound(OfText):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.net(x).logits


def build(family: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A small network and its inputs: three texts, of which one is shorter, or three sounds."""
    import_torchvision("tests", "pip install torchvision")
    transformers = need("transformers", "tests", "pip install transformers")
    config = getattr(transformers, f"{family}Config")(
        vocab_size=31, num_labels=3, attn_implementation="eager", **_SIZES[family]
    )
    torch.manual_seed(0)
    net = getattr(transformers, f"{family}ForSequenceClassification")(config)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    if family == "Wav2Vec2":
        return OfSound(net).double().eval(), (torch.randn(3, 120).double(),)
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return OfText(net).double().eval(), (torch.randint(1, 31, (3, 7)) * mask, mask)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", _SIZES)
def test_the_maps_of_a_file(family: str, form: str, tmp_path: Path):
    net, x = build(family)
    loaded, _ = through_a_file(net, form, tmp_path, x)
    own, tape = salience.record(net, x), salience.record(loaded, x)
    assert off(tape.output, own.output) < TOLERANCE[form]
    for method in METHODS:
        one, two = tape.explain(method, 1)[0], own.explain(method, 1)[0]
        assert off(one, two) < TOLERANCE[form], method
