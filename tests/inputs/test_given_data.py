"""Data as users have them: arrays of every layout, tables, float64, samples without their batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray
from torch import Tensor, nn
from typer.testing import CliRunner

import salience
from salience import SalienceError, SalienceWarning
from salience._cli.app import app
from salience._inputs.trees import tensor_of

ROWS = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def dense() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def explained(x: Any, model: Callable[..., Any] | None = None, **options: Any) -> Tensor:
    return salience.explain(model or dense(), x, "input_x_gradient", 1, **options)[
        "input_x_gradient"
    ]


def randomized(x: Any, model: Callable[..., Any] | None = None) -> np.ndarray[Any, Any]:
    data = salience.randomization_test(
        model or dense(),
        x,
        "gradient",
        1,
        cascade=salience.Cascade(repeats=1),
        scores="spearman",
        progress=False,
    ).data
    return data["spearman"].values


def read_only(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x = x.copy()
    x.flags.writeable = False
    return x


# what stands for ROWS in memory of another kind
LAYOUTS: dict[str, Any] = {
    "reversed": ROWS[::-1].copy()[::-1],
    "big-endian": ROWS.astype(">f4"),
    "big-endian, reversed": ROWS[:, ::-1].astype(">f4")[:, ::-1],
    "columns first": np.asfortranarray(ROWS),
    "every second": np.repeat(ROWS, 2, 0)[::2],
    "read-only": read_only(ROWS),
    "a broadcast": np.broadcast_to(ROWS, (1, 5, 6))[0],
    "a table": pd.DataFrame(ROWS, columns=list("abcdef")),
    "a labelled array": xarray.DataArray(ROWS, dims=("row", "column")),
    "a tensor": torch.from_numpy(ROWS),
}


@pytest.mark.parametrize("x", LAYOUTS.values(), ids=LAYOUTS)
def test_both_functions_read_any_array_as_the_same_numbers(x):
    before = np.asarray(x).copy()
    assert torch.equal(explained(x), explained(ROWS))
    np.testing.assert_array_equal(randomized(x), randomized(ROWS))
    twice, batches = np.concatenate([ROWS, ROWS]), [x, (x, np.zeros(5))]
    assert torch.equal(explained(batches), explained(twice))
    np.testing.assert_array_equal(randomized(batches), randomized(twice))
    np.testing.assert_array_equal(randomized(iter(batches)), randomized(twice))
    assert list(salience.cost(dense(), batches, "gradient", [1] * 10)) == ["gradient"]
    np.testing.assert_array_equal(np.asarray(x), before)


def test_one_reversed_row():
    """It counts as contiguous, and has a negative stride."""
    row = ROWS[:1].copy()[::-1]
    assert row.strides[0] < 0 and row.flags.c_contiguous
    assert torch.equal(explained(row), explained(ROWS[:1]))
    np.testing.assert_array_equal(randomized(row), randomized(ROWS[:1]))


@pytest.mark.parametrize(
    ("dtype", "read"),
    [
        ("<f8", torch.float64), (">f2", torch.float16), ("g", torch.float64), ("?", torch.bool),
        (">i4", torch.int32), ("u1", torch.uint8), ("u2", torch.int64), (">u8", torch.int64),
        (">c8", torch.complex64),
    ],
)  # fmt: skip
def test_types_of_numbers(dtype, read):
    for array in (np.array([[1, 0], [0, 1]], dtype), np.array(1, dtype)):
        tensor = tensor_of(array[::-1] if array.ndim else array)
        assert tensor.dtype == read
        assert tensor.tolist() == (array[::-1] if array.ndim else array).tolist()


@pytest.mark.parametrize("run", [explained, randomized])
def test_other_arrays_are_read_as_inputs_are(run):
    classes, baseline = np.array([0, 1, 2, 0, 1]), np.tile(ROWS, 1)
    options: dict[str, Any] = {"progress": False} if run is randomized else {}
    function = salience.randomization_test if run is randomized else salience.explain

    def values(target: Any, start: Any) -> Any:
        method = salience.rules.integrated_gradients(start)
        found = function(dense(), ROWS, method, target, **options)
        found = found.data if run is randomized else found
        return found["spearman"].values[0] if run is randomized else found["integrated_gradients"]

    plain = values(classes, baseline)
    again = values(classes[::-1].copy()[::-1], baseline.astype(">f4"))
    np.testing.assert_array_equal(plain, again)


def test_attribution_reads_arrays_of_any_layout():
    maps = explained(ROWS)
    plain = salience.attribution_by_value(maps, ROWS, edges=[0])
    reverse = salience.attribution_by_value(maps, ROWS[::-1].copy()[::-1], edges=[0])
    xarray.testing.assert_identical(plain, reverse)


TABLES: dict[str, tuple[Any, str]] = {
    "text": (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), "DataFrame with dtype object"),
    "strings": (np.array([["a", "b"]]), "ndarray with dtype <U1"),
    "dates": (np.array([["2020-01-01"]], "M8[D]"), "ndarray with dtype datetime64"),
    "masked": (np.ma.masked_array(ROWS, ROWS > 0), "MaskedArray with masked entries"),
}


@pytest.mark.parametrize(("x", "got"), TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("run", [explained, randomized])
def test_what_is_no_array_of_numbers_is_refused(run, x, got):
    with pytest.raises(SalienceError, match="expected an array of numbers; got") as raised:
        run(x)
    assert got in str(raised.value)
    assert "Choose the columns of numbers" in str(raised.value)


# -- float64 ---------------------------------------------------------------------------------------

CONVERTED = "expected inputs of the model's dtype {}; got float64. They are converted"
HALVES = [torch.float16, torch.bfloat16]


def batches(x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [x[:2], x[2:4], x[4:]]


GIVEN: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "array": lambda x: x, "tensor": torch.from_numpy, "table": pd.DataFrame, "batches": batches,
}  # fmt: skip


@pytest.mark.parametrize("form", GIVEN)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_float64_for_a_narrower_model_is_converted_and_said_once(form, dtype):
    net, methods = dense().to(dtype), ["gradient", "lrp_epsilon"]
    told = CONVERTED.format(str(dtype).removeprefix("torch."))
    with pytest.warns(SalienceWarning, match=told) as caught:
        maps = salience.explain(net, GIVEN[form](ROWS.astype(float)), methods, 1, batch_size=2)
    assert [warning.filename for warning in caught] == [__file__]
    plain = salience.explain(net, torch.from_numpy(ROWS).to(dtype), methods, 1, batch_size=2)
    assert maps["lrp_epsilon"].dtype == dtype
    assert torch.equal(maps["lrp_epsilon"], plain["lrp_epsilon"])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_other_floats_for_a_half_precision_model_are_refused(dtype):
    got = f"an input of the model's dtype {dtype}; got torch.float32"
    with pytest.raises(SalienceError, match=got.removeprefix("an ")):
        salience.explain(dense().to(dtype), ROWS, "gradient", 1)


def test_the_test_and_record_convert_as_explain_does():
    with pytest.warns(SalienceWarning, match=CONVERTED.format("float32")) as caught:
        data = salience.randomization_test(
            dense(),
            ROWS.astype(float),
            "gradient",
            1,
            cascade=salience.Cascade(repeats=1),
            scores="spearman",
            progress=False,
        ).data
    assert [warning.filename for warning in caught] == [__file__]
    np.testing.assert_array_equal(data["spearman"].values, randomized(ROWS))
    with pytest.warns(SalienceWarning, match=CONVERTED.format("float32")) as caught:
        tape = salience.record(dense(), torch.from_numpy(ROWS).double())
    assert [warning.filename for warning in caught] == [__file__]
    assert torch.equal(tape.x, torch.from_numpy(ROWS))


def test_other_parts_of_the_input_stay_as_they_are():
    class Scaled(nn.Linear):
        def forward(self, x: Tensor, ids: Tensor, scale: Tensor) -> Tensor:
            assert (x.dtype, ids.dtype, scale.dtype) == (
                torch.float32, torch.int64, torch.float64,
            )  # fmt: skip
            return super().forward(x) * scale + ids[:, None]

    x = {"x": ROWS.astype(float), "ids": np.arange(5), "scale": np.array(2.0)}
    with pytest.warns(SalienceWarning, match=CONVERTED.format("float32")) as caught:
        maps = salience.explain(Scaled(6, 2).eval(), x, "gradient", 0)["gradient"]
    assert len(caught) == 1
    assert list(maps) == ["x"]


def test_float64_stays_where_the_model_has_it_or_does_not_tell():
    wide = ROWS.astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explained(wide, dense().double()).dtype == torch.float64
        assert explained(wide, lambda x: x * x).dtype == torch.float64
    mixed = nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 2).double()]).eval()

    class Second(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = mixed

        def forward(self, x: Tensor) -> Tensor:
            return self.both[1](x)

    assert explained(wide, Second().eval()).dtype == torch.float64


# -- a missing batch dimension ---------------------------------------------------------------------


class Pooled(nn.Module):
    """As many outputs as channels: a sample without its batch passes as a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.look(x).mean((-2, -1))


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(4, 5)
    ).eval()


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 20, 5)).eval()


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


