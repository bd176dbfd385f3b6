"""What a job will cost is told from trials on few images: exactly where its work grows in proportion."""

from collections.abc import Callable, Mapping

import pytest

from spaceevo.artifacts.work import REST, Amount, Extent, Scale, Spent
from spaceevo.jobs.costs import BUDGET_S, Cost, counted, estimate
from spaceevo.jobs.trial import Trial

FIXED_S, WARM_UP_S = 3.0, 5.0
MB = 10**6
Attempt = Callable[[Extent], Trial]


def truth(amounts: Mapping[str, Amount], each: Mapping[str, tuple[float, float]]) -> float:
    """Seconds that all of it takes: so many of each time, and so many more for each image of it."""
    return FIXED_S + sum(of.times * (each[kind][0] + each[kind][1] * of.size) for kind, of in amounts.items())


def machine(asked: Mapping[str, Amount], each: Mapping[str, tuple[float, float]], tried: list[Extent]) -> Attempt:
    """A machine of known speed: processors take half of the time by the clock, and the first of a kind warms up."""

    def attempt(extent: Extent) -> Trial:
        tried.append(extent)
        sizes = {kind: min(of.size, extent.images or of.size) for kind, of in asked.items()}
        times = {kind: 1 + extent.repeats if of.times > 9 else 1 for kind, of in asked.items()}
        spent, seconds = {}, FIXED_S
        for kind in asked:
            spent[kind] = Spent(kind)
            for number in range(times[kind]):
                one = (
                    each[kind][0] + each[kind][1] * sizes[kind] + (WARM_UP_S if number == 0 and times[kind] > 1 else 0)
                )
                spent[kind] = spent[kind].more(1, 2 * one, one)
                seconds += one
        memory = 300 * MB + 2 * MB * int(max(sizes.values()))
        amounts = {kind: Amount(times[kind], sizes[kind]) for kind in asked}
        return Trial(amounts, spent, 2 * seconds, seconds, memory, 7 * MB)

    return attempt


@pytest.mark.parametrize(("speed", "images"), [(0.001, None), (0.2, 32), (5.0, 4)])
def test_it_is_exact_however_few_images_are_tried(speed: float, images: int | None) -> None:
    asked = {"steps": Amount(120, 64), "looks": Amount(3, 40), "saves": Amount(12)}
    each = {"steps": (0.2 * speed, speed), "looks": (0.1, 0.2 * speed), "saves": (0.01, 0.0)}
    tried: list[Extent] = []
    found = estimate(asked, machine(asked, each, tried))
    assert [it.images for it in tried] == [2, images]
    warm_ups = WARM_UP_S * 2  # of steps and of saves
    assert found.processor_seconds == pytest.approx(truth(asked, each) + warm_ups)
    assert found.seconds == pytest.approx(2 * found.processor_seconds)
    assert found.memory_mb == pytest.approx(300 + 2 * 64)
    assert found.disk_mb == 7
    assert ("in proportion" in found.tried) == (images is not None)


def test_the_second_trial_keeps_its_budget() -> None:
    asked = {"steps": Amount(1000, 256)}
    for exponent in range(-6, 2):
        speed, tried = 10.0**exponent, list[Extent]()
        estimate(asked, machine(asked, {"steps": (0.0, speed)}, tried))
        last = tried[-1]
        takes = (1 + last.repeats) * speed * (last.images or 256)
        assert last.images == 4 or takes <= 9 * BUDGET_S  # where all of the time grows, and little was foreseen to


def test_what_took_less_than_foreseen_is_tried_for_longer() -> None:
    """A step of .3 s on two images is foreseen to take 5 s on 64, and takes .36 s, as quantised ones do."""
    asked, each, tried = {"steps": Amount(170, 64)}, {"steps": (0.3, 0.001)}, list[Extent]()
    found = estimate(asked, machine(asked, each, tried))
    assert tried[1] == Extent(None, 2)
    assert [it.images for it in tried] == [2, None, None] and tried[2].repeats >= 4
    assert found.processor_seconds == pytest.approx(truth(asked, each) + WARM_UP_S)
    spent = sum(FIXED_S + WARM_UP_S + (1 + it.repeats) * 0.364 for it in tried[1:])
    assert spent <= BUDGET_S


