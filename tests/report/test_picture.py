"""Pictures are written whole or not at all."""

from pathlib import Path

import pytest
from PIL import Image

from spaceevo.report.picture import picture


def test_a_picture_has_as_many_axes_as_asked(tmp_path: Path) -> None:
    with picture(tmp_path / "two.png", columns=2) as axes:
        for one in axes:
            one.plot([0, 1], [0, 1])
    assert len(axes) == 2
    with Image.open(tmp_path / "two.png") as image:
        assert image.size == (1200, 480)


def test_a_failed_picture_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), picture(tmp_path / "broken.png"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
