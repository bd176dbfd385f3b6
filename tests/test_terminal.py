"""What is shown where the output is no terminal."""

from collections.abc import Callable

import pytest
from rich.progress import Progress

from spaceevo import terminal

Advance = Callable[[float], None]


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Let time pass, in seconds; the last line was told at 0."""
    now = [0.0]
    monkeypatch.setattr("spaceevo.terminal.time.monotonic", lambda: now[0])
    monkeypatch.setattr(terminal, "clock", terminal._Clock())

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def test_progress_is_told_in_a_line_from_time_to_time(advance: Advance, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as bar:
        for _ in bar.track(range(100), description="writing subnets"):
            advance(0.7)
    assert capsys.readouterr().out.splitlines() == [
        "  writing subnets: 43 of 100, 40 s left",
        "  writing subnets: 86 of 100, 10 s left",
    ]


def test_tasks_that_are_updated_are_told_too(advance: Advance, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as bar:
        assert isinstance(bar, Progress)
        whole, part = bar.add_task("tables", total=9), bar.add_task("rows", total=None)
        for number in range(1, 6):
            advance(20)
            bar.update(whole, advance=1, description=f"tables, best {number}")
        bar.update(part, completed=7)
        advance(40)
        bar.update(part, advance=1)
    assert [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "  tables",
        "  tables",
        "  rows: 8",
    ]


def test_what_is_quick_is_silent(advance: Advance, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as bar:
        for _ in bar.track(range(1000), description="nothing"):
            advance(0.02)
    assert list(terminal.told(range(900), "nothing")) == [*range(900)]
    assert capsys.readouterr().out == ""


def test_many_short_tasks_are_told_as_one_long_one_and_no_more_often(
    advance: Advance, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal.progress() as bar:
        for _ in bar.track(range(6), description="subnets"):
            for _ in terminal.told(range(10), "batches", 10):
                advance(2)
    assert capsys.readouterr().out.splitlines() == [
        "  batches: 5 of 10, 10 s left",
        "  subnets: 3 of 6, 60 s left",
        "  batches: 5 of 10, 10 s left",
    ]


def test_without_a_total_nothing_is_said_of_the_time_left(advance: Advance, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in terminal.told(iter(range(3)), "batches"):
        advance(31)
    assert capsys.readouterr().out.splitlines() == ["  batches: 1", "  batches: 2"]


def test_other_processes_than_the_first_are_silent(
    advance: Advance, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    for _ in terminal.told(range(3), "batches"):
        advance(31)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (99, "99 s"), (100, "2 min"), (5999, "1 h 40 min"), (86_400, "24 h 0 min")]
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text
