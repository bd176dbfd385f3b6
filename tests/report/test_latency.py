from pathlib import Path

from PIL import Image

from spaceevo.report.latency import draw_predictions


def test_a_picture_of_two_panels_is_written(tmp_path: Path) -> None:
    path = tmp_path / "predictions.png"
    draw_predictions(path, [1.0, 2.1, 3.6], [1.0, 2.0, 3.0], "ort_cpu")
    with Image.open(path) as picture:
        assert picture.width > 1.8 * picture.height
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


def test_one_network_can_be_drawn(tmp_path: Path) -> None:
    draw_predictions(tmp_path / "one.png", [1.0], [1.0], "one")
    assert (tmp_path / "one.png").stat().st_size > 1000
