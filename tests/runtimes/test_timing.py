"""Timing on fake clocks: what is timed how often, in which order, and what counts."""

import math
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from spaceevo.runtimes import timing as module
from spaceevo.runtimes.timing import Stillness, Timing, time_models


class Recorded:
    """A model that writes down when it runs; its name tells how many ms of the fake clock that takes."""

    def __init__(self, name: str, calls: list[str], clock: list[int]) -> None:
        self.name = name
        self.calls = calls
        self.clock = clock

    def invoke(self) -> None:
        self.calls.append(self.name)
        self.clock[0] += int(float(self.name) * 1e6)


class Lab:
    """Loads models whose names are their latencies in ms, on a clock that only they move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = list[str]()
        self.clock = [0]
        self.probe_ns = 1000
        monkeypatch.setattr(time, "thread_time_ns", lambda: self.clock[0])
        monkeypatch.setattr(Stillness, "least_ns", 1000.0)
        monkeypatch.setattr(Stillness, "vain_s", 0.0)
        monkeypatch.setattr(Stillness, "_probe_ns", lambda _: self.probe_ns)

    def load(self, model: bytes) -> Recorded:
        return Recorded(model.decode(), self.calls, self.clock)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


class Lazy(Mapping[str, bytes]):
    """Makes each model when asked; remembers the requests."""

    def __init__(self, count: int, calls: list[str]) -> None:
        self.count = count
        self.calls = calls

    def __getitem__(self, name: str) -> bytes:
        self.calls.append(f"made {name}")
        return name.encode()

    def __iter__(self) -> Iterator[str]:
        return iter([str(1 + index) for index in range(self.count)])

    def __len__(self) -> int:
        return self.count


def test_models_are_taken_group_by_group(lab: Lab) -> None:
    found = time_models(Lazy(5, lab.calls), lab.load, repeats=3, group=2)
    assert [call for call in lab.calls if call.startswith("made")] == [f"made {index}" for index in range(1, 6)]
    first_of_second = lab.calls.index("made 3")
    assert {"1", "2"}.isdisjoint(lab.calls[first_of_second:])
    assert found == {str(ms): Timing(float(ms), 1.0) for ms in range(1, 6)}


def test_repeats_are_shuffled_and_repeatable(lab: Lab) -> None:
    models = {"a": b"2", "b": b"3"}
    time_models(models, lab.load, repeats=20, seed=1)
    first, lab.calls[:] = list(lab.calls), []
    time_models(models, lab.load, repeats=20, seed=1)
    assert lab.calls == first
    lab.calls.clear()
    time_models(models, lab.load, repeats=20, seed=2)
    assert sorted(lab.calls) == sorted(first)
    assert lab.calls != first


def test_the_least_counts_and_the_median_is_told(lab: Lab) -> None:
    class Varying(Recorded):
        times_ms = iter([9] + [9, 3, 9, 1, 9, 2, 9, 4, 9, 9])  # every timing follows an untimed run

        def invoke(self) -> None:
            self.clock[0] += next(self.times_ms) * 1_000_000

    lab.probe_ns = 2000  # never still
    timings = time_models({"a": b""}, lambda _: Varying("", [], lab.clock), repeats=5)
    assert timings == {"a": Timing(1.0, 3.0, was_still=False)}


def test_short_models_are_timed_over_many_runs(lab: Lab) -> None:
    found = time_models({"a": b"0.01"}, lab.load, repeats=1)
    assert found["a"].latency_ms == pytest.approx(0.01)
    loops = module.TIMING_NS / 10_000
    assert (
        len(lab.calls) == 1 + 2 * 2 + 1 + loops
    )  # three warm-ups, two of two runs, then one untimed run and the loops
    lab.calls.clear()
    lab.probe_ns = 2000  # never still
    time_models({"a": b"5"}, lab.load, repeats=5)
    assert len(lab.calls) == 1 + 5 * 2  # one to set the loops, then five times one untimed and one timed


def test_a_clock_that_did_not_move_is_asked_again(lab: Lab) -> None:
    class Stopped(Recorded):
        """Takes no time in its first timing, as it seems."""

        def invoke(self) -> None:
            self.calls.append(self.name)
            self.clock[0] += 5_000_000 if len(self.calls) != 3 else 0

    found = time_models({"a": b"5"}, lambda model: Stopped(model.decode(), lab.calls, lab.clock), repeats=1)
    assert found["a"].latency_ms == 5.0
    assert len(lab.calls) == 1 + 2 + 3  # the second time one untimed and two timed


def test_a_few_timings_at_still_moments_are_enough(lab: Lab) -> None:
    class Once(Recorded):
        """Keeps the core busy in its first timing."""

        def invoke(self) -> None:
            super().invoke()
            lab.probe_ns = 2000 if len(self.calls) == 3 else 1000

    time_models({"a": b"5"}, lambda model: Once(model.decode(), lab.calls, lab.clock), repeats=10)
    assert len(lab.calls) == 1 + (1 + 4) * 2  # four of ten at still moments, and one that was not


class FakeClock:
    """A core that is slowed down in the moments told, a nap each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, busy: list[bool]) -> None:
        self.now_s, self.naps, self.busy, self.probe_s = 0.0, 0, busy, 0.0
        monkeypatch.setattr(Stillness, "least_ns", math.inf)
        monkeypatch.setattr(Stillness, "vain_s", 0.0)
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(Stillness, "_probe_ns", lambda _: self.probe_ns())

    def probe_ns(self) -> int:
        self.now_s += self.probe_s
        return 1500 if any(self.busy[self.naps : self.naps + 1]) else 1000

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.naps += 1

    def grant(self, monkeypatch: pytest.MonkeyPatch, patience: float, slack_s: float) -> None:
        monkeypatch.setattr(module, "PATIENCE", patience)
        monkeypatch.setattr(module, "SLACK_S", slack_s)


