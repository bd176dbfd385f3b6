"""What whole chains of jobs share with the tests of single ones."""

from tests.jobs.conftest import compose, images, tiny

__all__ = ["compose", "images", "tiny"]
