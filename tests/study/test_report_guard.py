"""Results that somebody else wrote: what they may not reach, run or claim."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from report_pages import small_study

from salience import SalienceError
from salience._study.files import open_study
from salience._study.guard import look_at
from salience._study.store import write

SECRET = 0.123456789


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    study = small_study().assign(extra=("method", np.linspace(1, 2, 13)))
    for name in ("study.nc", "study.zarr"):
        write(study, folder / name, Path(name).suffix)
    return folder


@pytest.fixture
def nc(stores: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(stores / "study.nc", tmp_path / "study.nc"))


@pytest.fixture
def zarr(stores: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stores / "study.zarr", tmp_path / "study.zarr"))


def other(folder: Path) -> Path:
    """A file outside of the study."""
    file = folder / "elsewhere.h5"
    with h5py.File(file, "w") as held:
        held["secret"] = np.full((13,), SECRET)
    return file


def external(file: h5py.File, outside: Path) -> None:
    raw = outside.with_suffix(".raw")
    raw.write_bytes(np.full(13, SECRET).tobytes())
    file.create_dataset("x", (13,), "f8", external=[(str(raw), 0, 104)])


def virtual(file: h5py.File, outside: Path) -> None:
    layout = h5py.VirtualLayout((13,), "f8")
    layout[:] = h5py.VirtualSource(str(outside), "secret", (13,))
    file.create_virtual_dataset("x", layout)


def linked(file: h5py.File, outside: Path) -> None:
    file["x"] = h5py.ExternalLink(str(outside), "secret")


def soft(file: h5py.File, outside: Path) -> None:
    file["x"] = h5py.SoftLink("/extra")


def looped(file: h5py.File, outside: Path) -> None:
    group = file.create_group("x")
    group["again"] = group


def scaled(file: h5py.File, outside: Path) -> None:
    file.create_dataset("x", (13,), "f8", chunks=(13,), scaleoffset=2)


def references(file: h5py.File, outside: Path) -> None:
    file.create_dataset("x", (1,), h5py.ref_dtype)


def huge(file: h5py.File, outside: Path) -> None:
    file.create_dataset("x", (10**6, 10**6), "f8", chunks=(1000, 1000))


def described(file: h5py.File, outside: Path) -> None:
    file["extra"].attrs["x"] = np.zeros(1, [("a", "f8"), ("b", "i4")])


@pytest.mark.parametrize(
    "spoil",
    [external, virtual, linked, soft, looped, scaled, references, huge, described],
    ids=lambda f: f.__name__,
)
def test_netcdf_that_is_more_than_its_own_arrays_is_refused(
    nc: Path, tmp_path: Path, spoil: Callable[[h5py.File, Path], None]
) -> None:
    outside = other(tmp_path)
    look_at(nc)
    with h5py.File(nc, "a") as file:
        spoil(file, outside)
    with pytest.raises(SalienceError, match=r"expected a study in .*\bx\b|declare"):
        open_study(nc)


def edit(folder: Path, name: str, **changes: object) -> None:
    file = folder / name / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def link_a_chunk(store: Path) -> None:
    chunk = store / "extra" / "c" / "0"
    chunk.rename(store.with_name("secret"))
    chunk.symlink_to(store.with_name("secret"))


def link_an_array(store: Path) -> None:
    (store / "extra").rename(store.with_name("outside"))
    (store / "extra").symlink_to(store.with_name("outside"))


def pickled(store: Path) -> None:
    """The array of Zarr 2 that ran code with numcodecs 0.16.1."""
    shutil.rmtree(store / "role")
    (store / "role").mkdir()
    (store / "role" / ".zarray").write_text(json.dumps({
        "zarr_format": 2, "shape": [13], "chunks": [13], "dtype": "|O", "order": "C",
        "compressor": None, "fill_value": None,
        "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}],
    }))  # fmt: skip


def unlisted(store: Path) -> None:
    edit(store, "extra", codecs=[{"name": "numcodecs.pickle", "configuration": {}}])


def sharded(store: Path) -> None:
    edit(store, "extra", codecs=[{"name": "sharding_indexed", "configuration": {}}])


def consolidated(store: Path) -> None:
    array = json.loads((store / "extra" / "zarr.json").read_text()) | {"codecs": ["numcodecs.x"]}
    edit(store, ".", consolidated_metadata={"kind": "inline", "metadata": {"extra": array}})


def objects(store: Path) -> None:
    edit(store, "extra", data_type={"name": "structured", "configuration": {}})


def transformed(store: Path) -> None:
    edit(store, "extra", storage_transformers=[{"name": "x"}])


def unbounded(store: Path) -> None:
    grid = {"name": "regular", "configuration": {"chunk_shape": [10**12]}}
    edit(store, "extra", shape=[10**12], chunk_grid=grid)


def older(store: Path) -> None:
    edit(store, "extra", zarr_format=2)


def piped(store: Path) -> None:
    os.mkfifo(store / "extra" / "c" / "1")


@pytest.mark.parametrize(
    "spoil",
    [link_a_chunk, link_an_array, pickled, unlisted, sharded, consolidated, objects, transformed,
     unbounded, older, piped],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_zarr_that_is_more_than_its_own_arrays_is_refused(
    zarr: Path, spoil: Callable[[Path], None]
) -> None:
    look_at(zarr)
    spoil(zarr)
    with pytest.raises(SalienceError, match="expected a study in"):
        open_study(zarr)


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")  # of writing it
def test_a_consolidated_store_and_an_array_of_fill_values_are_read(
    stores: Path, tmp_path: Path
) -> None:
    with xarray.open_zarr(stores / "study.zarr", consolidated=False) as held:
        held = held.load()
    held["extra"] = held["extra"] * np.nan
    held.drop_encoding().to_zarr(tmp_path / "study.zarr", consolidated=True, zarr_format=3)
    with open_study(tmp_path).data as read:
        assert np.isnan(read["extra"].values).all()
        np.testing.assert_array_equal(read["maps"].values, held["maps"].values)


@pytest.mark.parametrize("name", ["study.nc", "study.zarr"])
def test_a_link_in_the_place_of_a_result_is_refused(
    stores: Path, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (shutil.copytree if name == "study.zarr" else shutil.copy)(stores / name, outside / name)
    (tmp_path / name).symlink_to(outside / name)
    with pytest.raises(SalienceError, match="link"):
        open_study(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "study.nc")
    with pytest.raises(SalienceError, match="not a regular file"):
        open_study(tmp_path)


def frame(size: int) -> bytes:
    """A frame of Zstandard that says how much it holds, and holds 13 numbers."""
    block = (1 | 1 << 1 | 104 << 3).to_bytes(3, "little") + b"\0"  # the last one: 104 times 0
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + block


UNSIZED = b"\x28\xb5\x2f\xfd\x00\x50" + b"\x02\x00\x10\x00" * 400 + b"\x03\x00\x10\x00"


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (frame(10**12), "1000000000000 bytes in place of 104"),
        (frame(96), "96 bytes in place of 104"),
        (UNSIZED, "a chunk that does not say how much it holds"),  # 50 MB of 1.6 kB
        (b"\x50\x2a\x4d\x18" + bytes(20), "does not say"),  # to be skipped
        (frame(104)[:3], "does not say"),
        (b"", "does not say"),
    ],
)
def test_a_chunk_of_zarr_that_unpacks_to_more_is_refused(
    zarr: Path, chunk: bytes, message: str
) -> None:
    (zarr / "extra" / "c" / "0").write_bytes(frame(104))
    with open_study(zarr).data as held:
        np.testing.assert_array_equal(held["extra"].values, np.zeros(13))
    (zarr / "extra" / "c" / "0").write_bytes(chunk)
    with pytest.raises(SalienceError, match=f"got extra .*{message}"):
        open_study(zarr)


def test_text_of_zarr_may_not_unpack_to_more_either(zarr: Path) -> None:
    from numcodecs.zstd import Zstd

    (zarr / "role" / "c" / "0").write_bytes(Zstd().encode(bytes(10**8)))
    with pytest.raises(SalienceError, match="got role holds a chunk of 100000000 bytes"):
        open_study(zarr)


@pytest.mark.parametrize("fletcher32", [False, True])
@pytest.mark.parametrize(("size", "message"), [(13, None), (12, "of 96 by"), (10**5, "more than")])
def test_a_chunk_of_netcdf_that_unpacks_to_more_is_refused(
    nc: Path, size: int, message: str | None, fletcher32: bool
) -> None:
    with h5py.File(nc, "a") as file:
        made = file.create_dataset("x", (13,), "f8", chunks=(13,), compression="gzip", shuffle=True,
                                   fletcher32=fletcher32)  # fmt: skip
        if fletcher32 and message is None:
            made[:] = 0.0
        else:  # with no checksum, which stands behind it
            made.id.write_direct_chunk((0,), zlib.compress(bytes(8 * size)), 0b100)
    if message is None:
        look_at(nc)
    else:
        with pytest.raises(SalienceError, match=f"got x holds a chunk {message}"):
            open_study(nc)


TEXT = h5py.string_dtype()


def texts_of_an_array(file: h5py.File) -> None:
    file.create_dataset("x", (3000,), TEXT)[:] = ["y" * 10**6, *["z"] * 2999]


def texts_of_an_attribute(file: h5py.File) -> None:
    values = np.array(["y" * 10**6, *["z"] * 2999], object)
    file.attrs.create("x", values, dtype=TEXT)


@pytest.mark.parametrize("write", [texts_of_an_array, texts_of_an_attribute])
def test_texts_that_are_all_the_same_long_one_are_refused(
    nc: Path, write: Callable[[h5py.File], None]
) -> None:
    """3 GB of a file of 1 MB."""
    with h5py.File(nc, "w") as file:  # of netCDF, headers have checksums
        write(file)
    raw = nc.read_bytes()
    at = raw.index((10**6).to_bytes(4, "little"))  # its length, place and number
    nc.write_bytes(raw[:at] + raw[at : at + 16] * 3000 + raw[at + 16 * 3000 :])
    with pytest.raises(SalienceError, match="declare"):
        open_study(nc)


def test_texts_that_overlap_are_refused(nc: Path) -> None:
    """100,000 collections, each of all that follows: they would be looked through in hours."""
    count, raw = 10**5, nc.read_bytes()
    with nc.open("ab") as file:
        for left in range(count, 0, -1):
            file.write(b"GCOL\x01\0\0\0" + (16 * left).to_bytes(8, "little"))
    with pytest.raises(SalienceError, match="got texts that overlap"):
        open_study(nc)
    nc.write_bytes(raw)
    open_study(nc).data.close()


def test_texts_without_an_end_are_refused(nc: Path) -> None:
    """HDF5's library goes on reading free space of no length; one of 5,000 damaged files had it."""
    raw = bytearray(nc.read_bytes())
    first = raw.index(b"GCOL\x01") + 16
    raw[first : first + 16] = bytes(16)
    nc.write_bytes(raw)
    with pytest.raises(SalienceError, match="got texts that are stored without an end"):
        open_study(nc)


def test_a_file_that_is_two_formats_is_refused(nc: Path) -> None:
    """netCDF's library reads the first bytes; HDF5's looks further on, too."""
    nc.write_bytes(b"CDF\x01".ljust(512, b"\0") + nc.read_bytes())
    with pytest.raises(SalienceError, match="got it does not begin as HDF5 does"):
        open_study(nc)


def test_a_file_whose_own_numbers_are_of_another_width_is_refused(nc: Path) -> None:
    made = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    made.set_sizes(4, 4)
    h5py.h5f.create(bytes(nc), fcpl=made).close()
    with pytest.raises(SalienceError, match="got it counts in 4 and 4 bytes"):
        open_study(nc)
