"""The benchmark of known answers: its data, and its scores against naive loops."""

from __future__ import annotations

import itertools
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from ground_truth import deletions, images, ladder, localization, question, relations, rows, truth
from ground_truth.cases import CASES
from ground_truth.data import with_channels
from ground_truth.networks import HEADS

GENERATORS = {case.recipe.name: case.recipe.generate for case in CASES}


def drawn(generate, count: int = 24, seed: int = 0):
    return generate(count, Generator().manual_seed(seed))


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATORS)
def test_what_is_redrawn_lies_outside_of_the_truth_and_what_is_changed_inside(name):
    data = drawn(GENERATORS[name])
    inside = with_channels(data.truth, data.x).expand_as(data.x)
    assert torch.equal(data.redrawn[inside], data.x[inside])
    assert torch.equal(data.changed[~inside], data.x[~inside])
    for other, where in ((data.redrawn, ~inside), (data.changed, inside)):
        differs = ((other != data.x) & where).flatten(1).any(1)
        assert differs.all()
    assert data.truth.shape == data.x.shape[:1] + data.x.shape[2 if data.x.ndim > 2 else 1 :]
    part = data.truth.flatten(1).double().mean(1)
    assert (part > 0).all() and (part < 0.5).all()


@pytest.mark.parametrize("name", GENERATORS)
def test_one_stream_gives_one_set_of_samples(name):
    first, again, other = (drawn(GENERATORS[name], seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.x, other.x)


@pytest.mark.parametrize("changed", [False, True])
def test_the_truth_holds_the_glyph_of_the_class(changed):
    data = drawn(partial(images.glyph, kinds=4, contrast=1000.0))
    boxes = (data.changed if changed else data.x)[:, 0][data.truth].view(-1, 7, 7)
    same = (boxes[:, None] > 500).float() == images.GLYPHS
    assert torch.equal(
        same.flatten(2).all(2).long().argmax(1) == data.y, torch.tensor([not changed] * 24)
    )
    assert same.flatten(2).all(2).any(1).all()


def test_the_shortcut_is_the_bright_corner_where_it_is_planted():
    data = drawn(partial(images.shortcut, planted=True), 200)
    means = torch.stack([x[mask].mean() for x, mask in zip(data.x[:, 0], data.truth, strict=True)])
    assert ((means > 0).long() == data.y).double().mean() > 0.98
    corner = data.truth[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corner.sum(1) == 1).all()
    without = drawn(partial(images.shortcut, planted=False))
    assert not without.truth[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_the_truth_of_a_table_makes_its_values():
    data = drawn(rows.table)
    causes = torch.stack([data.x[:, (cause == rows.PLACES).nonzero()[0, 0]] for cause in range(4)])
    for sample in range(len(data.x)):
        a, b, c, d = causes[:, sample].tolist()
        value = a * b + math.sin(2 * c) + 1.5 * abs(d)
        assert data.y[sample].item() == pytest.approx(value, abs=1e-5)
    assert torch.equal(data.truth[0].nonzero()[:, 0], (rows.PLACES < 4).nonzero()[:, 0])


def test_the_truth_of_a_switch_is_the_branch_that_is_taken():
    data = drawn(rows.switch)
    for x, y, mask in zip(data.x, data.y, data.truth, strict=True):
        own = {int(rows.PLACES[place]): float(x[place]) for place in mask.nonzero()[:, 0]}
        branch = {1, 2} if own.pop(0) > 0 else {3, 4}
        assert own.keys() == branch
        assert (sum(own.values()) > 0) == bool(y)


def test_the_truth_of_tokens_is_the_word_and_its_mark():
    data = drawn(rows.marked)
    found = data.x.transpose(1, 2)[data.truth].view(-1, 2, rows.WIDTH)
    assert torch.equal(found[:, 0], rows.EMBEDDING[2].expand(24, -1))
    assert torch.equal(found[:, 1], rows.EMBEDDING[data.y])
    data = drawn(rows.word)
    assert torch.equal(data.x.transpose(1, 2)[data.truth], rows.EMBEDDING[data.y])


def test_the_truth_of_relations_is_both_of_its_parts():
    data = drawn(relations.equal)
    words = data.x.transpose(1, 2)[data.truth].view(-1, 2, rows.WIDTH)
    assert torch.equal((words[:, 0] == words[:, 1]).all(1).long(), data.y)
    data = drawn(relations.product)
    assert torch.equal((data.x[data.truth].view(-1, 2).prod(1) > 0).long(), data.y)
    data = drawn(relations.twice)
    assert (data.truth.flatten(1).sum(1) == 2 * 7 * 7).all()
    for x, y, mask in zip(data.x[:, 0], data.y, data.truth, strict=True):
        shape = images.GLYPHS[y]
        corners = torch.nn.functional.unfold(mask[None, None].float(), 7)[0].sum(0) == 49
        places = torch.nn.functional.unfold(x[None, None], 7)[0].T[corners].view(-1, 7, 7)
        assert len(places) == 2
        assert ((places * shape).sum((1, 2)) / shape.sum() > 1).all()


def test_interventions_tell_a_true_truth_from_a_false_one():
    data = drawn(images.region)
    weights = torch.zeros(1, 24, 24)
    weights[:, 6:14, 10:18] = torch.randn(8, 8, generator=Generator().manual_seed(1))
    network = nn.Sequential(nn.Flatten(), nn.Linear(576, 1, bias=False))
    network[1].weight.data = weights.flatten(1)
    target = torch.zeros(24, dtype=torch.long)
    found = truth.interventions(network, data, target, 8.0)
    assert found["outside"] == 0
    assert found["inside"] > 1
    changes = [
        (network(b) - network(a)).item() ** 2
        for a, b in zip(data.x[:, None], data.changed[:, None], strict=True)
    ]
    assert found["inside"] == pytest.approx(math.sqrt(sum(changes) / 24) / 8, rel=1e-4)


# -- localisation ---------------------------------------------------------------------------------


def naive_auc(heights: list[float], mask: list[bool]) -> float:
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, own in zip(heights, mask, strict=True)
        for b, other in zip(heights, mask, strict=True)
        if own and not other
    ]
    return sum(wins) / len(wins)


def some_maps(*shape: int) -> dict[str, Tensor]:
    generator = Generator().manual_seed(4)
    plain = torch.randn(shape, generator=generator)
    return {"plain": plain, "tied": plain.round(), "zero": torch.zeros(shape)}


def some_truth(*shape: int) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, 1:4] = True
    return mask


