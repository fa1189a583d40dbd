"""Networks of several inputs and of token ids for the randomisation test, with stages by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from reference_randomization import RULES, Case, both, trained
from torch import Tensor, nn
from two_streams import TwoStreams

NO_INPUT_RULE = [name for name in RULES if name != "deep_taylor"]
TOKENS = [*NO_INPUT_RULE, "input_x_gradient"]
IDS = torch.tensor([[3, 1, 4, 1, 5, 0], [2, 6, 5, 3, 5, 8], [7, 7, 2, 0, 0, 0]])


class Tokens(nn.Module):
    """The sum of words' and places' embeddings, normalised; the places' table is defined first."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.words = nn.Embedding(6, 4), nn.Embedding(9, 4)
        self.norm = nn.LayerNorm(4)
        self.mix, self.head = nn.Conv1d(4, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        places = self.places(torch.arange(ids.shape[1]))
        h = self.norm(self.words(ids) + places)
        return self.head(F.relu(self.mix(h.mT)).mean(-1))


class Mixed(nn.Module):
    """Ids and numbers; places are counted from the ids, and are embedded beside the words."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5 + 4, 3)
        self.words, self.places = nn.Embedding(9, 4, padding_idx=0), nn.Embedding(7, 2)
        self.mix, self.read = nn.Linear(6, 5), nn.Linear(3, 4)

    def forward(self, ids: Tensor, numbers: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
        places = self.places(ids.ne(0).long().cumsum(1) * ids.ne(0))
        h = F.relu(self.mix(torch.cat([self.words(ids), places], -1)))
        h = (h * mask[:, :, None]).sum(1)
        return self.head(torch.cat([h, F.relu(self.read(numbers))], 1)) * scale


def input_cases() -> dict[str, Case]:
    generator = torch.Generator().manual_seed(3)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    streams = trained(TwoStreams, generator)
    image, row = numbers(3, 2, 6, 6), numbers(3, 5)
    ways = [both("look.0"), both("read.0"), both("head")]
    mixed = {"mask": IDS.ne(0), "numbers": numbers(3, 3), "ids": IDS, "scale": 2.0}
    return {
        "tuple": Case(streams, (image, row), ways, RULES),
        "dict": Case(streams, {"row": row, "image": image, "scale": 0.5}, ways, RULES),
        "ids": Case(trained(Tokens, generator), IDS, [
            ["words.weight", "places.weight", *both("norm")], both("mix"), both("head")], TOKENS),
        "ids beside numbers": Case(trained(Mixed, generator), mixed, [
            ["words.weight"], ["places.weight"], both("mix"), both("read"), both("head")], TOKENS),
    }  # fmt: skip
