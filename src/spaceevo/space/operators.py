"""Random moves within spaces and superspaces; all take their generator."""

from collections.abc import Iterable
from dataclasses import replace
from random import Random
from typing import NamedTuple, TypeVar

from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import SpaceMember, StageSpace, Superspace

Value = TypeVar("Value")


class Network(NamedTuple):
    """Names a subnet of a space."""

    member: SpaceMember
    spec: SubnetSpec


def sample_block(stage: StageSpace, rng: Random) -> BlockChoice:
    """Sample kernel, width and expand ratio of one block."""
    block = stage.candidate
    return BlockChoice(rng.choice(block.kernels), rng.choice(stage.widths), rng.choice(block.expands))


def sample_substage(stage: StageSpace, rng: Random) -> tuple[BlockChoice, ...]:
    """Sample a depth and every block of a stage, or the one that all blocks of an aligned stage share."""
    depth = rng.choice(stage.depths)
    if stage.aligned:
        return (sample_block(stage, rng),) * depth
    return tuple(sample_block(stage, rng) for _ in range(depth))


def sample_subnet(member: SpaceMember, rng: Random) -> SubnetSpec:
    """Sample a subnet, every choice uniform and independent."""
    stages = tuple(sample_substage(stage, rng) for stage in member.body)
    return SubnetSpec(stages, rng.choice(member.superspace.supernet_resolutions))


def mutate_subnet(
    member: SpaceMember, spec: SubnetSpec, rng: Random, probability: float = 0.3, resolution_probability: float = 0.5
) -> SubnetSpec:
    """Sample each depth, kernel, width and expand ratio anew with `probability`; blocks gained by depth are random."""

    def resample(value: Value, options: tuple[Value, ...], chance: float) -> Value:
        return rng.choice(options) if rng.random() < chance else value

    def mutate_stage(stage: StageSpace, blocks: tuple[BlockChoice, ...]) -> tuple[BlockChoice, ...]:
        depth = resample(len(blocks), stage.depths, probability)
        kept = [
            BlockChoice(
                resample(block.kernel, stage.candidate.kernels, probability),
                resample(block.width, stage.widths, probability),
                resample(block.expand, stage.candidate.expands, probability),
            )
            for block in (blocks[:1] if stage.aligned else blocks[:depth])
        ]
        if stage.aligned:
            return (kept[0],) * depth
        return (*kept, *(sample_block(stage, rng) for _ in range(depth - len(kept))))

    stages = tuple(mutate_stage(stage, blocks) for stage, blocks in zip(member.body, spec.stages, strict=True))
    return SubnetSpec(stages, resample(spec.resolution, member.superspace.supernet_resolutions, resolution_probability))


def crossover_subnet(member: SpaceMember, first: SubnetSpec, second: SubnetSpec, rng: Random) -> SubnetSpec:
    """Take each depth, kernel, width, expand ratio and the resolution from either parent, at even odds."""

    def cross_block(one: BlockChoice, other: BlockChoice) -> BlockChoice:
        return BlockChoice._make(rng.choice(pair) for pair in zip(one, other, strict=True))

    def cross_stage(
        aligned: bool, one: tuple[BlockChoice, ...], other: tuple[BlockChoice, ...]
    ) -> tuple[BlockChoice, ...]:
        depth = rng.choice((len(one), len(other)))
        if aligned:
            return (cross_block(one[0], other[0]),) * depth
        longer = one if len(one) >= len(other) else other
        shared = [cross_block(a, b) for a, b in zip(one, other, strict=False)]
        return (*shared[:depth], *longer[len(shared) : depth])

    parents = zip(member.body, first.stages, second.stages, strict=True)
    stages = tuple(cross_stage(stage.aligned, one, other) for stage, one, other in parents)
    return SubnetSpec(stages, rng.choice((first.resolution, second.resolution)))


def sample_member(superspace: Superspace, rng: Random) -> SpaceMember:
    """Sample block type and width window of every searched stage."""
    blocks = [rng.randrange(len(superspace.candidates)) for _ in superspace.searched]
    windows = [rng.randrange(stage.windows) for stage in superspace.searched]
    return SpaceMember(superspace, tuple(blocks), tuple(windows))


def mutate_block(member: SpaceMember, rng: Random) -> SpaceMember | None:
    """Give one random stage another block type; None where the superspace has one type only."""
    return _mutate_index(member, rng, [len(member.superspace.candidates)] * len(member.blocks), of_block=True)


def mutate_window(member: SpaceMember, rng: Random) -> SpaceMember | None:
    """Give one random stage another width window; None where no stage has a second one."""
    return _mutate_index(member, rng, [stage.windows for stage in member.superspace.searched], of_block=False)


def _mutate_index(member: SpaceMember, rng: Random, counts: list[int], of_block: bool) -> SpaceMember | None:
    movable = [position for position, count in enumerate(counts) if count > 1]
    if not movable:
        return None
    indices = list(member.blocks if of_block else member.windows)
    position = rng.choice(movable)
    indices[position] = rng.choice([i for i in range(counts[position]) if i != indices[position]])
    # The indices are valid by construction: to validate them as `Superspace.member` does would take most of a search.
    return replace(member, blocks=tuple(indices)) if of_block else replace(member, windows=tuple(indices))


def sample_networks(
    superspace: Superspace, rng: Random, count: int, besides: Iterable[Network] = ()
) -> dict[str, Network]:
    """Sample subnets by name, of random spaces, none of which is one of `besides`."""
    taken = {str(member) for member, _ in besides}
    networks: dict[str, Network] = {}
    while len(networks) < count:
        member = sample_member(superspace, rng)
        # A small superspace may not have that many spaces.
        if str(member) not in taken or len(taken) >= superspace.size // 2:
            network = Network(member, sample_subnet(member, rng))
            networks[f"{member} {network.spec}"] = network
    return networks