def test_all_images_are_tried_where_that_turns_out_to_be_cheap() -> None:
    """What takes 1.5 s on two images is foreseen to take minutes on 450, and takes 2.4 s: most is no image's."""
    asked, tried = {"parity": Amount(1, 450)}, list[Extent]()
    attempt = machine(asked, {"parity": (1.5, 0.002)}, tried)
    found = estimate(asked, attempt)
    assert [it.images for it in tried[:3]] == [2, 16, None]
    assert found.processor_seconds == pytest.approx(FIXED_S + 2.4)
    assert "in proportion" not in found.tried


def test_what_is_done_once_is_not_repeated_in_the_second_trial() -> None:
    asked = {"steps": Amount(300, 64), "looks": Amount(1, 2000)}
    for looks_s in (0.001, 0.06):  # an image: a look is foreseen to take a tenth of a second, and 4 s
        tried = list[Extent]()
        estimate(asked, machine(asked, {"steps": (0.05, 0.0005), "looks": (0.0, looks_s)}, tried))
        assert tried[-1] == Extent(None, 24)


def test_what_was_done_for_all_jobs_that_follow_counts_once() -> None:
    asked = {"rows": Amount(100, 64)}

    def attempt(extent: Extent) -> Trial:
        images = extent.images or 64
        spent = {"rows": Spent("rows").more(1, 2.0, 1.0).more(1, 2.0, 1.0)}
        is_first = images == 2
        whole = {"networks measured whole": Spent("networks measured whole").more(10, 14.0, 7.0)} if is_first else {}
        seconds = 4.0 + (14.0 if is_first else 0.0)
        return Trial({"rows": Amount(2, images)}, {**spent, **whole}, seconds, seconds / 2, MB, MB)

    assert estimate(asked, attempt).processor_seconds == pytest.approx(100 * 1.0 + 7.0)


def test_work_that_a_job_does_not_count_is_part_of_the_rest() -> None:
    """Subnets' blocks are measured where tables lack them: how many is not known."""

    def attempt(extent: Extent) -> Trial:
        spent = {
            "subnets": Spent("subnets").more(1, 2.0, 1.0).more(1, 2.0, 1.0),
            "blocks": Spent("blocks", 3, 6.0, 0.5),
        }
        return Trial({"subnets": Amount(2, extent.images or 64)}, spent, 12.0, 4.5, MB, MB)

    found = estimate({"subnets": Amount(50, 64)}, attempt)
    assert found.each == pytest.approx({REST: 12.0 - 4.0, "subnets": 2.0})
    assert found.processor_seconds == pytest.approx(50 * 1.0 + 2.0 + 0.5)


def test_work_of_one_size_counts_in_both_trials() -> None:
    """Few blocks are new to the second trial, and the machine is waited for as long for these."""
    asked = {"rows": Amount(100, 64), "blocks": Amount(400)}

    def attempt(extent: Extent) -> Trial:
        images, new = extent.images or 64, 90 if extent.images == 2 else 10
        blocks = Spent("blocks").more(new, 18.0, 9.0)  # measured all at once, and so first
        rows = Spent("rows").more(1, 1.0, 1.0).more(1, 1.0, 1.0)
        amounts = {"rows": Amount(2, images), "blocks": Amount(new)}
        return Trial(amounts, {"rows": rows, "blocks": blocks}, 20.0, 11.0, MB, MB)

    found = estimate(asked, attempt)
    assert found.each["blocks"] == pytest.approx(36.0 / 100)
    assert found.seconds_by_kind["blocks"] == pytest.approx(400 * 36.0 / 100)


