"""Every score of faithfulness against naive loops, and the laws that hold whatever the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle_faithfulness as oracle
from torch import Tensor, nn

import salience
from salience import Cascade, Removal, SalienceError
from salience._faithfulness.effects import random_sets
from salience._faithfulness.grid import grid_of
from salience._faithfulness.scores import SCORES


def scored(*args: Any, **options: Any) -> xarray.Dataset:
    """The dataset of a test without untrained networks, unless they are asked for."""
    return salience.faithfulness(*args, **{"cascade": None, "progress": False, **options}).data


def image_net() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 7, 3))
    return nn.Sequential(*layers).double().eval()


def series_net() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv1d(2, 4, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(4 * 11, 3))
    return nn.Sequential(*layers).double().eval()


def volume_net() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4 * 5 * 4, 3))
    return nn.Sequential(*layers).double().eval()


def table_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()


NETS = {
    "image": (image_net, (2, 6, 7), 2, 3),
    "series": (series_net, (2, 11), 2, 5),
    "volume": (volume_net, (1, 4, 5, 4), 2, 2),
    "table": (table_net, (7,), 1, 1),
}  # fmt: skip


def data(shape: tuple[int, ...], count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def as_channels(one: Tensor) -> np.ndarray:
    return (one if one.ndim > 1 else one[None]).numpy()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("kind", NETS)
def test_a_score_is_its_formula(kind: str, score: str):
    make, shape, cell, window = NETS[kind]
    net, x = make(), data(shape)
    removal = Removal(cell=cell, window=window, replacement="mean", subsets=9, steps=4, share=0.4)
    found = scored(net, x, ["gradient", "lrp_epsilon"], 1, removal, scores=[score])
    found = found[f"faithful_{score}"]
    maps = salience.explain(net, x, ["gradient", "lrp_epsilon"], 1)
    mean = as_channels(x.mean(0))
    what = SCORES[score]
    for name in ("gradient", "lrp_epsilon"):
        for n in range(len(x)):
            one, here = as_channels(maps[name][n]), as_channels(x[n])

            def target(image: np.ndarray) -> float:
                with torch.no_grad():
                    return float(net(torch.from_numpy(image).view(1, *shape))[0, 1])

            expected = expectation(what, one, here, mean, target, cell, window)
            got = float(found.sel(candidate=name, sample=n))
            assert got == pytest.approx(expected, rel=1e-9, abs=1e-9), (name, n)


def expectation(what, one, here, mean, target, cell, window) -> float:
    absolute = what.sign == "absolute"
    space = here.shape[1:]
    cells = list(oracle.cells(space, cell))
    if what.of == "places":
        masks = list(oracle.cells(space, cell, window))
        effects = np.abs(oracle.drops(target, here, masks, mean))
        return oracle.at_places(what.how, one, effects, masks)
    if what.of == "deletion":
        masks = list(oracle.cells(space, cell, window))
    elif what.of == "subsets":
        chosen = random_sets(len(cells), 9, 0.4, 0).numpy()
        masks = [np.any([c for c, in_ in zip(cells, row, strict=True) if in_], 0) for row in chosen]
    else:
        order = np.argsort(-oracle.sums(one, cells, absolute), kind="stable")
        most = [cells[k] for k in order]
        areas = {
            "most": oracle.area(target, here, most, mean, 4),
            "least": oracle.area(target, here, most[::-1], mean, 4),
        }
        return areas.get(what.how, areas["least"] - areas["most"])
    effects = oracle.drops(target, here, masks, mean)
    effects = np.abs(effects) if absolute else effects
    return oracle.correlation(what.how, effects, oracle.sums(one, masks, absolute))


def test_random_sets_are_of_one_size_and_of_the_seed_alone():
    sets = random_sets(40, 200, 0.25, 3)
    assert sets.sum(1).tolist() == [10] * 200
    assert len(random_sets(5, 99, 0.4, 0)) == 10  # all there are
    assert torch.equal(sets, random_sets(40, 200, 0.25, 3))
    assert not torch.equal(sets, random_sets(40, 200, 0.25, 4))
    assert sets.sum(0).min() > 25 and sets.sum(0).max() < 75  # each cell as often as another


@settings(max_examples=30, deadline=None)
@given(
    space=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    cell=st.integers(1, 4),
    more=st.integers(0, 3),
)
def test_a_grid_sums_what_its_masks_show(space: list[int], cell: int, more: int):
    cells = [min(cell, size) for size in space]
    windows = [min(c + more, size) for c, size in zip(cells, space, strict=True)]
    grid = grid_of(space, cells, windows, neighbors=True)
    values = torch.randn(2, *space, dtype=torch.float64)
    masks = grid.windows(slice(None), torch.device("cpu"))
    by_hand = torch.stack([(values * mask).flatten(1).sum(1) for mask in masks], 1)
    torch.testing.assert_close(grid.in_windows(values), by_hand)
    each = grid.positions(torch.eye(grid.count, dtype=torch.bool))
    by_hand = torch.stack([(values * mask).flatten(1).sum(1) for mask in each], 1)
    torch.testing.assert_close(grid.in_cells(values), by_hand)
    assert torch.equal(each.sum(0), torch.ones(space, dtype=torch.long))  # a partition
    assert bool((masks.flatten(1) >= each.flatten(1)).all())  # a window holds its cell
    effects = torch.rand(2, grid.count, dtype=torch.float64)
    total = (effects @ masks.double().flatten(1)).view(2, *space)
    torch.testing.assert_close(grid.over_positions(effects), total / masks.sum(0))


def test_a_window_that_nobody_gave_is_three_cells_wide_where_there_are_neighbors():
    assert grid_of((32, 32), None, None, neighbors=True).window == (6, 6)
    assert grid_of((4, 32), 2, None, neighbors=True).window == (4, 6)
    assert grid_of((16,), None, None, neighbors=False).window == (1,)


def test_occlusion_tells_its_own_effects():
    net, x = image_net(), data((2, 6, 7))
    removal = Removal(cell=2, window=3, subsets=16)
    study = scored(net, x, "gradient", 0, removal)
    found = study.sel(candidate="occlusion")
    for name in ("signed_pearson", "signed_spearman", "absolute_pearson", "absolute_spearman"):
        assert found[f"faithful_deletion_{name}"].values == pytest.approx(1, abs=1e-12)


def test_a_linear_model_is_told_by_its_contributions():
    """What is removed of a linear model is what input x gradient less its baseline says."""
    net = nn.Linear(7, 2).double().eval()
    x = data((7,), 20)
    x = x - x.mean(0)
    study = scored(net, x, "input_x_gradient", 1)
    found = study.sel(candidate="input_x_gradient")
    for name in ("deletion_signed_pearson", "subsets_signed_pearson"):
        assert found[f"faithful_{name}"].values == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("methods", [["gradient"], ["gradient", "lrp_epsilon", "guided_backprop"]])
def test_passes_are_counted_exactly(methods: list[str]):
    net, x = image_net(), data((2, 6, 7), 5)
    seen: list[int] = []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return self.net(x)

    def passes(score: str) -> int:
        seen.clear()
        removal = Removal(cell=2, subsets=7, steps=4)
        scored(Counted().eval(), x, methods, 0, removal, scores=[score])
        return sum(seen)

    plan, record = 1, len(x)  # samples that are recorded
    assert passes("deletion_signed_pearson") == plan + record + len(x) * (12 + 1)
    assert passes("subsets_signed_pearson") == plan + record + len(x) * (7 + 2)
    curves = len(methods) + 3  # and three controls
    assert passes("srg") == plan + record + len(x) * (1 + 2 * 4 * curves)


def test_untrained_maps_are_those_at_the_end_of_the_cascade():
    net, x = image_net(), data((2, 6, 7))
    cascade = Cascade(repeats=2, seed=4)
    removal = Removal(cell=2, subsets=9)
    study = scored(net, x, "lrp_epsilon", 1, removal, cascade=cascade)
    test = salience.randomization_test(
        net, x, "lrp_epsilon", 1, cascade, keep_maps=3, controls=False, progress=False
    )
    random = test.data.maps.sel(map_method="lrp_epsilon").isel(map_stage=-1).values
    given_ = {"theirs": torch.from_numpy(random)}
    theirs = scored(net, x, given_, 1, removal)
    for score in ("deletion_signed_spearman", "subsets_absolute_pearson"):
        ours = study[f"untrained_{score}"].sel(candidate="lrp_epsilon").isel(network=0)
        held = theirs[f"faithful_{score}"].sel(candidate="theirs")
        assert ours.values == pytest.approx(held.values, abs=1e-5)  # maps are kept as float32


def test_results_are_the_same_twice_and_in_any_batches():
    net, x = image_net(), data((2, 6, 7), 5)
    removal = Removal(cell=2, subsets=9, steps=3)

    def run(size: int | None):
        return scored(
            net, x, ["gradient", "smoothgrad"], "argmax", removal, scores=list(SCORES),
            cascade=Cascade(repeats=2), batch_size=size, 
        )  # fmt: skip

    first = run(None)
    assert first.identical(run(None))
    for name, held in run(2).data_vars.items():
        np.testing.assert_allclose(held.values, first[name].values, rtol=1e-9, atol=1e-9)


def test_maps_of_others_are_scored_with_and_without_channels():
    net, x = image_net(), data((2, 6, 7))
    own = salience.explain(net, x, "gradient", 0)["gradient"]
    given_ = {"whole": own, "flat": own.sum(1).numpy(), "gradient": "gradient"}
    removal = Removal(cell=2, subsets=9)
    data_ = scored(net, x, given_, 0, removal)
    found = data_.faithful_deletion_signed_pearson
    assert found.sel(candidate="whole").values == pytest.approx(found.sel(candidate="gradient"))
    assert found.sel(candidate="flat").values == pytest.approx(found.sel(candidate="gradient"))
    assert data_.candidate_role.sel(candidate="flat") == "method"


def test_the_model_stays_as_it_was():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(7, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x) + torch.rand(())

    net, x = Counting().eval(), data((7,)).float()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    scored(net, x, "gradient", 0, Removal(subsets=5))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cell": 9}, "at most 7"),
        ({"cell": 0}, "cell"),
        ({"cell": 3, "window": 2}, "window at least as large"),
        ({"cell": 4}, "at least three cells"),
        ({"replacement": "blurr"}, "blur"),
        ({"replacement": "blur"}, "no neighbours"),
        ({"share": 1.0}, "share"),
        ({"subsets": 1}, "subsets"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], told: str):
    def ask() -> object:
        return scored(table_net(), data((7,)), "gradient", 0, Removal(**options))

    with pytest.raises(SalienceError, match=told):
        ask()


def test_two_inputs_are_refused_in_words():
    net = nn.Bilinear(3, 4, 2).eval()
    x = (torch.randn(4, 3), torch.randn(4, 4))
    with pytest.raises(SalienceError, match="one explained input"):
        scored(net, x, "gradient", 0, progress=False)


def test_how_much_a_random_part_takes_away_is_told():
    """Of a sum, a quarter of the cells is a quarter of the effect."""
    x, net = torch.ones(3, 1, 8, 8), nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    nn.init.constant_(net[1].weight, 1.0)
    study = salience.faithfulness(
        net.eval(), x, "gradient", 0, Removal(cell=1, replacement=0), cascade=None, progress=False
    )
    told = study.faithfulness().told
    assert "a random 25% of the cells changes the target by 25% of what all of them do" in told


def test_the_map_for_another_target_is_compared():
    net, x = image_net(), data((2, 6, 7))
    found = scored(net, x, "lrp_epsilon", "argmax", Removal(cell=2, subsets=5))
    first = net(x).argmax(1)
    second = net(x).detach().scatter(1, first[:, None], -torch.inf).argmax(1)
    maps = [salience.explain(net, x, "lrp_epsilon", t)["lrp_epsilon"] for t in (first, second)]
    expected = salience.similarities["spearman_abs"](*maps)
    got = found.other_target.sel(candidate="lrp_epsilon").values
    assert got == pytest.approx(expected.numpy(), abs=1e-12)
    assert np.isnan(found.other_target.sel(candidate="input").values).all()


def test_effects_on_probabilities_leave_maps_as_they_are():
    """Trained and untrained maps are of the same outputs, whatever the effects are measured on."""
    net, x = image_net(), data((2, 6, 7))
    cascade = Cascade(repeats=1, seed=4)
    removal = Removal(cell=2, subsets=9, probability=True)
    ours = scored(net, x, "lrp_epsilon", 1, removal, cascade=cascade)
    test = salience.randomization_test(
        net, x, "lrp_epsilon", 1, cascade, keep_maps=3, controls=False, progress=False
    )
    kept = test.data.maps.sel(map_method="lrp_epsilon")
    given_ = {n: torch.from_numpy(kept.isel(map_stage=k).values) for n, k in (("a", 0), ("b", -1))}
    theirs = scored(net, x, given_, 1, removal)
    score = "deletion_signed_pearson"
    trained = ours[f"faithful_{score}"].sel(candidate="lrp_epsilon").values
    random = ours[f"untrained_{score}"].sel(candidate="lrp_epsilon").isel(network=0).values
    assert trained == pytest.approx(theirs[f"faithful_{score}"].sel(candidate="a"), abs=1e-5)
    assert random == pytest.approx(theirs[f"faithful_{score}"].sel(candidate="b"), abs=1e-5)
    plain = net(x).softmax(1)[:, 1].detach()
    assert ours.target_value.values == pytest.approx(plain.numpy())


@pytest.mark.parametrize("replacement", [None, 0])
def test_tokens_that_two_tables_embed(replacement: float | None):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Embedding(9, 4), nn.Embedding(9, 4)
            self.head = nn.Linear(20, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head((self.one(ids) + self.two(ids)).flatten(1))

    net, ids = (
        Twice().eval(),
        torch.randint(1, 9, (4, 5), generator=torch.Generator().manual_seed(1)),
    )
    removal = Removal(replacement=replacement, subsets=5)
    found = scored(net, ids, "input_x_gradient", 1, removal)
    if replacement is not None:  # what id 0 in the place of a token does, by hand
        with torch.no_grad():
            for k in range(5):
                other = ids.clone()
                other[:, k] = 0
                drop = net(ids)[:, 1] - net(other)[:, 1]
                got = found.deletion_effect.values[:, k]
                assert got == pytest.approx(drop.numpy(), abs=1e-6)
    else:  # the mean embedding of all tokens, of each table
        drop = found.deletion_effect.values
        tables = [net.one, net.two]
        means = [table(ids).mean((0, 1)) for table in tables]
        with torch.no_grad():
            for k in range(5):
                parts = [table(ids) for table in tables]
                for part, mean in zip(parts, means, strict=True):
                    part[:, k] = mean
                after = net.head(sum(parts).flatten(1))[:, 1]
                expected = (net(ids)[:, 1] - after).numpy()
                assert drop[:, k] == pytest.approx(expected, abs=1e-6)


def test_one_row_of_a_table_has_no_mean_to_be_replaced_by():
    with pytest.raises(SalienceError, match="two samples or more"):
        scored(table_net(), data((7,), 1), "gradient", 0)
