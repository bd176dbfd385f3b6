"""Cost of blocks, stages and subnets, read from recipes: no network is built.

MACs count convolutions only (squeeze-and-excitation included; the classifier, norms, activations and pooling count 0).
Parameters count everything learnt, the three quantiser scalars of every convolution and linear layer included.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from spaceevo.space.description import superspace as load_superspace
from spaceevo.space.encoding import SubnetSpec, parse_substage
from spaceevo.space.placement import place
from spaceevo.space.spec import BlockChoice, BlockSpec, Cost
from spaceevo.space.superspace import SpaceMember, Superspace
from spaceevo.space.walk import output_hw, placed_layers

QUANTISER_SCALARS = 3
"""Weight scale, activation scale, activation offset: the published count, whatever the quantisation scheme."""


@lru_cache(maxsize=1 << 18)
def block_macs_and_params(spec: BlockSpec, hw: int) -> tuple[int, int]:
    """Count multiply-accumulates and parameters of a block for an input of height and width `hw`."""
    macs = params = 0
    for placed in placed_layers(spec, hw).layers:
        layer = placed.layer
        if layer.has_weight:
            weights = math.prod(layer.weight_shape)
            macs += 0 if layer.kind == "linear" else layer.stack * weights * placed.output_hw**2
            params += layer.stack * (weights + QUANTISER_SCALARS) + (2 * layer.cout if layer.norm else layer.cout)
    return macs, params


def blocks_cost(specs: Sequence[BlockSpec], hw: int) -> Cost:
    """Add up the cost of blocks in a row, the first with an input of height and width `hw`."""
    counts = [block_macs_and_params(block, size) for block, size in place(specs, hw)]
    return Cost(sum(macs for macs, _ in counts) / 1e6, sum(params for _, params in counts) / 1e6)


def stage_cost(
    superspace: Superspace | str, stage: str, block_index: int, substage: str | Sequence[BlockChoice], cin: int, hw: int
) -> Cost:
    """Count the cost of a sub-stage, or of its text in look-up tables (`3#32#None`), for an input `hw`×`hw`."""
    space = load_superspace(superspace) if isinstance(superspace, str) else superspace
    blocks = parse_substage(substage) if isinstance(substage, str) else substage
    return blocks_cost(space.stage_space(stage, block_index).specs(blocks, cin), hw)


def stage_costs(member: SpaceMember, spec: SubnetSpec) -> dict[str, Cost]:
    """Count the cost of a subnet, stage by stage, heads included."""
    hw, costs = spec.resolution, {}
    for name, specs in member.block_specs(spec).items():
        costs[name] = blocks_cost(specs, hw)
        for block in specs:
            hw = output_hw(block, hw)
    return costs


def subnet_cost(member: SpaceMember, spec: SubnetSpec) -> Cost:
    """Count the cost of a whole subnet, heads included."""
    member.validate(spec)
    return sum(stage_costs(member, spec).values(), Cost(0.0, 0.0))