def test_timings_wait_for_a_still_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [False])
    clock.grant(monkeypatch, patience=1.0, slack_s=10.0)
    stillness = Stillness()
    stillness.wait()
    assert clock.naps == 0
    clock.busy = [True] * 7 + [False]
    stillness.wait()
    assert clock.naps == 7
    assert stillness.is_still()


@pytest.mark.parametrize("probe_s", [0.0, 0.00015])
def test_waiting_ends_when_out_of_patience(monkeypatch: pytest.MonkeyPatch, probe_s: float) -> None:
    clock = FakeClock(monkeypatch, [False])
    clock.grant(monkeypatch, patience=2.0, slack_s=0.5)
    stillness = Stillness()
    clock.busy, clock.probe_s = [True] * 1000, probe_s
    began_s = clock.now_s
    stillness.wait()
    assert clock.now_s - began_s == pytest.approx(0.5, abs=0.1)  # probes after a nap are waiting too
    clock.now_s += 1.0  # a second of measuring earns two of waiting
    stillness.wait()
    assert clock.now_s - began_s == pytest.approx(3.5, abs=0.2)


def test_a_core_that_is_never_still_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [False])
    clock.grant(monkeypatch, patience=0.0, slack_s=100.0)
    monkeypatch.setattr(module, "VAIN_S", 2.0)
    stillness = Stillness()
    for busy_s, waited_s in ((1.0, 1.0), (9.0, 2.0), (9.0, 0.0)):  # the last by what measures next
        began_s, clock.busy = clock.now_s, [False] * clock.naps + [True] * int(busy_s / module.NAP_S)
        stillness.wait()
        assert clock.now_s - began_s == pytest.approx(waited_s, abs=0.06)
        stillness = Stillness()
    clock.busy = [False] * clock.naps + [False]
    assert stillness.is_still()
    began_s, clock.busy = clock.now_s, [False] * clock.naps + [True] * 20
    stillness.wait()  # once there was a still moment
    assert clock.now_s - began_s == pytest.approx(1.0, abs=0.06)


def test_a_timing_counts_where_the_core_was_still_at_both_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [False])
    clock.grant(monkeypatch, patience=0.0, slack_s=10.0)
    stillness = Stillness()

    def timings(*rows: tuple[float, list[bool]]) -> Callable[[], float]:
        """Takes the times told; each leaves the core busy in these next moments."""
        told = iter(rows)

        def take_ns() -> float:
            taken_ns, busy = next(told)
            clock.busy = [False] * clock.naps + busy
            return taken_ns

        return take_ns

    assert stillness.time_ns(timings((3.0, [True]), (5.0, []))) == (5.0, True)  # the first may be of another's making
    assert clock.naps == 1
    disturbed = [(float(ns), [True]) for ns in (9, 7, 8, 6, 9)]
    assert stillness.time_ns(timings(*disturbed)) == (6.0, False)
    clock.grant(monkeypatch, patience=0.0, slack_s=0.0)
    assert stillness.time_ns(timings((4.0, [True]))) == (4.0, False)  # out of patience, one is all


def test_a_process_looks_at_first_how_fast_the_core_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [True] * 10)
    monkeypatch.setattr(module, "FIRST_LOOK_S", 1.0)
    Stillness()
    assert clock.now_s == pytest.approx(1.0, abs=0.06)
    assert Stillness.least_ns == 1000  # though it began in a busy moment
    Stillness()
    assert clock.now_s == pytest.approx(1.0, abs=0.06)


def test_what_begins_in_a_busy_moment_remembers_stiller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [False])
    clock.grant(monkeypatch, patience=0.0, slack_s=10.0)
    Stillness()
    clock.busy = [True] * 3
    later = Stillness()
    assert not later.is_still()
    later.wait()
    assert clock.naps == 3


def test_a_core_that_slept_is_woken_before_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [False])
    clock.grant(monkeypatch, patience=0.0, slack_s=10.0)
    stillness = Stillness()
    probes_ns = [1500]  # something runs beside, for a nap

    def probe_ns(_: Stillness) -> int:
        return probes_ns.pop() if probes_ns else 1000

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        probes_ns[:] = [1500] * 100  # slow from the sleep alone

    monkeypatch.setattr(Stillness, "_probe_ns", probe_ns)
    monkeypatch.setattr(time, "sleep", sleep)
    probes_ns.append(1500)
    stillness.wait()
    assert clock.naps == 1
