"""The recipes of the documentation, run as they stand by someone who has a folder of images of four classes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"```(sh|yaml)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"# (my_conf/\S+\.yaml)\n")
COLOURS = {"amber": "#ffbf00", "jade": "#00a86b", "navy": "#000080", "rose": "#ff007f"}


def draw_images(root: Path) -> None:
    """Discs of four colours at different places."""
    for split, count in (("train", 24), ("val", 6)):
        for label, colour in COLOURS.items():
            folder = root / split / label
            folder.mkdir(parents=True)
            for n in range(count):
                image = Image.new("RGB", (40, 36), "white")
                ImageDraw.Draw(image).ellipse((n % 8, n % 6, n % 8 + 24, n % 6 + 24), fill=colour)
                image.save(folder / f"{n}.png")


def commands(page: str) -> list[str]:
    """All commands of a page, in order."""
    blocks = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    return [line for kind, text in blocks if kind == "sh" for line in text.splitlines()]


@pytest.mark.slow
def test_recipes_run_as_they_stand(tmp_path: Path) -> None:
    draw_images(tmp_path / "my_images")
    for kind, text in BLOCK.findall((DOCS / "recipes.md").read_text(encoding="utf-8")):
        if kind == "yaml" and (file := FILE.match(text)):
            (tmp_path / file[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file[1]).write_text(text, encoding="utf-8")
    here = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SPACEEVO_CACHE": str(tmp_path / "cache"),
    }
    tables = "python -m spaceevo +stage=pipeline superspace=digits debug=fast"  # which the sweep says it needs
    for command in [tables, *commands("recipes.md")]:
        ended = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env={**os.environ, **here},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-1500:]}\n{ended.stderr[-1500:]}"
