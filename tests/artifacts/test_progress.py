"""What a record of progress tells whoever reads it: when a task ends, and what became of the process."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from spaceevo.artifacts.progress import JobProgress, Task
from spaceevo.artifacts.records import parse_record
from spaceevo.artifacts.work import REST, TRAINED, Amount, Spent

RECORD = JobProgress("supernet", "python -m spaceevo +stage=supernet", began=100.0, told=150.0)
RECORDED = json.loads((Path(__file__).parent / "recorded_progress.json").read_text())


@pytest.mark.parametrize(
    ("task", "ends"),
    [
        (Task("a", done=10, total=100, began=1000.0, began_at=0, told=1020.0), 1200.0),
        (Task("resumed", done=60, total=100, began=1000.0, began_at=50, told=1020.0), 1100.0),
        (Task("begun", done=0, total=100, began=1000.0, began_at=0, told=1000.0), None),
        (Task("endless", done=5, total=None, began=1000.0, began_at=0, told=1010.0), None),
    ],
)
def test_a_task_ends_as_fast_as_it_went(task: Task, ends: float | None) -> None:
    assert task.ends == ends


def test_the_task_at_hand_is_the_last_told_of_that_is_not_finished() -> None:
    finished = Task("features", done=9, total=9, began=0, began_at=0, told=50.0)
    older, newer = (
        Task(name, done=1, total=9, began=0, began_at=0, told=told) for name, told in (("a", 10), ("b", 20))
    )
    assert replace(RECORD, tasks=(newer, older, finished)).task == newer
    assert replace(RECORD, tasks=(finished,)).task == finished


def test_a_process_that_is_gone_was_killed() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert replace(RECORD, process=gone.pid).fate == "killed"
    assert replace(RECORD, process=os.getpid()).fate == "running"
    assert replace(RECORD, process=gone.pid, state="failed").fate == "failed"


def test_a_process_elsewhere_is_known_by_what_it_tells() -> None:
    assert replace(RECORD, host="elsewhere", told=time.time() - 599).fate == "running"
    assert replace(RECORD, host="elsewhere", told=time.time() - 601).fate == "silent"


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    record = replace(RECORD, tasks=(Task("a", 1, None, 2, 3, 4),), troubles=("rolled back",), error="full")
    record = replace(record, amounts={"steps": Amount(9.0, 64.0)}, spent=(Spent("steps").more(2, 3.0, 1.5),))
    record.write(tmp_path / "progress.json")
    assert JobProgress.read(tmp_path / "progress.json") == record


Pieces = list[tuple[str, float]]  # Kind of work and seconds of each piece, in order


def jobs_end(amounts: dict[str, Amount], pieces: Pieces, share: float) -> tuple[float, float]:
    """When a job is told to end once so much of its time is over, and when it does; it begins at 0."""
    whole = sum(seconds for _, seconds in pieces)
    spent: dict[str, Spent] = {}
    now, steps = 0.0, 0
    for kind, seconds in pieces:
        if now >= share * whole:
            break
        now += seconds
        spent[kind] = spent.get(kind, Spent(kind)).more(1, seconds, seconds)
        steps += kind == STEPS
    task = Task("steps", steps, amounts[STEPS].times, 0.0, 0.0, now)
    record = replace(RECORD, began=0.0, told=now, tasks=(task,), amounts=amounts, spent=tuple(spent.values()))
    assert record.ends is not None
    return record.ends, whole


STEPS, LOOKS, SAVES = "training steps", "evaluations", "saved states"


def training(epochs: int, steps: int, step_s: float, look_s: float, every: int | None = None) -> Pieces:
    """A training's pieces: steps of unequal lengths, the first of which warms up, looks now and then and at the end."""
    pieces: Pieces = []
    for epoch in range(epochs):
        if every is not None and epoch and epoch % every == 0:
            pieces.append((LOOKS, look_s))
        lengths = [step_s * (0.7, 1.3, 0.9, 1.1)[number % 4] for number in range(steps)]
        pieces += [(STEPS, length) for length in lengths]
        pieces.append((SAVES, 0.1 * step_s))
    first = pieces[0][1] + 15 * step_s
    return [(STEPS, first), *pieces[1:], (LOOKS, look_s)]


@pytest.mark.parametrize(
    ("pieces", "batch", "images"),
    [
        # as recorded of the demo: a supernet of 36 epochs, seconds of a step and of a look
        (training(36, 17, 0.40, 1.6, every=5), 4 * 64, 1412),
        # a teacher, of one pass a step, looked at once
        (training(24, 17, 0.14, 0.5), 64, 450),
        # looks that take long beside the steps, of which none has come after a tenth
        (training(20, 10, 1.0, 5.0, every=3), 4 * 50, 1600),
    ],
)
def test_after_a_tenth_the_end_is_told_within_15_percent(pieces: Pieces, batch: int, images: int) -> None:
    times = {kind: sum(one == kind for one, _ in pieces) for kind, _ in pieces}
    sizes = {STEPS: TRAINED * batch, LOOKS: images, SAVES: 1}
    amounts = {kind: Amount(times[kind], sizes[kind]) for kind in times}
    for share in (0.1, 0.3, 0.6, 0.9):
        told, true = jobs_end(amounts, pieces, share)
        assert told == pytest.approx(true, rel=0.15)
    steps_alone, true = jobs_end({STEPS: amounts[STEPS]}, pieces, 0.1)
    assert steps_alone < true


@pytest.mark.parametrize("job", RECORDED)
def test_the_end_of_real_runs_is_told_within_15_percent_after_a_tenth(job: str) -> None:
    """Records of the demo's jobs, seconds of processors since they began (experiments/plan)."""
    took, told = RECORDED[job]["took"], []
    for content in RECORDED[job]["records"]:
        plain = {"stage": job, "command": "", "began": 0.0, **content}
        record = parse_record(JobProgress, plain, Path(job))
        if record.ends is not None:
            told.append(record.ends)
    assert len(told) >= 3
    assert told == pytest.approx([took] * len(told), rel=0.15)


