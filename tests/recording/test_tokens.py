"""Models of token ids: the map lies at the embedding. Oracle: autograd with the table taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from chosen import with_error
from closeness import within
from torch import Tensor, nn

import salience
from salience import SalienceError
from salience._randomization.cascade import randomized_tapes
from salience._recording.linear_maps import Weights
from salience._recording.replay import replay
from salience._recording.run import run_pass
from salience._tape.tape import Tape

SINGLE = [name for name, method in salience.methods.items() if method.single_pass]
IDS = torch.tensor([[3, 1, 4, 1, 5, 0], [2, 6, 5, 3, 5, 8]])
WORDS, WIDTH = 9, 4


close = within(1e-10)


class Text(nn.Module):
    """Embed, mix neighbours, and score the masked mean."""

    def __init__(self, look_up: Callable[[Text, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.places = nn.Embedding(12, WIDTH)
        self.mix, self.head = nn.Conv1d(WIDTH, 5, 3, padding=1), nn.Linear(5, 3)
        self.register_buffer("table", torch.randn(WORDS, WIDTH))
        self.look_up = look_up or (lambda net, ids: net.words(ids))
        self.double().eval()

    def scores(self, embedded: Tensor, ids: Tensor) -> Tensor:
        h = F.relu(self.mix(embedded.mT))  # (B, 5, T)
        mask = (ids != 0).to(h)[:, None]
        return self.head((h * mask).sum(-1) / mask.sum(-1))

    def forward(self, ids: Tensor, attention: Tensor | None = None) -> Tensor:
        return self.scores(self.look_up(self, ids), ids)


def gradient_at(net: Text, embedded: Tensor, ids: Tensor, target: int = 1) -> Tensor:
    leaf = embedded.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net.scores(leaf, ids)[:, target].sum(), leaf)
    return gradient


def written(ids: Tensor) -> Tensor:
    copy = ids.new_zeros(ids.shape)
    copy[:, :3] = ids[:, :3].clone()
    copy[:, 3:].copy_(ids[:, 3:])
    return copy


SPELLINGS: dict[str, Callable[[Text, Tensor], Tensor]] = {
    "module": lambda net, ids: net.words(ids),
    "function": lambda net, ids: F.embedding(ids, net.words.weight),
    "keywords": lambda net, ids: F.embedding(input=ids, weight=net.words.weight),
    "index": lambda net, ids: net.words.weight[ids],
    "index and slice": lambda net, ids: net.words.weight[ids, :],
    "index_select": lambda net, ids: torch.stack(
        [net.words.weight.index_select(0, ids[:, t]) for t in range(ids.shape[1])], 1),
    "int32": lambda net, ids: net.words(ids.int()),
    "written": lambda net, ids: net.words(written(ids)),
    "arithmetic": lambda net, ids: net.words((ids + 7).clamp(0, 20) - 7),
    "where": lambda net, ids: net.words(torch.where(ids > 100, 0, ids)),
    "seq first": lambda net, ids: net.words(ids.t()).transpose(0, 1),
    "seq first, copied": lambda net, ids: net.words(ids.mT.contiguous()).permute(1, 0, 2),
    "reshaped and back": lambda net, ids: net.words(ids.view(-1).view(ids.shape)),
    "flat": lambda net, ids: net.words(ids.view(-1)).view(*ids.shape, WIDTH),
    "parts": lambda net, ids: torch.cat([net.words(part) for part in ids.split(6, 1)], 1),
    "buffer": lambda net, ids: net.table[ids],
    "one hot": lambda net, ids: torch.eye(WORDS).double()[ids] @ net.words.weight,
}  # fmt: skip


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_an_embedding_has_its_gradient(name: str, square: bool):
    net = Text(SPELLINGS[name])
    ids = torch.randint(0, WORDS, (6, 6)) if square else IDS
    tape = salience.record(net, ids)
    assert torch.equal(tape.output, net(ids))
    ours = tape.explain("gradient", target=1)
    if name == "index_select":  # six embeddings (B, D)
        close(torch.stack(ours, 1), gradient_at(net, net.words(ids), ids))
        return
    if name == "one hot":
        embedded = net.words.weight[ids]
        close(ours, gradient_at(net, embedded, ids) @ net.words.weight.detach().T)
        return
    embedded = net.table[ids] if name == "buffer" else net.words(ids)
    fact = gradient_at(net, embedded, ids)
    close(ours, fact)
    close(tape.explain("input_x_gradient", target=1), fact * embedded.detach())
    close(tape.explain("lrp_epsilon", target=1, eps=0.0), fact * embedded.detach())


def test_words_of_letters_that_are_embedded_as_one_batch():
    net = Text(lambda net, ids: net.words(ids.view(-1, 3)).view(len(ids), -1, WIDTH))
    tape = salience.record(net, IDS)
    fact = gradient_at(net, net.words(IDS), IDS)
    close(tape.explain("gradient", target=1), fact.view(2, 2, 3, WIDTH))
    base = tape.explain("smoothgrad", target=1, n=3, noise=0.0)
    close(base, fact.view(2, 2, 3, WIDTH))


POSITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "arange": lambda ids: torch.arange(ids.shape[1]).expand_as(ids),
    "zeros_like": lambda ids: torch.zeros_like(ids),
    "counted": lambda ids: (ids.ne(0).int().cumsum(1) * ids.ne(0)).long(),
    "argmax": lambda ids: ids.argmax(1)[:, None],
    "typed": lambda ids: torch.arange(6).type_as(ids)[None],
}


@pytest.mark.parametrize("name", POSITIONS)
def test_embedded_positions_are_constants(name: str):
    def look_up(net: Text, ids: Tensor) -> Tensor:
        return net.words(ids) + net.places(POSITIONS[name](ids))

    net = Text(look_up)
    map = salience.record(net, IDS).explain("gradient", target=1)
    assert isinstance(map, Tensor)  # of one embedding
    close(map, gradient_at(net, look_up(net, IDS), IDS))


def test_relevance_of_tokens_adds_up_and_a_padded_one_gets_what_its_neighbor_reads():
    net = Text()
    nn.init.zeros_(net.mix.bias), nn.init.zeros_(net.head.bias)
    map, error = with_error(salience.record(net, IDS), "lrp_epsilon", 1, eps=0.0)
    close(map.sum(-1).sum(-1), net(IDS)[:, 1].detach())
    assert float(error.max()) < 1e-9
    assert map.sum(-1).shape == IDS.shape
    assert float(map[0, 5].abs().max()) == 0  # the padding's row of the table is 0


def test_smoothgrad_adds_noise_to_the_embedding():
    net = Text()
    embedded = net.words(IDS).detach()
    map = salience.record(net, IDS).explain("smoothgrad", target=1, n=25, noise=0.4, seed=2)
    generator = torch.Generator().manual_seed(2)
    flat = embedded.flatten(1)
    s = 0.4 * (flat.max(1).values - flat.min(1).values)[:, None, None]
    draws = [torch.randn(embedded.shape[1:], generator=generator).double() for _ in range(25)]
    close(map, torch.stack([gradient_at(net, embedded + s * e, IDS) for e in draws]).mean(0))


@pytest.mark.parametrize("baseline", [0.0, "padding"])
def test_integrated_gradients_go_from_a_baseline_to_the_embedding(baseline: Any):
    net = Text()
    with torch.no_grad():
        net.words.weight[0].normal_()
    embedded = net.words(IDS).detach()
    begin = net.words.weight[0].detach() if baseline == "padding" else torch.zeros(WIDTH).double()
    given = begin if baseline == "padding" else baseline
    own = {"baseline": given, "tol": 0, "max_steps": 4}
    map, error = with_error(salience.record(net, IDS), "integrated_gradients", 1, **own)
    steps = [begin + (k + 0.5) / 4 * (embedded - begin) for k in range(4)]
    mean = torch.stack([gradient_at(net, step, IDS) for step in steps]).mean(0)
    close(map, (embedded - begin) * mean)
    difference = net.scores(embedded, IDS) - net.scores(begin.expand_as(embedded), IDS)
    total = map.sum((1, 2))
    missing = (total - difference[:, 1].detach()) / difference[:, 1].detach()
    close(error, missing.abs(), 1e-8)


class Pairs(nn.Module):
    """Numbers, ids that two tables read, and ids that none reads."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = nn.Embedding(3, 4), nn.Embedding(9, 4)
        self.head = nn.Linear(8 + 2, 3)
        self.double().eval()

    def forward(self, kind: Tensor, numbers: Tensor, count: Tensor) -> Tensor:
        parts = [self.coarse(kind // 3), self.fine(kind), numbers]
        return self.head(torch.cat(parts, 1)) / count[:, None]


def test_ids_that_several_embeddings_read_beside_numbers():
    net, kind = Pairs(), torch.tensor([4, 7, 0])
    numbers, count = torch.randn(3, 2).double(), torch.tensor([1, 2, 4])
    weight = net.head.weight[2].detach()
    x = {"kind": kind, "numbers": numbers, "count": count}
    for given in (x, tuple(x.values())):
        maps = salience.explain(net, given, ["gradient"], target=2, batch_size=2)["gradient"]
        if isinstance(given, tuple):
            assert maps[2] is None
            maps = dict(zip(x, maps, strict=False)) | {}
            del maps["count"]
        assert list(maps) == ["kind", "numbers"]  # no embedding reads count
        (coarse, fine), own = maps["kind"], maps["numbers"]
        for map, part in ((coarse, weight[:4]), (fine, weight[4:8]), (own, weight[8:])):
            close(map, part / count[:, None])
    tape = salience.record(net, x)
    maps, error = with_error(tape, "lrp_epsilon", 2, eps=0.0)
    total = maps["kind"][0].sum(1) + maps["kind"][1].sum(1) + maps["numbers"].sum(1)
    lost = (net.head.bias[2] / count / tape.output[:, 2]).detach()
    close(error, lost.abs(), 1e-9)
    close((total / tape.output[:, 2]), 1 - lost)


def test_a_bag_of_words_has_its_map_at_the_bag():
    net = nn.Sequential(nn.EmbeddingBag(WORDS, WIDTH), nn.Linear(WIDTH, 3)).double().eval()
    map = salience.record(net, IDS).explain("gradient", target=2)
    close(map, net[1].weight[2].detach().expand(2, -1))


@pytest.mark.parametrize("method", SINGLE)
def test_replay_with_another_table_equals_a_new_pass(method: str):
    def look_up(net: Text, ids: Tensor) -> Tensor:
        return net.words(ids.t()).transpose(0, 1) + net.places(torch.arange(6))

    net = Text(look_up)
    tape = Tape(run_pass(net, IDS, keep=True))
    index = next(i for i, name in tape.recording.trace.parameters.items() if name == "words.weight")
    new = torch.randn(WORDS, WIDTH).double()
    replayed = Tape(replay(tape.recording, {index: new}, Weights(), lambda: None))
    with torch.no_grad():
        net.words.weight.copy_(new)
    close(replayed.explain(method, target=1), Tape(run_pass(net, IDS)).explain(method, target=1))


def test_a_cascade_randomizes_the_embedding_as_a_stage():
    net = Text()
    tape = Tape(run_pass(net, IDS, keep=True))
    tapes = [
        t for _, t in randomized_tapes(net, tape, salience.Cascade(weights="normal"), 0, {0, 1, 2})
    ]
    assert len(tapes) == 3
    embedded = [t.leaves[0].tensor for t in (tape, *tapes)]
    assert torch.equal(embedded[0], embedded[1]) and torch.equal(embedded[0], embedded[2])
    assert not torch.equal(embedded[0], embedded[3])
    for changed in tapes:  # passes of their own begin at the same embeddings
        base = changed.explain("smoothgrad", target=1, n=1, noise=0.0)
        close(base, changed.explain("gradient", target=1))
        value = torch.randn(6, *embedded[0].shape[1:]).double()
        there = changed.again(value)
        assert torch.equal(there.leaves[0].tensor, value)
        assert torch.equal(there.x, IDS.repeat(3, 1))


def test_nothing_of_the_user_is_touched():
    net = Text(lambda net, ids: net.words(ids.clamp_(max=4)).mul_(2))
    ids, state = IDS.clone(), {k: v.clone() for k, v in net.state_dict().items()}
    salience.explain(net, ids, ["gradient", "lrp_epsilon", "smoothgrad"], target=0)
    assert torch.equal(ids, IDS)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert set(vars(ids)) == set()


def stacked(net: Text, ids: Tensor) -> Tensor:
    return net.words(torch.cat([ids, ids])).unflatten(0, (2, -1)).sum(0)


FAILURES: dict[str, tuple[Any, Any, str]] = {
    "stacked": (Text(stacked), IDS, r"embeddings \(2, ...\) of 2 samples; got \(4, 6, 4\). Embed"),
    "no such word": (Text(), IDS + 90, "rows for; got ids from 90 to 98"),
    "no embedding": (nn.Linear(6, 2).eval(), IDS, "got torch.int64 that no embedding reads"),
    "bool": (Text(), IDS > 0, "torch.bool that no embedding reads"),
    "one dimension": (Text(), IDS[0], r"input \(B, ...\); got \(6,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_explained(case: str):
    net, x, message = FAILURES[case]
    with pytest.raises(SalienceError, match=message):
        salience.record(net, x)


def test_sentences_of_several_lengths_cannot_be_joined():
    with pytest.raises(SalienceError, match=r"one shape; got \[\(4, 4\), \(6, 4\)\]. Pad"):
        salience.explain(Text(), [IDS, IDS[:, :4]], ["gradient"], target=1)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("name", ["seq first", "seq first, copied", "flat", "parts"])
def test_a_batch_of_one_has_maps_of_the_same_shape(name: str, samples: int):
    ids, net = IDS[:samples], Text(SPELLINGS[name])
    maps = salience.record(net, ids).explain("gradient", target=1)
    maps = torch.cat(maps, 1) if isinstance(maps, tuple) else maps
    assert maps.shape == (samples, 6, WIDTH)
    close(maps, gradient_at(net, net.words(ids), ids))
