import itertools
from random import Random

import pytest

import spaceevo
from spaceevo.latency.fastest import fastest_subnet
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet
from spaceevo.space.placement import block_key, subnet_blocks
from spaceevo.space.spec import BlockChoice, BlockSpec
from spaceevo.space.superspace import SpaceMember, StageSpace


def block_ms(spec: BlockSpec, hw: int) -> float:
    """Made up: any block may be faster than a smaller one."""
    return Random(block_key(spec, hw)).uniform(0.1, 1.0)


def total_ms(member: SpaceMember, spec: SubnetSpec) -> float:
    return sum(block_ms(*block) for block in subnet_blocks(member, spec))


def sub_stages(stage: StageSpace) -> list[tuple[BlockChoice, ...]]:
    block = stage.candidate
    options = [BlockChoice(*sizes) for sizes in itertools.product(block.kernels, stage.widths, block.expands)]
    return [(option,) * depth for option in options for depth in stage.depths]


def test_none_of_all_subnets_is_faster() -> None:
    member = spaceevo.parse_space("digits-222-111-align1")
    everything = [
        SubnetSpec(stages, resolution)
        for resolution in member.superspace.supernet_resolutions
        for stages in itertools.product(*map(sub_stages, member.body))
    ]
    assert len(everything) > 1000
    found = fastest_subnet(member, block_ms)
    assert total_ms(member, found) == pytest.approx(min(total_ms(member, spec) for spec in everything))


@pytest.mark.parametrize("name", ["digits-012-000", "onnxw-012345-000000"])
def test_no_random_or_neighbouring_subnet_is_faster(name: str) -> None:
    member, rng = spaceevo.parse_space(name), Random(0)
    found = fastest_subnet(member, block_ms)
    member.validate(found)
    least = total_ms(member, found)
    assert all(total_ms(member, sample_subnet(member, rng)) >= least for _ in range(300))
    assert least < total_ms(member, member.smallest)
