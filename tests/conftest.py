import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two threads on two busy cores can be twenty times slower than one."""
    torch.set_num_threads(1)


def pytest_runtest_setup():
    """A test that draws from the global generator draws the same numbers each time."""
    torch.manual_seed(0)
