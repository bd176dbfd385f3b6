"""What is shown where the output is no terminal."""

import pytest
from rich.progress import Progress

from spaceevo import terminal


def test_progress_is_told_in_a_line_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("spaceevo.terminal.time.monotonic", lambda: now[0])
    with terminal.progress() as bar:
        for _ in bar.track(range(100), description="writing subnets"):
            now[0] += 0.7
    assert capsys.readouterr().out.splitlines() == ["  writing subnets: 43 of 100", "  writing subnets: 86 of 100"]


def test_tasks_that_are_updated_are_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("spaceevo.terminal.time.monotonic", lambda: now[0])
    with terminal.progress() as bar:
        assert isinstance(bar, Progress)
        whole, part = bar.add_task("tables", total=9), bar.add_task("rows", total=None)
        for number in range(1, 6):
            now[0] += 20
            bar.update(whole, advance=1, description=f"tables, best {number}")
        bar.update(part, completed=7)
        now[0] += 40
        bar.update(part, advance=1)
    assert capsys.readouterr().out.splitlines() == ["  tables, best 2: 2 of 9", "  tables, best 4: 4 of 9", "  rows: 8"]


def test_what_is_quick_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as bar:
        for _ in bar.track(range(1000), description="nothing"):
            pass
    assert capsys.readouterr().out == ""
