"""The server of a study: what other clients, and their absence, cannot do to it."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import xarray
from report_pages import small_study

from salience import Study
from salience.report._extras import Extras
from salience.report._pixels import map_block, whole
from salience.report._serve import server


@contextmanager
def served(study: xarray.Dataset) -> Iterator[tuple[str, int]]:
    serving = server(Study(study), Extras())
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        yield "127.0.0.1", serving.server_port
    finally:
        serving.shutdown()
        thread.join()
        serving.server_close()


def asked(address: tuple[str, int], path: str) -> bytes:
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}{path}", timeout=10) as answer:
        return answer.read()


def test_an_idle_connection_holds_nobody_up_and_is_closed() -> None:
    with served(small_study()) as address, socket.create_connection(address) as idle:
        assert b"<h1>" in asked(address, "/")  # not after the idle one: beside it
        idle.settimeout(60)  # it never says a word; the server's patience is shorter than this
        assert idle.recv(1) == b""


def test_a_client_that_goes_away_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with served(small_study()) as address:
        for _ in range(5):
            with socket.create_connection(address) as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                gone.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n")  # and a reset in mid-word
        assert b"<h1>" in asked(address, "/")
    assert capfd.readouterr().err == ""


def test_a_bug_of_the_server_is_still_printed(capfd: pytest.CaptureFixture[str]) -> None:
    broken = server(Study(small_study()), Extras())
    try:
        try:
            raise ArithmeticError("a bug")
        except ArithmeticError:
            broken.handle_error(None, ("127.0.0.1", 1))  # type: ignore[arg-type]
        assert "ArithmeticError: a bug" in capfd.readouterr().err
    finally:
        broken.server_close()


def test_a_file_is_read_by_many_clients_at_once(tmp_path: Path) -> None:
    """netCDF is not made for threads: the reads go one by one."""
    study = small_study()
    study.to_netcdf(tmp_path / "study.nc")
    plan = whole(Study(study))
    wanted = [(s, t) for s in plan.samples for t in plan.stages] * 8
    with xarray.open_dataset(tmp_path / "study.nc") as lazy, served(lazy) as address:
        got: dict[int, bytes] = {}
        start = threading.Barrier(len(wanted))

        def ask(turn: int) -> None:
            sample, stage = wanted[turn]
            start.wait(30)
            got[turn] = asked(address, f"/maps/{sample}/{stage}")

        threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(len(wanted))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for turn, (sample, stage) in enumerate(wanted):
        assert got[turn] == map_block(Study(study), sample, stage, plan.size)
