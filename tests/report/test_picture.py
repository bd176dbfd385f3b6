"""Pictures are written whole or not at all."""

from pathlib import Path

import pytest
from PIL import Image

from spaceevo.report.picture import STYLE, picture


def test_a_picture_has_as_many_axes_as_asked(tmp_path: Path) -> None:
    with picture(tmp_path / "two.png", columns=2) as axes:
        for one in axes:
            one.plot([0, 1], [0, 1])
    assert len(axes) == 2
    with Image.open(tmp_path / "two.png") as image:
        assert image.size == (1200, 480)


def test_ticks_have_labels_beside_which_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As users get it; other tests draw without labels."""
    for fitted in [name for name, value in STYLE.items() if not value and not name.startswith("axes.spines")]:
        monkeypatch.setitem(STYLE, fitted, True)
    with picture(tmp_path / "one.png") as (axes,):
        axes.plot([0, 1], [0, 1])
        axes.set(xlabel="epoch", ylabel="loss", yticks=[0, 1], yticklabels=["none", "as much as at the beginning"])
    inside, whole, sheet = axes.get_window_extent(), axes.get_tightbbox(), axes.figure.bbox
    assert whole is not None
    assert inside.x0 - whole.x0 > 150
    assert whole.x0 >= 0 and whole.y0 >= 0 and whole.x1 <= sheet.x1 and whole.y1 <= sheet.y1


def test_a_failed_picture_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), picture(tmp_path / "broken.png"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
