"""Fixtures of the tests of training."""

import multiprocessing
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_workers_left() -> Iterator[None]:
    """End loaders' workers: one that met a broken image is else waited for, five seconds, by any later test."""
    yield
    for child in multiprocessing.active_children():
        child.terminate()
