"""`Maps`: names to tensors, slices of samples, and a file that gives back what was put into it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import salience
from salience import Maps, SalienceError, rules
from salience._study.maps import tensors_in

IDS = torch.tensor([[1, 4, 2], [3, 3, 0]])


class Texts(nn.Module):
    """Ids that one or two tables read, an image, and a mask."""

    def __init__(self, tables: int = 1) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(5, 4) for _ in range(tables))
        self.head = nn.Linear(4 + 9, 3)
        self.eval()

    def forward(self, ids: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        words = sum(table(ids) for table in self.tables) * mask[..., None]
        return self.head(torch.cat([words.mean(1), image.flatten(1)], 1))


def text(tables: int = 1) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(3)
    image = torch.randn(2, 1, 3, 3)
    return Texts(tables), {"ids": IDS, "image": image, "mask": IDS > 0}


def single() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(8, 3))
    return net.eval(), torch.randn(5, 1, 4, 4)


def words() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3))
    return net.eval(), IDS


def as_tuple() -> tuple[nn.Module, Any]:
    net, x = text()
    return net, tuple(x.values())


# bfloat16 sums to a few percent, however many gradients are taken
FREE = rules.integrated_gradients(tol=0.0, max_steps=16)

CASES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "one input": single,
    "float64": lambda: (single()[0].double(), single()[1].double()),
    "bfloat16": lambda: (single()[0].bfloat16(), single()[1].bfloat16()),
    "ids": words,
    "a dict": text,
    "a tuple": as_tuple,
    "two tables": lambda: text(2),
}


@pytest.mark.parametrize("form", ["maps.nc", "maps.zarr"])
@pytest.mark.parametrize("case", CASES)
def test_a_file_gives_back_what_was_saved(case: str, form: str, tmp_path: Path):
    net, x = CASES[case]()
    methods = ["gradient", rules.lrp_epsilon(eps=0.1), "guided_backprop", FREE]
    maps = salience.explain(net, x, methods, 1)
    assert maps.save(tmp_path / form) == tmp_path / form
    for path in (tmp_path / form, tmp_path):
        read = salience.open(path)
        assert isinstance(read, Maps) and list(read) == list(maps)
        pairs = [(maps.maps, read.maps), (maps.inputs, read.inputs), (maps.error, read.error)]
        for ours, theirs in pairs:
            assert len(tensors_in(ours)) == len(tensors_in(theirs)) > 0
            for a, b in zip(tensors_in(ours), tensors_in(theirs), strict=True):
                assert b.dtype == (torch.float32 if a.dtype == torch.bfloat16 else a.dtype)
                assert torch.equal(a.to(b.dtype), b)
        assert type(read["gradient"]) is type(maps["gradient"])
        assert torch.equal(read.output, maps.output.to(read.output.dtype))
        assert torch.equal(read.value, maps.value.to(read.value.dtype))
        assert read.error_names == maps.error_names
        assert read.parameters == maps.parameters
        assert {n: list(u) for n, u in read.uncovered.items()} == maps.uncovered


LEDGERS = ["gradient", "lrp_epsilon", "lrp_alpha_beta", FREE]


@pytest.mark.parametrize("case", CASES)
def test_ledgers_beside_maps_in_batches_slices_and_files(case: str, tmp_path: Path):
    net, x = CASES[case]()
    maps = salience.explain(net, x, LEDGERS, 1, ledger=True, batch_size=1)
    plain = salience.explain(net, x, LEDGERS, 1, batch_size=1)
    tape = salience.record(net, x)
    assert list(maps.ledger) == ["lrp_epsilon", "lrp_alpha_beta"] and not plain.ledger
    maps.save(tmp_path / "maps.nc")
    read = salience.open(tmp_path)
    assert list(read.ledger) == list(maps.ledger)
    tolerance = 0.1 if maps.value.dtype == torch.bfloat16 else 1e-4
    for name, ledger in maps.ledger.items():
        pairs = zip(tensors_in(maps[name]), tensors_in(plain[name]), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        whole, stored = tape.ledger(name, target=1), read.ledger[name]
        assert list(ledger) == list(whole) == list(stored)
        assert stored.others.keys() == ledger.others.keys()
        for ours, theirs in ((ledger, stored), (ledger.others, stored.others)):
            assert all(torch.equal(held.to(theirs[k].dtype), theirs[k]) for k, held in ours.items())
        for entry, held in whole.items():
            torch.testing.assert_close(ledger[entry], held, rtol=tolerance, atol=tolerance)
        assert torch.equal(maps[1:].ledger[name]["biases"], ledger["biases"][1:])
        total = sum(ledger.values())
        torch.testing.assert_close(total, ledger.target.to(total), rtol=tolerance, atol=tolerance)


def test_the_table_of_maps_says_where_relevance_went():
    maps = salience.explain(*single(), ["gradient", "lrp_epsilon"], 1, ledger=True)
    *_, sentence = repr(maps).splitlines()
    assert sentence == maps.ledger["lrp_epsilon"].sentence()
    assert sentence.startswith("lrp_epsilon: ") and "reached the input" in sentence
    assert f"<p>{sentence}</p>" in maps._repr_html_()


def test_a_ledger_whose_entries_are_lost_is_no_ledger(tmp_path: Path):
    dataset = salience.explain(*single(), "lrp_epsilon", 1, ledger=True).to_xarray()
    dataset.isel(map_entry=slice(1, None)).to_netcdf(tmp_path / "maps.nc")
    with pytest.raises(SalienceError, match="a ledger without all of its entries"):
        salience.open(tmp_path)


def test_what_is_there_is_kept_unless_told_otherwise(tmp_path: Path):
    maps = salience.explain(*single(), "gradient")
    for form in ("maps.nc", "maps.zarr"):
        maps.save(tmp_path / form)
        with pytest.raises(SalienceError, match="expected a new file"):
            maps[:2].save(tmp_path / form)
        maps[:2].save(tmp_path / form, overwrite=True)
        assert len(salience.open(tmp_path / form).value) == 2
    with pytest.raises(SalienceError, match=r"a file \.nc or \.zarr; got .*maps\.npz"):
        maps.save(tmp_path / "maps.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["maps.nc", "maps.zarr"]


def test_samples_are_taken_from_everything():
    net, x = text()
    maps = salience.explain(net, x, ["gradient", "lrp_epsilon"], [2, 0])
    one = maps[1:]
    assert isinstance(one, Maps) and list(one) == list(maps)
    for part in ("ids", "image"):
        assert torch.equal(one["gradient"][part], maps["gradient"][part][1:])
    assert torch.equal(one.inputs["mask"], x["mask"][1:])
    assert torch.equal(one.error["lrp_epsilon"], maps.error["lrp_epsilon"][1:])
    assert torch.equal(one.value, net(**x).detach()[1:, 0])
    assert torch.equal(one.output, net(**x).detach()[1:])


def test_maps_are_plain_tensors_and_the_whole_is_frozen():
    maps = salience.explain(*single(), "lrp_epsilon")
    assert type(maps["lrp_epsilon"]) is Tensor and not vars(maps["lrp_epsilon"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        maps.value = torch.zeros(5)  # type: ignore[misc]
    with pytest.raises(KeyError):
        maps["lrp"]
    with pytest.raises(SalienceError, match="Did you mean 'lrp_epsilon'"):
        maps.of("lrp")
    with pytest.raises(SalienceError, match=r'Write maps\["gradient"\]'):
        maps[0]  # type: ignore[call-overload]


def test_a_sweep_is_a_dict_of_methods():
    net, x = single()
    sweep = {"fine": rules.lrp_epsilon(eps=1e-6), "coarse": rules.lrp_epsilon(eps=0.1)}
    maps = salience.explain(net, x, sweep, 1)
    tape = salience.record(net, x)
    for name, eps in (("fine", 1e-6), ("coarse", 0.1)):
        assert torch.equal(maps[name], tape.explain("lrp_epsilon", 1, eps=eps))
        assert maps.parameters[name] == {"eps": eps, "eps_relative": 0.0}
    assert not torch.equal(maps["fine"], maps["coarse"])
    with pytest.raises(SalienceError, match="methods of different names; got 'lrp_epsilon' twice"):
        salience.explain(net, x, list(sweep.values()), 1)


def test_the_table_of_maps():
    net, x = single()
    maps = salience.explain(net, x, ["gradient", "lrp_epsilon", "guided_backprop"], 1)
    lines = repr(maps).splitlines()
    assert lines[0] == "Maps of 5 inputs by 3 methods"
    assert lines[1].split() == ["method", "shape", "largest", "error", "no", "rule", "for"]
    assert lines[2].split("  ")[0] == "gradient" and "(5, 1, 4, 4)" in lines[2]
    assert f"conservation {maps.error['lrp_epsilon'].max():.2g}" in lines[3]
    assert lines[4].endswith("gelu")
    page = maps._repr_html_()
    assert page.startswith("<p>Maps of 5 inputs by 3 methods</p>") and page.count("<tr>") == 4


def test_the_table_of_maps_shows_names_and_does_not_obey_them():
    name, x = "<b>\x1b[31m", torch.ones(1, 3)
    maps = salience.Maps({name: x}, x, x, x[0, :1], {name: torch.tensor([0.5])}, {name: [name]})
    page, text = maps._repr_html_(), repr(maps)
    assert text.splitlines()[0] == "Maps of 1 input by 1 method"
    assert text.splitlines()[2].split() == ["<b>\\x1b[31m", "(1,", "3)", "0.5", "<b>\\x1b[31m"]
    assert "<b>" not in page and "\x1b" not in page and page.count("&lt;b&gt;\\x1b[31m") == 2


def test_a_figure_of_maps():
    net, x = text()
    maps = salience.explain(net, x, ["gradient", "lrp_epsilon"], 1)
    with pytest.raises(SalienceError, match=r"which of several inputs.*'ids', 'image', 'mask'"):
        maps.plot()
    with pytest.raises(SalienceError, match="an input with maps"):
        maps.plot(of="mask")
    assert len(maps.plot(of="image").axes) >= 6 and maps.plot(of="ids").axes
    assert len(salience.explain(*single(), ["gradient"])[:2].plot().axes) >= 4


HOSTILE = {
    "many": ({"container": json.dumps(10**6)}, "says that it has 1000000 inputs"),
    "none": ({"container": json.dumps(-1)}, "does not hold the inputs"),
    "numbers": ({"container": json.dumps([1, 2])}, "does not hold the inputs"),
    "other names": ({"container": json.dumps(["a"])}, "does not hold the inputs"),
    "no JSON": ({"container": "{"}, "Expecting"),
    "no parameters": ({"parameters": "{"}, "Expecting"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_file_says_of_its_inputs_is_not_believed(case: str, tmp_path: Path):
    attributes, told = HOSTILE[case]
    dataset = salience.explain(*single(), "gradient").to_xarray().assign_attrs(attributes)
    dataset.to_netcdf(tmp_path / "maps.nc")
    with pytest.raises(SalienceError, match=rf"expected a study in .*maps\.nc; got .*{told}"):
        salience.open(tmp_path)


@pytest.mark.parametrize("lost", ["output", "map_uncovered", "maps"])
def test_a_part_that_is_missing_is_told(lost: str, tmp_path: Path):
    salience.explain(*single(), "gradient").to_xarray().drop_vars(lost).to_netcdf(
        tmp_path / "maps.nc"
    )
    with pytest.raises(SalienceError, match=r"maps\.nc"):
        salience.open(tmp_path)


def test_the_schema_is_that_of_reports():
    maps = salience.explain(*words(), ["gradient", "lrp_epsilon"], 1)
    data = maps.to_xarray()
    assert data["maps"].dims == ("map_method", "map_stage", "map_sample", "axis_1")
    np.testing.assert_allclose(data["maps"][1, 0], maps["lrp_epsilon"].sum(-1), rtol=1e-6)
    assert data["embedded"].dims[:2] == ("map_method", "map_sample")
    assert np.isnan(data["conservation_error"][0]).all()
