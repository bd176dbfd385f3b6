import pickle
from pathlib import Path

import pytest

from spaceevo import errors
from spaceevo.lit.broken import BrokenImageError
from spaceevo.lit.guard import DivergenceError


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (3, "0, 1, 2"), (4, "0, 1, 2, 3"), (5, "0, 1, 2, 3, … (5 in all)")],
)
def test_choices_are_cut_at_the_limit(count: int, text: str) -> None:
    assert errors.choices(range(count), limit=4) == text


@pytest.mark.parametrize("name", [n for n in vars(errors) if n.endswith("Error")])
def test_every_fault_has_the_common_base(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.SpaceEvoError)


def test_a_missing_artifact_names_path_and_remedy() -> None:
    error = errors.MissingArtifactError("teacher", Path("a/b.pth"), "spaceevo +stage=teacher")
    assert str(error) == "teacher is missing: a/b.pth does not exist; make it with: spaceevo +stage=teacher"
    assert (error.path, error.command) == (Path("a/b.pth"), "spaceevo +stage=teacher")


def test_a_missing_package_names_the_extra() -> None:
    assert "pip install 'spaceevo[tflite]'" in str(errors.MissingExtraError("tensorflow", "tflite"))


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigError("seed = x"),
        errors.MissingArtifactError("teacher", Path("a/b.pth"), "spaceevo +stage=teacher"),
        errors.MissingExtraError("tensorflow", "tflite"),
        DivergenceError("max loss is nan", 3),
        BrokenImageError("image a.png cannot be read"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_travels_between_processes(error: errors.SpaceEvoError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
