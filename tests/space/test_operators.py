from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from spaceevo.space.description import parse_space, superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import (
    crossover_subnet,
    mutate_block,
    mutate_subnet,
    mutate_window,
    sample_member,
    sample_subnet,
)
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import SpaceMember, Superspace

MEMBERS = ["mobilew-013456-133421", "mobilew-122222-155400", "onnxw-501234-123123", "digits-012-110"]


@pytest.fixture(params=MEMBERS)
def member(request: pytest.FixtureRequest) -> SpaceMember:
    return parse_space(request.param)


def test_results_are_subnets_of_the_space(member: SpaceMember) -> None:
    rng = Random(1)
    for _ in range(100):
        one, other = sample_subnet(member, rng), sample_subnet(member, rng)
        for spec in (one, mutate_subnet(member, one, rng), crossover_subnet(member, one, other, rng)):
            member.validate(spec)


def test_the_seed_decides(member: SpaceMember) -> None:
    def draw(seed: int) -> list[object]:
        rng = Random(seed)
        one, other = sample_subnet(member, rng), sample_subnet(member, rng)
        return [
            one,
            other,
            mutate_subnet(member, one, rng),
            crossover_subnet(member, one, other, rng),
            sample_member(member.superspace, rng),
            mutate_block(member, rng),
            mutate_window(member, rng),
        ]

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_arguments_stay_as_they_are(member: SpaceMember) -> None:
    one, other, text = member.largest, member.smallest, str(member)
    for seed in range(20):
        mutate_subnet(member, one, Random(seed))
        crossover_subnet(member, one, other, Random(seed))
        mutate_block(member, Random(seed))
        mutate_window(member, Random(seed))
    assert (one, other, str(member)) == (member.largest, member.smallest, text)


def evenly(values: list[object], options: tuple[object, ...]) -> bool:
    """Every option's share is within 20% of its due."""
    counts = Counter(values)
    due = len(values) / len(options)
    return counts.keys() == set(options) and all(0.8 * due < counts[option] < 1.2 * due for option in options)


def test_sampling_is_uniform() -> None:
    member = parse_space("mobilew-122222-155400")
    specs = [sample_subnet(member, Random(seed)) for seed in range(3000)]
    assert evenly([spec.resolution for spec in specs], (160, 176, 192, 208, 224))
    for index, space in enumerate(member.body):
        assert evenly([len(spec.stages[index]) for spec in specs], space.depths)
        for position in {0, min(space.depths) - 1}:
            blocks = [spec.stages[index][position] for spec in specs]
            assert evenly([block.kernel for block in blocks], space.candidate.kernels)
            assert evenly([block.width for block in blocks], space.widths)
            assert evenly([block.expand for block in blocks], space.candidate.expands)


def test_no_chance_no_change(member: SpaceMember) -> None:
    spec = sample_subnet(member, Random(3))
    assert mutate_subnet(member, spec, Random(4), probability=0.0, resolution_probability=0.0) == spec
    only_resolution = {mutate_subnet(member, spec, Random(s), 0.0, 1.0) for s in range(40)}
    assert {replace(other, resolution=0) for other in only_resolution} == {replace(spec, resolution=0)}
    assert {other.resolution for other in only_resolution} == set(member.superspace.supernet_resolutions)


def test_chances_of_mutation_are_the_published_ones() -> None:
    """A redrawn value may be the old one: chance × (1 − 1/options) of the values change."""
    member, draws = parse_space("mobilew-122222-155400"), 4000
    spec = member.largest
    rng = Random(2)
    mutants = [mutate_subnet(member, spec, rng) for _ in range(draws)]
    stage5 = [mutant.stages[6] for mutant in mutants]
    changed = {
        "resolution": (sum(m.resolution != 224 for m in mutants), 0.5 * 4 / 5),
        "depth": (sum(len(stage) != 8 for stage in stage5), 0.3 * 6 / 7),
        "kernel": (sum(stage[0].kernel != 7 for stage in stage5), 0.3 * 2 / 3),
        "width": (sum(stage[0].width != 224 for stage in stage5), 0.3 * 4 / 5),
        "expand": (sum(stage[1].expand != 8 for stage in stage5), 0.3 * 2 / 3),
    }
    for name, (count, chance) in changed.items():
        assert count / draws == pytest.approx(chance, abs=0.03), name


