"""Array files of token ids and of several inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salience import SalienceError
from salience._cli.inputs import load_inputs

IDS = np.random.default_rng(0).integers(1, 30, (3, 6))
SEVERAL = {
    "ids": IDS.astype("i4"), "mask": IDS > 4, "image": np.ones((3, 1, 6, 6)),
    "row": np.ones((3, 5), "f4"), "scale": np.array(2.0), "age": np.array([1.0, 2.0, 3.0]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["i4", ">i8", "u1", "i8"])
def test_integers_are_ids(tmp_path, dtype):
    np.save(tmp_path / "x.npy", IDS.astype(dtype))
    torch.save(torch.from_numpy(IDS).int(), tmp_path / "x.pt")
    for name in ("x.npy", "x.pt"):
        x, names = load_inputs([tmp_path / name])
        assert x.dtype == torch.int64 and names == ["0", "1", "2"]
        np.testing.assert_array_equal(x, IDS)


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_several_arrays_are_inputs_by_name(tmp_path, suffix):
    file, given = tmp_path / f"x.{suffix}", SEVERAL
    if suffix == "npz":
        np.savez(file, **given)
    else:
        torch.save({name: torch.as_tensor(part) for name, part in given.items()}, file)
    x, names = load_inputs([file])
    assert list(x) == list(given) and names == ["0", "1", "2"]
    assert [x[name].dtype for name in x] == [
        torch.int64, torch.bool, torch.float64, torch.float32, torch.float64, torch.float64
    ]  # fmt: skip
    for name, part in given.items():
        np.testing.assert_array_equal(x[name], part)
    alone, _ = load_inputs([f"{file}:row"])
    np.testing.assert_array_equal(alone, given["row"])


REFUSED = {
    "sizes": ({"a": IDS, "b": IDS[:2]}, r"same number of samples first; got \{'a': 3, 'b': 2\}"),
    "scalars": ({"a": np.array(1.0), "b": np.array(2.0)}, r"at least one tensor \(B, ...\)"),
    "complex": ({"a": IDS, "b": IDS * 1j}, "or integer ids; got .*x.npz:b of complex128"),
    "text": ({"a": IDS, "b": np.array(["x"])}, "or integer ids; got .*x.npz:b of <U1"),
    "no arrays": ({}, "an array in .*; got none"),
    "mask alone": ({"a": IDS > 3}, "floating-point inputs; got .* of bool"),
    "pixels": ({"a": np.ones((2, 3, 8, 8), "u1")}, "got .* of uint8. Scale them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_that_are_refused(tmp_path, case):
    arrays, message = REFUSED[case]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(SalienceError, match=message):
        load_inputs([tmp_path / "x.npz"])