@pytest.mark.parametrize("positive", ["", " positive"])
def test_localization_is_that_of_naive_loops(positive: str):
    maps, mask = some_maps(3, 2, 6, 5), some_truth(3, 6, 5)
    auc = localization.SCORES[f"auc{positive}"](maps, mask)
    mass = localization.SCORES[f"mass{positive}"](maps, mask)
    for (row, held), sample in itertools.product(enumerate(maps.values()), range(3)):
        values = held[sample].double()
        values = values.sum(0).clamp(min=0) if positive else values.abs().sum(0)
        heights, inside = values.flatten().tolist(), mask[sample].flatten().tolist()
        assert auc[row, sample].item() == pytest.approx(naive_auc(heights, inside), abs=1e-12)
        total = sum(heights)
        share = (
            sum(h for h, own in zip(heights, inside, strict=True) if own) / total
            if total
            else math.nan
        )
        assert mass[row, sample].item() == pytest.approx(share, abs=1e-12, nan_ok=True)


def test_localization_in_cells_is_that_of_naive_loops():
    maps = {"plain": torch.randn(2, 1, 24, 24, generator=Generator().manual_seed(0))}
    mask = torch.zeros(2, 24, 24, dtype=torch.bool)
    mask[:, 5:13, 3:9] = True
    found = localization.SCORES["auc of cells"](maps, mask)
    for sample in range(2):
        heights, inside = [], []
        for down, right in itertools.product(range(0, 24, 4), repeat=2):
            cell = (sample, slice(down, down + 4), slice(right, right + 4))
            heights.append(abs(maps["plain"][:, 0][cell].double().sum().item()))
            inside.append(mask[cell].sum().item() >= 8)
        assert found[0, sample].item() == pytest.approx(naive_auc(heights, inside), abs=1e-12)


# -- deletions ------------------------------------------------------------------------------------


def linear_question(*shape: int) -> tuple[question.Question, Tensor]:
    """Inputs (4, *shape) of a linear network, and its weights (*shape)."""
    generator = Generator().manual_seed(5)
    x = torch.randn(4, *shape, generator=generator).double()
    others = torch.randn(2, 4, *shape, generator=generator).double()
    mean = torch.randn(shape, generator=generator).double()
    network = nn.Sequential(nn.Flatten(), nn.Linear(mean.numel(), 2).double())
    network[1].weight.data = torch.randn(2, mean.numel(), generator=generator).double()
    asked = question.Question(network, x, torch.ones(4, dtype=torch.long), mean, others, scale=2.0)
    return asked, network[1].weight.data[1].view(shape)


