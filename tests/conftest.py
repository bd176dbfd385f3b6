"""How tests are run; what they share is in `fixtures.py`."""

import gc
from collections.abc import Generator

import hypothesis
import pytest

hypothesis.settings.register_profile("thorough", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("repeatable", max_examples=25, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """The process that hands tests out to others runs none, and need not import torch before they may begin."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", default=None):
        config.pluginmanager.import_plugin("tests.fixtures")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported meanwhile stays; the garbage collector need not look through it, now or again and again.

    Nor need it look as often as by default: what the tests of a minute leave in circles fits into memory.
    """
    gc.disable()
    found = yield
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many kills the tests of faults try in each job; `make soak` asks for more."""
    parser.addoption("--kills", default="1", help="kills of each job, in each of two ways, in tests/faults")