SAMPLES: dict[str, tuple[nn.Module, Tensor]] = {
    "a row": (dense(), torch.ones(6)),
    "a long row": (nn.Linear(40, 3).eval(), torch.ones(40)),
    "an image": (images(), torch.ones(3, 9, 9)),
    "a grey image": (flat(), torch.ones(28, 20)),
    "a sequence": (Reader(), torch.ones(33, 6)),
    "an image that passes": (Pooled().eval(), torch.ones(3, 9, 9)),
}


@pytest.mark.parametrize(("model", "x"), SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("run", [explained, randomized, None])
def test_a_sample_without_its_batch_is_named_as_it_was_given(run, model, x):
    message = (
        f"expected an input (B, ...); got {tuple(x.shape)}, without its batch dimension. Add it: "
        "x[None] is a batch of one."
    )
    with pytest.raises(SalienceError) as raised:
        salience.record(model, x) if run is None else run(x, model)
    assert str(raised.value) == message


def test_batches_that_fail_for_another_reason_raise_their_own_error():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        explained(torch.ones(3, 7))
    with pytest.raises(RuntimeError, match="expected input"):
        explained(torch.ones(2, 4, 9, 9), images())
    with pytest.raises(SalienceError, match="finite output"):
        explained(torch.full((3, 6), -1.0), lambda x: x.sqrt())


def test_a_batch_that_is_shaped_like_one_sample_is_a_batch():
    """As many grey images as the network has channels, which it makes of each itself."""

    class Coloured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = images()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x[:, None].expand(-1, 3, -1, -1))

    x = torch.ones(3, 9, 9)
    assert explained(x, Coloured().eval()).shape == x.shape


def networks() -> dict[str, nn.Module]:
    return {"float": dense(), "half": dense().half(), "double": dense().double()}


@pytest.mark.parametrize("net", networks())
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_a_file_of_other_floats_is_converted_and_lost_digits_said(
    tmp_path, monkeypatch, net, dtype
):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", ROWS.astype(dtype))
    monkeypatch.setattr("salience.models.load_model", lambda *_, **__: networks()[net])
    result = CliRunner().invoke(
        app, ["explain", "net", "x.npy", "--methods", "gradient", "-o", "out"]
    )
    assert result.exit_code == 0, result.output
    narrower = {"float": ("f8",), "half": ("f8", "f4"), "double": ()}
    said = f"got float{8 * int(dtype[1])}. They are converted"
    assert result.stderr.count("are converted") == (dtype in narrower[net])
    assert (said in result.stderr) == (dtype in narrower[net])