def test_a_job_that_goes_on_ends_as_fast_as_it_goes_now() -> None:
    amounts = {STEPS: Amount(100, 16), LOOKS: Amount(2, 8)}
    task = Task("steps", done=60, total=100, began=0.0, began_at=51, told=20.0)  # 50 were done before the kill
    spent = (Spent(STEPS).more(1, 11.0, 11.0).more(9, 9.0, 9.0),)
    record = replace(RECORD, told=20.0, tasks=(task,), amounts=amounts, spent=spent)
    assert record.ends == pytest.approx(20.0 + 40 * 1.0 + 1 * 8 / 16)


def test_images_are_not_guessed_at_by_blocks_that_are_measured() -> None:
    amounts = {"measured blocks": Amount(142), "rows": Amount(108, 278)}
    blocks = Spent("measured blocks").more(9, 0.2, 0.2).more(80, 1.6, 1.6)
    task = Task("blocks", done=89, total=142, began=0.0, began_at=0, told=5.0)
    record = replace(RECORD, told=5.0, tasks=(task,), amounts=amounts, spent=(blocks,))
    assert record.ends is None
    rows = Spent("rows").more(1, 0.3, 0.3).more(7, 0.7, 0.7)
    assert replace(record, spent=(blocks, rows)).ends == pytest.approx(5.0 + 53 * 0.02 + 100 * 0.1)


def test_nothing_is_told_before_what_takes_longest_has_begun() -> None:
    amounts = {"teacher's features": Amount(2, 100), "rows": Amount(540, 100)}
    spent = (Spent("teacher's features").more(1, 5.0, 5.0),)
    task = Task("features", done=1, total=2, began=0.0, began_at=0, told=5.0)
    record = replace(RECORD, told=5.0, tasks=(task,), amounts=amounts, spent=spent)
    assert record.ends is None
    warm = Spent("rows").more(4, 40.0, 40.0)
    assert replace(record, spent=(*spent, warm)).ends is None
    begun = replace(record, spent=(*spent, warm.more(6, 12.0, 12.0)))
    assert begun.ends == pytest.approx(5.0 + 5.0 + 530 * 2.0)


FORESEEN = {"measured blocks": 0.02, "rows": 0.1, "teacher's features": 1.0}


def lut_record(told: float, *spent: Spent) -> JobProgress:
    """A look-up tables' job of which a plan told 142 × .02 + 108 × .1 + 2 × 1.0 = 15.64 s."""
    amounts = {"measured blocks": Amount(142), "rows": Amount(108, 278), "teacher's features": Amount(2, 278)}
    return replace(RECORD, began=0.0, told=told, amounts=amounts, foreseen=FORESEEN, spent=spent)


def test_what_a_plan_told_tells_the_end_from_the_start() -> None:
    assert lut_record(0.5).ends == pytest.approx(0.5 + 15.64)


def test_what_comes_is_as_much_slower_than_a_plan_told_as_what_came() -> None:
    blocks = Spent("measured blocks").more(2, 9.0, 9.0).more(50, 50 * 0.03, 1.0)  # half as long again
    left = 90 * 0.03 + 1.5 * (108 * 0.1 + 2 * 1.0)
    assert lut_record(11.0, blocks).ends == pytest.approx(11.0 + left)
    # what has only warmed up says nothing of what follows
    warm = Spent("rows").more(8, 80.0, 80.0)
    assert lut_record(91.0, blocks, warm).ends == pytest.approx(91.0 + left - 8 * 0.15)


def test_what_a_kind_took_counts_more_than_what_a_plan_told_of_it() -> None:
    rows = Spent("rows").more(1, 0.2, 0.2).more(7, 7 * 0.2, 1.4)
    assert lut_record(2.0, rows).ends == pytest.approx(2.0 + 100 * 0.2 + 2 * (142 * 0.02 + 2 * 1.0))


def test_a_plan_that_does_not_know_all_kinds_tells_nothing() -> None:
    assert replace(lut_record(0.5), foreseen={"rows": 0.1}).ends is None


def test_a_task_that_is_told_of_at_its_end_alone_was_not_done_before_a_kill() -> None:
    task = Task("measuring 115 blocks", done=115, total=115, began=5.0, began_at=115, told=9.0)
    assert replace(lut_record(9.0), tasks=(task,)).ends == pytest.approx(9.0 + 15.64)


def test_what_a_plan_told_of_all_else_comes_at_the_start_and_at_the_end() -> None:
    foreseen = {**FORESEEN, REST: 5.0}
    assert replace(lut_record(2.0), foreseen=foreseen).ends == pytest.approx(2.0 + 3.0 + 15.64)
    rows = Spent("rows").more(8, 2.8, 2.8).more(100, 10.0, 10.0)
    record = replace(lut_record(14.8, rows), foreseen=foreseen)  # 2 s were not of that work, and 2 s warmed up
    assert record.ends == pytest.approx(14.8 + 1.0 + 142 * 0.02 + 2 * 1.0)


def test_the_first_pieces_count_until_as_many_others_are_done() -> None:
    """As recorded of the demo's tables: twenty blocks told less of the rest than all 135 did (experiments/plan)."""
    spent = Spent("measured blocks").more(115, 19.5, 19.5)
    assert spent.each == pytest.approx((19.5 / 115,) * 2)
    assert spent.more(20, 13.2, 13.2).each == pytest.approx((32.7 / 135,) * 2)
    assert spent.more(115, 23.0, 23.0).each == pytest.approx((0.2, 0.2))
