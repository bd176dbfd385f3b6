"""The commands of README and documentation: all are understood, and what is shown in blocks and tables runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from spaceevo.jobs.runner import job_type
from spaceevo.jobs.words import composed, hydras_words, options
from tests.e2e.published_commands import PAGE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted({*DOCS.glob("*.md")} - {PAGE})]  # that one has a test of its own
BLOCK = re.compile(r"```(sh|yaml|python)\n(.*?)```", re.DOTALL)
WORDS = re.compile(
    r"`((?:python -m spaceevo |spaceevo )?(?:-m )?(?:\+stage|experiment)=[^`]+ [^`]+)`"
)  # of more than a job's name
PROGRAM = re.compile(r"^(?:python -m spaceevo|spaceevo|torchrun .*?-m spaceevo) ")
FILE = re.compile(r"# (my_conf/\S+\.yaml)\n")
COLOURS = {"amber": "#ffbf00", "jade": "#00a86b", "navy": "#000080", "rose": "#ff007f"}
UNREACHED = ("ssh ", "platform.host=", "chains=", "watch=10")  # another machine, another chain, and a look that lasts
IMAGES = "data.root=my_images data.holdout=16"  # of 96


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


def blocks(page: Path) -> list[str]:
    """All commands in the blocks of a page, in order, without their comments."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    lines = [line for kind, text in found if kind == "sh" for line in text.splitlines()]
    return [re.sub(r"\s+# .*", "", line) for line in lines if not line.startswith("#")]


def words_of(page: Path) -> list[str]:
    """The words of every command that a page names; those that leave something out are none."""
    found = [PROGRAM.sub("", line) for line in blocks(page) if PROGRAM.match(line)]
    found += [PROGRAM.sub("", text) for text in WORDS.findall(page.read_text(encoding="utf-8"))]
    return [text for text in dict.fromkeys(found) if "…" not in text and "<" not in text and "my_conf" not in text]


ALL = [(page.name, words) for page in PAGES for words in words_of(page)]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page}: {words}" for page, words in ALL])
def test_every_command_is_understood(page: str, words: str) -> None:
    typed = [word for word in shlex.split(words.replace("\\|", "|")) if word not in ("-m", "--help")]
    given = options(hydras_words(typed)).overrides
    if any("hydra/" in word for word in given):  # a launcher or sweeper of an extra
        given = [word for word in given if "hydra" not in word]
    is_sweep = "-m " in words
    assert job_type(composed([word.partition(",")[0] if is_sweep else word for word in given], None)).name


def run(commands: Sequence[str], folder: Path) -> None:
    """Run commands in a shell, each of which must end well."""
    here = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SPACEEVO_CACHE": str(folder / "cache"),
    }
    for command in commands:
        ended = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env={**os.environ, **here},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-1500:]}\n{ended.stderr[-1500:]}"


@pytest.mark.slow
def test_the_stages_of_the_readme_run_one_after_the_other(tmp_path: Path) -> None:
    """As its table has them, with `debug=fast`; INT8 after fp32 where it says so, then a look at what they left."""
    draw_images(tmp_path / "my_images")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = [line.strip("| ").split(" | ")[0].strip("`") for line in text.splitlines() if line.startswith("| `+stage=")]
    assert len(table) == 10
    chain = []
    for words in table:
        own = words.replace("data.root=/path/to/images", IMAGES).replace(
            "latency_constraint=0.4", "latency_constraint=auto"
        )
        chain.append(f"{own} debug=fast")
        if words.startswith(("+stage=teacher", "+stage=supernet")):
            chain.append(f"{own} quant=deploy debug=fast")
    run([f"python -m spaceevo {words}" for words in chain], tmp_path)
    looks = [command for page in ("watch.md", "devices.md") for command in blocks(DOCS / page)]
    run([f"{command} debug=fast" for command in looks if not any(word in command for word in UNREACHED)], tmp_path)


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    pages = ROOT / "README.md", DOCS / "api.md"
    for page in pages:
        (code,) = (text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == "python")
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=600)


@pytest.mark.slow
def test_recipes_run_as_they_stand(tmp_path: Path) -> None:
    draw_images(tmp_path / "my_images")
    for kind, text in BLOCK.findall((DOCS / "recipes.md").read_text(encoding="utf-8")):
        if kind == "yaml" and (file := FILE.match(text)):
            (tmp_path / file[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file[1]).write_text(text, encoding="utf-8")
    tables = "python -m spaceevo +stage=pipeline superspace=digits debug=fast"  # which the sweep says it needs
    run([tables, *blocks(DOCS / "recipes.md")], tmp_path)
