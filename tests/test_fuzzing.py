"""A damaged file that hangs or crashes is told by its seed, and the others are still read."""

import os
import re
import signal
import time

import pytest
from fuzzing import endings


def waits() -> None:
    time.sleep(100)


def hangs_in_c() -> None:
    """Without giving other threads a turn, and where no signal comes through."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def raises() -> None:
    raise KeyError("of a library")


@pytest.mark.parametrize(
    ("planted", "told"),
    [(waits, "Timeout"), (hangs_in_c, "took 0.3 s.*in hangs_in_c"), (crashes, "Segmentation"),
     (raises, "KeyError.*test_fuzzing.py"), (lambda: os._exit(3), "ended with 3")],
    ids=["waits", "hangs in C", "crashes", "raises", "exits"],
)  # fmt: skip
def test_a_file_that_fails_is_told_and_the_next_are_read(planted, told):
    def attempt(seed):
        if seed == 8:
            planted()
        return "refused" if seed % 2 else "loaded"

    said = []
    with pytest.raises(AssertionError) as failure:
        endings("net.pt2", attempt, said.append, range(5, 12), 0.3)
    assert re.match(rf"net\.pt2, seed 8: .*{told}", str(failure.value), re.DOTALL)
    assert said[-1] == "net.pt2, 7 of 7: {'refused': 4, 'loaded': 2}, 1 failed"


def test_what_ends_well_is_counted():
    said = []
    ends = endings("net.onnx", lambda seed: "loaded", said.append, range(3))
    assert ends == {"loaded": 3} and said == ["net.onnx, 3 of 3: {'loaded': 3}, 0 failed"]
