"""The documentation's site: it builds without a warning, and has a page for each job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spaceevo.space.description import conf_files

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    pages = {page.parent.name for page in (tmp_path / "site/jobs").glob("*/index.html")}
    assert pages >= set(conf_files("stage"))
    assert "recipe.supernet.fp32.epochs" in (tmp_path / "site/jobs/supernet/index.html").read_text(encoding="utf-8")
