"""Spaces and subnets as search problems."""

from random import Random

import pytest

from spaceevo.errors import EncodingError
from spaceevo.search.problems import SpaceProblem, SubnetProblem
from spaceevo.space.description import parse_space, superspace


@pytest.fixture(params=["digits", "onnxw", "mobilew"])
def spaces(request: pytest.FixtureRequest) -> SpaceProblem:
    return SpaceProblem(superspace(request.param))


@pytest.fixture
def subnets() -> SubnetProblem:
    return SubnetProblem(parse_space("digits-012-101"))


def test_starts_are_the_uniform_spaces(spaces: SpaceProblem) -> None:
    starts, stages = spaces.starts(), spaces.superspace.searched
    assert len(set(starts)) == len(starts) == len(spaces.superspace.candidates) * max(s.windows for s in stages)
    for start in starts:
        assert len(set(start.blocks)) == 1
        assert start.windows == tuple(min(max(start.windows), stage.windows - 1) for stage in stages)


def test_neighbours_are_all_other_options_of_one_stage(spaces: SpaceProblem) -> None:
    item = spaces.sample(Random(0))
    for position, stage in enumerate(spaces.superspace.searched):
        neighbours = spaces.neighbours(item, position)
        assert len(set(neighbours)) == len(neighbours) == len(spaces.superspace.candidates) * stage.windows - 1
        for other in neighbours:
            changed = [n for n in range(len(spaces.superspace.searched)) if option(other, n) != option(item, n)]
            assert changed == [position]
            assert spaces.decode(str(other)) == other


def option(member, position: int) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    return member.blocks[position], member.windows[position]


def test_children_change_one_block_and_one_window(spaces: SpaceProblem) -> None:
    rng = Random(1)
    for _ in range(20):
        parent = spaces.sample(rng)
        by_block, by_window = spaces.children(parent, rng)
        assert by_block.windows == parent.windows
        assert sum(a != b for a, b in zip(by_block.blocks, parent.blocks, strict=True)) == 1
        assert by_window.blocks == parent.blocks
        assert sum(a != b for a, b in zip(by_window.windows, parent.windows, strict=True)) == 1


def test_spaces_round_trip_and_reject_strangers(spaces: SpaceProblem) -> None:
    item = spaces.sample(Random(2))
    assert spaces.decode(str(item)) == item
    with pytest.raises(EncodingError):
        spaces.decode("elsewhere-000-000")


def test_subnets_stay_in_their_space(subnets: SubnetProblem) -> None:
    rng = Random(3)
    one, other = subnets.sample(rng), subnets.sample(rng)
    for item in (one, subnets.mutate(one, rng), subnets.crossover(one, other, rng)):
        subnets.member.validate(item)
        assert subnets.decode(str(item)) == item


def test_subnet_of_another_space_is_rejected(subnets: SubnetProblem) -> None:
    stranger = SubnetProblem(parse_space("onnxw-151122-023231")).sample(Random(4))
    with pytest.raises(EncodingError):
        subnets.decode(str(stranger))
