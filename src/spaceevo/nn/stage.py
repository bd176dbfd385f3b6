"""A stage: blocks of one type in a row, of which the first `depth` are active."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spaceevo.nn.block import Block, LayerWriter
from spaceevo.quant.quantizer import ActivationQuantizer, Scheme
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import StageSpace


class Stage(nn.Module):
    """Runs blocks in a row; elastic when made by `elastic`, fixed when made by `extract`."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.depth = len(blocks)

    @classmethod
    def elastic(cls, space: StageSpace, scheme: Scheme) -> Stage:
        """Make all sub-stages of `space` in one set of weights, the largest being active."""
        stage = cls([Block(space.block_specs(position), scheme) for position in range(max(space.depths))])
        stage.activate(space.specs(space.largest, max(space.cins)))
        return stage

    def activate(self, specs: Sequence[BlockSpec]) -> None:
        """Make a sub-stage the active one."""
        self.depth = len(specs)
        for block, spec in zip(self.active_blocks, specs, strict=True):
            block.activate(spec)

    @property
    def active_blocks(self) -> list[Block]:
        """The active blocks."""
        return [block for block in self.blocks[: self.depth] if isinstance(block, Block)]

    def forward(self, x: Tensor) -> Tensor:
        """Turn `(N, Cin, H, W)` into `(N, Cout, H/stride, W/stride)`."""
        for block in self.active_blocks:
            x = block(x)
        return x

    def read_from(self, source: ActivationQuantizer | None) -> ActivationQuantizer | None:
        """Tell every active layer the quantiser of the tensor it reads; return that of the stage's result."""
        for block in self.active_blocks:
            source = block.read_from(source)
        return source

    def extract(self) -> Stage:
        """Copy the active blocks' weights into a stage of its own."""
        return Stage([block.extract() for block in self.active_blocks])

    def lower(self, writer: LayerWriter, prefix: str, x: str) -> str:
        """Write the stage's layers in order; return the result's tensor."""
        for index, block in enumerate(self.active_blocks):
            x = block.lower(writer, f"{prefix}.{index}", x)
        return x
