"""Folders of results: one result, one run at a time, whole files, and what an error leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from salience import SalienceError
from salience._cli.app import app
from salience._files.locks import LOCK, alone_in, started
from salience._files.writing import result_folder, whole

FACTORY = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

def never():
    raise AssertionError("it was computed")
"""
NC = ["cascade.png", "plane.png", "similarity.png", "study.nc"]
ZARR = ["cascade.png", "plane.png", "similarity.png", "study.zarr"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    np.save("x.npy", np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32))
    return tmp_path


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def check(*more: object, out: object = "out", net: str = "net") -> Any:
    return run("check", f"nets.py:{net}", "x.npy", "--methods", "gradient", "--repeats", 1,
               "-o", out, *more)  # fmt: skip


def held(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def refused(done: Any, message: str) -> None:
    assert done.exit_code == 2, done.output
    assert message in done.stderr and "it was computed" not in done.output
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("Error: expected ")


# -- one result ------------------------------------------------------------------------------------


def test_a_result_is_replaced_only_where_that_is_asked_for(folder: Path) -> None:
    out = folder / "out"
    assert check().exit_code == 0 and held(out) == NC
    before = (out / "study.nc").read_bytes()
    for more in ([], ["--format", "zarr"]):
        refused(check(*more, net="never"), "got out, which holds study.nc. Choose another name, or")
    refused(
        run("explain", "nets.py:never", "x.npy", "-o", "out"), "replace that result with --overw"
    )
    assert held(out) == NC and (out / "study.nc").read_bytes() == before
    (out / "notes.txt").write_text("mine")
    for more, wanted in ((["--format", "zarr"], ZARR), ([], NC), (["--show", 0], NC[1:])):
        assert check("--overwrite", *more).exit_code == 0
        assert held(out) == sorted(["notes.txt", *wanted])
    done = run("explain", "nets.py:net", "x.npy", "--methods", "gradient", "-o", "out",
               "--overwrite")  # fmt: skip
    assert done.exit_code == 0 and held(out) == ["maps.nc", "notes.txt", "overview.png"]
    assert "out/maps.nc" in done.stdout and ".part" not in done.output


def test_the_report_is_about_the_last_result(folder: Path) -> None:
    assert check("--seed", 1).exit_code == 0
    assert check("--seed", 2, "--format", "zarr", "--overwrite").exit_code == 0
    assert run("report", "out", "-o", "page.html").exit_code == 0
    assert "--seed=2" in (folder / "page.html").read_text(encoding="utf-8")


def test_a_folder_of_two_results_is_refused(folder: Path) -> None:
    """As earlier versions left them."""
    assert check("--seed", 1).exit_code == 0
    assert check("--format", "zarr", out="other").exit_code == 0
    (folder / "other" / "study.zarr").rename(folder / "out" / "study.zarr")
    said = "expected one result in a folder; got out with study.nc and study.zarr. Name one: out/"
    refused(run("report", "out", "-o", "page.html"), said)
    assert run("report", "out/study.nc", "-o", "page.html").exit_code == 0


def test_a_page_does_not_replace_a_result(folder: Path) -> None:
    assert check().exit_code == 0
    before = (folder / "out" / "study.nc").read_bytes()
    refused(run("report", "out", "-o", "out/study.nc"), "expected a page .html, or a folder, for")
    assert (folder / "out" / "study.nc").read_bytes() == before


def test_the_earlier_result_stays_until_the_new_one_is_complete(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "study.nc").write_text("earlier")

    def fail() -> None:
        with result_folder(folder / "out", True) as partial:
            (partial / "study.nc").write_text("later")
            assert (folder / "out" / "study.nc").read_text() == "earlier"
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert held(folder / "out") == ["study.nc"]
    assert (folder / "out" / "study.nc").read_text() == "earlier"


def test_a_folder_that_was_made_for_nothing_goes(folder: Path) -> None:
    refused(run("explain", "nets.py:none", "x.npy", "-o", "new/out"), "expected a factory")
    assert not (folder / "new" / "out").exists()


def test_what_a_killed_run_left_is_not_taken_for_a_result(folder: Path) -> None:
    left = folder / "out" / ".part"
    left.mkdir(parents=True)
    (left / "study.zarr").mkdir()
    (left / "study.zarr" / "zarr.json").write_text("half")
    assert check().exit_code == 0
    assert held(folder / "out") == NC


# -- one run at a time -----------------------------------------------------------------------------


def lock_of(**told: object) -> str:
    own = {"host": platform.node(), "pid": os.getpid(), "started": started(os.getpid())}
    return json.dumps(own | told)


def test_a_second_run_is_refused_while_the_first_is_alive(folder: Path) -> None:
    out = folder / "out"
    with result_folder(out, False):
        refused(check(net="never"), f"got out, where process {os.getpid()} on {platform.node()}")
        refused(check("--overwrite", net="never"), "is at work. Wait for it")
        assert LOCK in held(out)
    assert not out.exists()
    assert check().exit_code == 0 and held(out) == NC


def test_a_lock_goes_with_an_error(folder: Path) -> None:
    refused(check("--score", "hog"), "24 x 24 pixels for hog")
    (folder / "out").mkdir()
    refused(check("--score", "hog"), "24 x 24 pixels for hog")
    assert held(folder / "out") == []


def dead() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize("other", ["dead", "reused"])
def test_the_lock_of_a_dead_process_is_taken_over(folder: Path, other: str) -> None:
    out = folder / "out"
    out.mkdir()
    told = {"pid": dead()} if other == "dead" else {"started": "1"}
    (out / LOCK).write_text(lock_of(**told))
    assert check().exit_code == 0 and held(out) == NC


@pytest.mark.parametrize(
    ("text", "who"),
    [
        (lock_of(host="elsewhere", pid=1), "process 1 on elsewhere"),
        ("", "another run"),
        ("[1]", "another run"),
        (lock_of(pid="x"), "process x on"),
    ],
    ids=["elsewhere", "empty", "a list", "no number"],  # not the texts: each worker has its own
)
def test_a_lock_that_cannot_be_asked_after_is_respected(folder: Path, text: str, who: str) -> None:
    (folder / "out").mkdir()
    (folder / "out" / LOCK).write_text(text)
    refused(check(net="never"), who)
    assert (folder / "out" / LOCK).read_text() == text


def test_a_zombie_is_dead(folder: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        assert process.stdout is None
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet asked for
        assert started(process.pid) is None


def compete(folder: Path, start: Any, won: Any) -> None:
    start.wait()
    try:
        with alone_in(folder):
            won.put("won")
            start.wait()  # until all have tried
    except SalienceError:
        won.put("lost")
        start.wait()


def test_of_many_that_find_a_dead_lock_one_wins(folder: Path) -> None:
    count, fork = 8, multiprocessing.get_context("fork")
    for _ in range(20):
        (folder / LOCK).write_text(lock_of(pid=dead()))
        start, won = fork.Barrier(count), fork.Queue()
        processes = [fork.Process(target=compete, args=(folder, start, won)) for _ in range(count)]
        for process in processes:
            process.start()
        found = [won.get(timeout=60) for _ in processes]
        for process in processes:
            process.join()
        assert found.count("won") == 1
        assert not list(folder.glob(f"{LOCK}*"))


# -- no room, no right -----------------------------------------------------------------------------


def unwritable(folder: Path) -> Path:
    """A folder that cannot be written to; the superuser may write to almost any."""
    if os.geteuid() == 0:
        return Path("/sys")
    folder.mkdir(0o500)
    return folder


def test_a_folder_that_cannot_be_written_to_is_noticed_first(folder: Path) -> None:
    shut = unwritable(folder / "shut")
    for out in (shut, shut / "new"):
        refused(check(net="never", out=out), "expected a folder for -o that can be written to; got")
    assert check().exit_code == 0
    refused(run("report", "out", "-o", shut / "page.html"), "Permission denied")


@pytest.mark.parametrize("out", ["x.npy", "x.npy/out", "x.npy/below/out"])
def test_a_file_in_the_place_of_a_folder_is_noticed_first(folder: Path, out: str) -> None:
    before = (folder / "x.npy").read_bytes()
    refused(check(net="never", out=out), "expected a folder for -o")
    assert check().exit_code == 0
    refused(run("report", "out", "-o", f"{out}/page.html"), "expected to read and write files")
    assert (folder / "x.npy").read_bytes() == before


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error in its place
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from salience._cli.app import main
del sys.argv[1]
main()
"""
WORK = {
    "nc": (["check", "nets.py:net", "x.npy", "--repeats", "1", "-o", "out"], 20_000),
    "nc's pictures": (["check", "nets.py:net", "x.npy", "--repeats", "1", "-o", "out"], 80_000),
    "zarr": (["check", "nets.py:net", "x.npy", "--repeats", "1", "-o", "out",
              "--format", "zarr"], 1_000),
    "maps": (["explain", "nets.py:net", "x.npy", "--param", "smoothgrad.n=2", "-o", "out"], 1_000),
    "overview": (["explain", "nets.py:net", "x.npy", "--param", "smoothgrad.n=2", "-o", "out"],
                 20_000),
    "lock": (["explain", "nets.py:net", "x.npy", "-o", "out"], 10),
    "page": (["report", "earlier", "-o", "out/page.html"], 100_000),
}  # fmt: skip


@pytest.mark.parametrize(("args", "most"), WORK.values(), ids=WORK.keys())
def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    folder: Path, args: list[str], most: int
) -> None:
    assert check(out="earlier").exit_code == 0
    (folder / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(most), *args], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: expected ")
    assert held(folder / "out") == []


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("earlier")

    def fail() -> None:
        with whole(file) as partial:
            partial.write_text("la")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert file.read_text() == "earlier" and held(tmp_path) == ["a.txt"]
    with whole(file) as partial:
        partial.write_text("later")
        assert file.read_text() == "earlier"
    assert file.read_text() == "later" and held(tmp_path) == ["a.txt"]
