import signal

import pytest
import torch

from salience._recording.recorder import Recorder

# In the background of a script Ctrl-C is ignored, and by every program that is started there too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two threads on two busy cores can be twenty times slower than one."""
    torch.set_num_threads(1)


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of samples of every pass that is recorded, of the model or of a copy."""
    begun: list[int] = []
    start = Recorder.start

    def noted(self, x):
        begun.append(len(x))
        return start(self, x)

    monkeypatch.setattr(Recorder, "start", noted)
    return begun


def pytest_runtest_setup():
    """A test that draws from the global generator draws the same numbers each time."""
    torch.manual_seed(0)