def test_work_of_one_size_leaves_the_number_of_images_alone() -> None:
    """Blocks that take long to measure do so on few images too."""
    asked, tried = {"subnets": Amount(46, 64), "blocks": Amount(150)}, list[Extent]()

    def attempt(extent: Extent) -> Trial:
        tried.append(extent)
        images, new = extent.images or 64, 40 if len(tried) == 1 else 20
        subnets = Spent("subnets").more(1, 0.05, 0.05).more(1, 0.05, 0.05)
        blocks = Spent("blocks").more(new, 1.0 * new, 0.6 * new)
        return Trial(
            {"subnets": Amount(2, images), "blocks": Amount(new)},
            {"subnets": subnets, "blocks": blocks},
            60.0,
            26.0,
            MB,
            MB,
        )

    estimate(asked, attempt)
    assert [extent.images for extent in tried] == [2, None]
    assert tried[1].repeats == 2  # they decide how long it may take


def test_work_is_counted_as_people_say_it() -> None:
    assert counted(1, "saved states") == "1 saved state"
    assert counted(1, "networks measured whole") == "1 network measured whole"
    assert counted(1, "teacher's features") == "1 teacher's feature"
    assert counted(2, "saved states") == "2 saved states"


def test_networks_that_are_not_tried_take_memory_and_disk() -> None:
    asked = {"steps": Amount(120, 64)}
    found = estimate(asked, machine(asked, {"steps": (0.0, 0.001)}, []), as_many=3.0)
    assert found.memory_mb == pytest.approx(300 + 2 * 64 + 2 * 7)
    assert found.disk_mb == pytest.approx(3 * 7)


def test_work_without_images_is_tried_once() -> None:
    asked, tried = {"spaces": Amount(100, 5000)}, list[Extent]()

    def attempt(extent: Extent) -> Trial:
        tried.append(extent)
        return Trial({"spaces": Amount(20, 5000)}, {"spaces": Spent("spaces").more(20, 8.0, 7.0)}, 9.0, 8.0, MB, MB)

    assert estimate(asked, attempt).seconds == pytest.approx(1 + 100 * 8 / 20)
    assert len(tried) == 1


def test_a_brief_job_is_tried_twice_and_its_mean_counts() -> None:
    asked, tried = {"spaces": Amount(100, 5000)}, list[Extent]()

    def attempt(extent: Extent) -> Trial:
        tried.append(extent)
        spent_s, rest_s = (2.0, 1.0) if len(tried) == 1 else (4.0, 2.0)
        spent = {"spaces": Spent("spaces").more(10, spent_s / 10, 0.0).more(10, spent_s / 10, 0.0)}
        return Trial({"spaces": Amount(20, 5000)}, spent, spent_s / 5 + rest_s, 1.0, MB, MB)

    found = estimate(asked, attempt)
    assert found.seconds == pytest.approx(100 * (0.2 + 0.4) / 20 + (1 + 2) / 2)
    assert len(tried) == 2


def test_costs_add_up_but_for_memory() -> None:
    one, other = Cost(1.0, 2.0, 300.0, 4.0, {}, "a"), Cost(10.0, 20.0, 200.0, 40.0, {}, "b")
    total = Cost.sum([one, other])
    assert (total.seconds, total.processor_seconds, total.memory_mb, total.disk_mb) == (11.0, 22.0, 300.0, 44.0)


def test_what_came_first_does_not_count_where_there_is_more() -> None:
    first = Spent("steps").more(2, 30.0, 20.0)
    assert first.each == (15.0, 10.0)
    assert first.more(1, 4.0, 3.0).more(3, 8.0, 5.0).each == (3.0, 2.0)


def test_settings_are_scaled_along_and_nothing_is_left_out() -> None:
    scale = Scale("recipe.epochs", 10, ("steps",), {"recipe.warmup_epochs": 2.0, "recipe.children": 5})
    assert scale.values(0.45) == {"recipe.epochs": 4, "recipe.warmup_epochs": 0.8, "recipe.children": 2}
    assert scale.values(0.01) == {"recipe.epochs": 1, "recipe.warmup_epochs": 0.2, "recipe.children": 1}