@pytest.mark.parametrize(
    ("shape", "kind", "count"),
    [((1, 24, 28), "cells", 42), ((1, 24, 28), "windows", 120), ((3, 32), "windows", 14),
     ((7,), "cells", 7), ((7,), "windows", 7), ((5, 9), "cells", 9)],
)  # fmt: skip
def test_parts_are_all_squares_of_a_grid_or_sliding_over_it(shape, kind, count):
    asked, _ = linear_question(*shape)
    parts = question.regions(asked, kind)
    space = shape[1:] or shape
    side, stride = ((4, 4) if kind == "cells" else (6, 2)) if space[-1] >= 24 else (1, 1)
    naive = set()
    for start in itertools.product(*(range(0, size - side + 1, stride) for size in space)):
        mask = torch.zeros(space)
        mask[tuple(slice(s, s + side) for s in start)] = 1
        naive.add(tuple(mask.flatten().tolist()))
    assert len(parts) == count
    assert {tuple(part) for part in parts.tolist()} == naive


def test_subsets_are_unions_of_as_many_cells_each():
    asked, _ = linear_question(1, 24, 24)
    parts = question.regions(asked, "subsets-0.25").view(-1, 6, 4, 6, 4)
    assert torch.equal(parts, parts[:, :, :1, :, :1].expand_as(parts))
    assert (parts[:, :, 0, :, 0].sum((1, 2)) == 9).all()
    assert len({tuple(p) for p in parts.flatten(1).tolist()}) > 190


@pytest.mark.parametrize("replaced", ["mean", "others"])
def test_drops_of_a_linear_network_are_sums_of_its_terms(replaced):
    asked, weights = linear_question(2, 32)
    instead = asked.mean.expand_as(asked.x)[None] if replaced == "mean" else asked.others
    terms = (weights * (asked.x - instead)).sum(2)  # (draws, 4, 32)
    found = question.effects(asked, "windows", replaced)
    for sample, (part, start) in itertools.product(range(4), enumerate(range(0, 27, 2))):
        falls = [sum(draw[sample, start : start + 6].tolist()) for draw in terms]
        drop, magnitude = (sum(map(f, falls)) / len(falls) for f in (float, abs))
        assert found.drop[sample, part].item() == pytest.approx(drop, abs=1e-9)
        assert found.magnitude[sample, part].item() == pytest.approx(magnitude, abs=1e-9)


@pytest.mark.parametrize("parts", ["cells", "windows", "subsets-0.5"])
def test_the_terms_of_a_linear_network_tell_all_that_deletion_does(parts):
    asked, weights = linear_question(1, 24, 24)
    right = weights * (asked.x - asked.mean)
    found = deletions.correlations(asked, {"right": right, "wrong": -right}, parts)
    for name in ("pearson", "spearman"):
        one = torch.ones(4, dtype=torch.float64)
        torch.testing.assert_close(found[f"signed {name}"], torch.stack([one, -one]))
        assert found[f"absolute {name}"].abs().max() < 0.99


def test_correlations_are_numpys():
    asked, _ = linear_question(9)
    maps = some_maps(4, 9)
    found = deletions.correlations(asked, maps, "cells")
    drop = question.effects(asked, "cells").drop.numpy()
    plain = maps["plain"].double().numpy()
    pairs = {
        "signed": (drop, plain), "positive": (drop, plain.clip(0)),
        "absolute": (drop, abs(plain)), "magnitude": (abs(drop), abs(plain)),
    }  # fmt: skip
    for variant, (a, b) in pairs.items():
        for sample in range(4):
            naive = np.corrcoef(a[sample], b[sample])[0, 1]
            assert found[f"{variant} pearson"][0, sample].item() == pytest.approx(naive, abs=1e-9)
    assert found["signed pearson"][2].isnan().all()  # a map of zeros