def test_blocks_gained_by_depth_are_random() -> None:
    member = parse_space("mobilew-122222-155400")
    kept = member.smallest.stages[6]
    gained: list[BlockChoice] = []
    for seed in range(600):
        stage = mutate_subnet(member, member.smallest, Random(seed), probability=1.0).stages[6]
        gained += stage[len(kept) :]
    assert evenly([block.kernel for block in gained], (3, 5, 7))
    assert evenly([block.width for block in gained], member.body[6].widths)


def test_every_gene_of_a_child_is_a_parents(member: SpaceMember) -> None:
    rng = Random(7)
    for _ in range(60):
        one, other = sample_subnet(member, rng), sample_subnet(member, rng)
        child = crossover_subnet(member, one, other, rng)
        assert child.resolution in (one.resolution, other.resolution)
        for blocks, first, second in zip(child.stages, one.stages, other.stages, strict=True):
            assert len(blocks) in (len(first), len(second))
            for position, block in enumerate(blocks):
                parents = [parent[position] for parent in (first, second) if position < len(parent)]
                for gene, value in enumerate(block):
                    assert value in [parent[gene] for parent in parents]


def test_both_parents_give_genes() -> None:
    member = parse_space("onnxw-501234-123123")
    children = [crossover_subnet(member, member.largest, member.smallest, Random(seed)) for seed in range(200)]

    def shares(values: list[object], one: object, other: object) -> None:
        assert set(values) == {one, other}
        assert 70 < values.count(one) < 130

    shares([child.resolution for child in children], 224, 160)
    shares([len(child.stages[5]) for child in children], 6, 2)
    shares([child.stages[5][1].kernel for child in children], 5, 3)
    shares([child.stages[6][1].kernel for child in children], 7, 3)
    shares([child.stages[5][0].width for child in children], 160, 128)
    shares([child.stages[6][0].expand for child in children], 1.5, 0.5)


def with_windows(space: Superspace, *windows: int) -> Superspace:
    """`digits` with stages of so many windows."""
    stages = list(space.stages)
    for position, count in enumerate(windows, start=2):
        stages[position] = replace(stages[position], window=len(stages[position].widths) - count + 1)
    return replace(space, stages=tuple(stages))


def differences(one: tuple[int, ...], other: tuple[int, ...]) -> list[int]:
    return [position for position, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]


def test_a_mutated_member_differs_in_one_stage(member: SpaceMember) -> None:
    stages = len(member.blocks)
    moved_blocks, moved_windows = set(), set()
    for seed in range(200):
        rng = Random(seed)
        child, sibling = mutate_block(member, rng), mutate_window(member, rng)
        assert child is not None
        assert sibling is not None
        assert child.windows == member.windows
        assert sibling.blocks == member.blocks
        (block,), (window,) = differences(child.blocks, member.blocks), differences(sibling.windows, member.windows)
        moved_blocks.add(block)
        moved_windows.add(window)
    assert moved_blocks == moved_windows == set(range(stages))


def test_window_mutation_leaves_stages_of_one_window() -> None:
    space = with_windows(superspace("digits"), 1, 3, 1)
    member = space.member((0, 1, 2), (0, 0, 0))
    assert {mutate_window(member, Random(seed)).windows for seed in range(30)} == {(0, 1, 0), (0, 2, 0)}


def test_no_second_window_anywhere() -> None:
    member = with_windows(superspace("digits"), 1, 1, 1).member((0, 1, 2), (0, 0, 0))
    assert mutate_window(member, Random(0)) is None
    assert mutate_block(member, Random(0)) is not None


def test_no_second_block_type() -> None:
    digits = superspace("digits")
    member = replace(digits, candidates=digits.candidates[:1]).member((0, 0, 0), (0, 0, 0))
    assert mutate_block(member, Random(0)) is None
    assert mutate_window(member, Random(0)) is not None


def test_sampled_members_cover_the_superspace() -> None:
    space = superspace("mobilew")
    members = [sample_member(space, Random(seed)) for seed in range(2000)]
    for position, stage in enumerate(space.searched):
        assert evenly([member.blocks[position] for member in members], tuple(range(7)))
        assert evenly([member.windows[position] for member in members], tuple(range(stage.windows)))


def test_a_crossover_of_twins_is_the_twin(member: SpaceMember) -> None:
    spec: SubnetSpec = sample_subnet(member, Random(0))
    assert crossover_subnet(member, spec, spec, Random(1)) == spec
