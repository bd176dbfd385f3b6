"""The page for those who come from the published scripts: as written, composed, and run on small things."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.published_commands import LINES, PAGE, Line, key, page, small
from tests.jobs.conftest import Compose, RunJob


def test_the_page_is_as_its_lines_are() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.e2e.published_commands writes it"


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=[line.published for line in LINES])
def test_every_line_is_understood_in_full_size(compose: Compose, line: Line) -> None:
    assert compose(*line.ours.split()).stage.name


@pytest.fixture
def ten_classes(tmp_path: Path) -> Path:
    """Images of as many classes as the released file has outputs, which it does not name."""
    for split, count in (("train", 3), ("val", 1)):
        for label in range(10):
            folder = tmp_path / "ten" / split / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                Image.effect_noise((32, 32), 20 + 20 * label).convert("RGB").save(folder / f"{number}.png")
    return tmp_path / "ten"


@pytest.mark.slow
def test_every_line_runs_on_small_things(
    tiny: RunJob, released: Path, tables: Path, ten_classes: Path, images: Path, tmp_path: Path
) -> None:
    """In the order of the page, each in what the ones before it left."""
    places = {
        "data.root": f"data.root={ten_classes}",
        "checkpoint": f"checkpoint={released}",
        "source": f"source={tables}",
        "paths.lut": f"paths.lut={tables}",
        "paths.checkpoints": f"paths.checkpoints={tmp_path / 'checkpoints'}",
        "data": f"data.root={images}",
        "latency_constraint": "latency_constraint=[100]",
        "recipe.subnet_search.delta_ms": "recipe.subnet_search.delta_ms=100",
    }
    table = f"platform.table={tmp_path / 'table.json'}"
    order = sorted(LINES, key=lambda line: "+stage=fit_latency" not in line.ours)  # its table is what others read
    for line in order:
        stage, *words = (places.get(key(word), word) for word in small(line))
        words += [table] if "platform=pixel4" in words else []
        if "data.root" not in map(key, words):  # a line that names no images needs none
            words.append(f"data.root={tmp_path / 'absent'}")
        result = tiny(stage.removeprefix("+stage="), "debug=fast", *words)
        assert result.figures, line.published
        assert all(Path(path).exists() for path in result.outputs.values()), line.published