def test_places_are_localization_of_what_deletion_finds():
    asked, _ = linear_question(9)
    maps = some_maps(4, 9)
    found = deletions.places(asked, maps, "cells")
    drop = question.effects(asked, "cells").drop.tolist()
    for sample, (kind, change) in itertools.product(
        range(4), (("drop", float), ("magnitude", abs))
    ):
        height = [max(change(value), 0.0) for value in drop[sample]]
        there = [h > max(height) / 2 for h in height]
        sizes = maps["plain"][sample].double().abs().tolist()
        assert found[f"auc {kind}"][0, sample].item() == pytest.approx(naive_auc(sizes, there))
        mass = sum(s for s, own in zip(sizes, there, strict=True) if own) / sum(sizes)
        assert found[f"mass {kind}"][0, sample].item() == pytest.approx(mass)
        rank = [sum(other < s for other in sizes) + 1 for s in sizes]
        soft = sum(r * h for r, h in zip(rank, height, strict=True)) / sum(height) / 9
        assert found[f"soft auc {kind}"][0, sample].item() == pytest.approx(soft)
        soft = sum(s * h for s, h in zip(sizes, height, strict=True)) / sum(sizes) / max(height)
        assert found[f"soft mass {kind}"][0, sample].item() == pytest.approx(soft)


@pytest.mark.parametrize("replaced", ["mean", "others"])
def test_curves_are_those_of_naive_loops(replaced):
    asked, weights = linear_question(1, 24, 24)
    generator = Generator().manual_seed(6)
    held = torch.randn(4, 1, 24, 24, generator=generator)
    found = deletions.curves(asked, {"first": held.flip(0), "second": held}, replaced)
    instead = asked.mean.expand_as(asked.x) if replaced == "mean" else asked.others[0]
    terms = weights * (asked.x - instead)

    def in_cells(values: Tensor) -> list[float]:
        return values[0].view(6, 4, 6, 4).sum((1, 3)).flatten().tolist()

    for sample, absolute in itertools.product(range(4), (False, True)):
        drop = in_cells(terms[sample])
        height = in_cells(held[sample].abs().double() if absolute else held[sample].double())
        order = sorted(range(36), key=height.__getitem__)

        def area(first: list[int], drop: list[float] = drop) -> float:
            gone = [math.ceil(step * 36 / 8) for step in range(1, 8)]
            return sum(-sum(drop[cell] for cell in first[:count]) for count in gone) / 7 / 2.0

        least, most = area(order), area(order[::-1])
        name = "absolute" if absolute else "signed"
        assert found[f"srg {name}"][1, sample].item() == pytest.approx(least - most, abs=1e-9)
        assert found[f"lrf {name}"][1, sample].item() == pytest.approx(least, abs=1e-9)
        assert found[f"mrf {name}"][1, sample].item() == pytest.approx(-most, abs=1e-9)


def test_occlusion_is_the_mean_drop_over_each_position():
    asked, _ = linear_question(2, 32)
    drop = question.effects(asked, "windows").drop
    found = question.occluded(asked, drop)
    assert found.shape == asked.x.shape
    for sample, place in itertools.product(range(4), range(32)):
        over = [part for part, start in enumerate(range(0, 27, 2)) if start <= place < start + 6]
        naive = sum(drop[sample, part].item() for part in over) / max(len(over), 1)
        assert found[sample, :, place].sum().item() == pytest.approx(naive, abs=1e-5)


def test_the_heads_are_logit_difference_and_probability():
    logits = torch.tensor([[2.0, -1.0]])
    assert torch.equal(HEADS["logit"]()(logits), logits)
    assert torch.equal(HEADS["difference"]()(logits), torch.tensor([[3.0, -3.0]]))
    assert HEADS["probability"]()(logits)[0, 0].item() == pytest.approx(1 / (1 + math.exp(-3)))


# -- the ladder -----------------------------------------------------------------------------------


def test_a_ladder_leads_from_the_map_to_what_knows_nothing():
    good = torch.zeros(8, 1, 16, 16)
    good[:, :, 2:6, 3:7] = 1.0
    good += 0.01 * torch.randn(good.shape, generator=Generator().manual_seed(7))
    mask = good[:, 0] > 0.5
    rungs = ladder.ladder(good, Generator().manual_seed(8))
    auc = dict(zip(rungs, localization.SCORES["auc"](rungs, mask).mean(1).tolist(), strict=True))
    mass = dict(zip(rungs, localization.SCORES["mass"](rungs, mask).mean(1).tolist(), strict=True))
    for kind in ("rough", "smooth"):
        falls = [mass[f"{kind}: {step:g}"] for step in ladder.STEPS]
        assert falls == sorted(falls, reverse=True)
        assert auc[f"{kind}: 0"] == 1
        assert auc[f"{kind}: 1"] < 0.6
    unit = good / good.std((1, 2, 3), keepdim=True)
    torch.testing.assert_close(rungs["rough: 0"], unit)
    shuffled = rungs["rough: 1"].flatten(1).sort().values
    torch.testing.assert_close(shuffled, unit.flatten(1).sort().values)
