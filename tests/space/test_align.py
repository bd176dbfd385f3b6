"""Aligned spaces: all blocks of a stage share their kernel, width and expand ratio."""

from pathlib import Path
from random import Random

import pytest

from spaceevo.artifacts import Layout
from spaceevo.errors import EncodingError
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import crossover_subnet, mutate_block, mutate_subnet, mutate_window, sample_subnet

ALIGNED = parse_space("mobilew-122222-155400-align1")
FREE = parse_space("mobilew-122222-155400")


def is_aligned(spec: SubnetSpec) -> bool:
    return all(len(set(blocks)) == 1 for blocks in spec.stages)


def test_all_moves_keep_a_stage_alike() -> None:
    rng = Random(0)
    for _ in range(300):
        one, other = sample_subnet(ALIGNED, rng), sample_subnet(ALIGNED, rng)
        for spec in (one, mutate_subnet(ALIGNED, one, rng), crossover_subnet(ALIGNED, one, other, rng)):
            assert is_aligned(spec)
            ALIGNED.validate(spec)
            FREE.validate(spec)


def test_moves_reach_every_depth_and_choice() -> None:
    rng, found = Random(1), set()
    spec = ALIGNED.smallest
    for _ in range(2000):
        spec = mutate_subnet(ALIGNED, spec, rng)
        found.add((len(spec.stages[3]), *spec.stages[3][0]))
    stage = ALIGNED.body[3]
    options = len(stage.depths) * len(stage.widths) * len(stage.candidate.kernels) * len(stage.candidate.expands)
    assert len(found) == options


def test_a_child_takes_every_choice_from_a_parent() -> None:
    rng = Random(2)
    one, other = sample_subnet(ALIGNED, rng), sample_subnet(ALIGNED, rng)
    for _ in range(50):
        child = crossover_subnet(ALIGNED, one, other, rng)
        for blocks, first, second in zip(child.stages, one.stages, other.stages, strict=True):
            assert len(blocks) in (len(first), len(second))
            assert all(value in pair for value, *pair in zip(blocks[0], first[0], second[0], strict=True))


def test_corners_are_those_of_the_free_space() -> None:
    assert (ALIGNED.largest, ALIGNED.smallest) == (FREE.largest, FREE.smallest)


def test_a_mixed_stage_is_refused() -> None:
    mixed = next(spec for seed in range(99) if not is_aligned(spec := sample_subnet(FREE, Random(seed))))
    with pytest.raises(EncodingError, match=r"block \d.* differs from block 1.*align1"):
        ALIGNED.validate(mixed)


def test_the_encoding_tells_the_two_apart() -> None:
    assert str(ALIGNED) == "mobilew-122222-155400-align1"
    assert parse_space(str(ALIGNED)) == ALIGNED != FREE
    assert parse_space("mobilew-122222-155400-align0") == FREE
    assert len({ALIGNED, FREE}) == 2
    assert parse_space("mobilew-122222-align1").align
    with pytest.raises(EncodingError, match="align1"):
        parse_space("mobilew-122222-155400-align2")


def test_the_two_supernets_lie_in_folders_of_their_own() -> None:
    layout = Layout(Path("root"))
    assert layout.supernet(str(ALIGNED), int8=True).parent.name == "mobilew-122222-155400-align1"
    assert layout.supernet(str(FREE), int8=True).parent.name == "mobilew-122222-155400-align0"


def test_mutated_spaces_stay_aligned() -> None:
    assert mutate_block(ALIGNED, Random(0)).align
    assert mutate_window(ALIGNED, Random(0)).align
