"""A stage: blocks of one type in a row, of which the first `depth` are in force."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spaceevo.nn.block import Block, LayerWriter
from spaceevo.quant.quantizer import ActivationQuantizer, Scheme
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import StageSpace


class Stage(nn.Module):
    """Blocks in a row; elastic when made by `elastic`, fixed when made by `extract`."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.depth = len(blocks)

    @classmethod
    def elastic(cls, space: StageSpace, scheme: Scheme) -> Stage:
        """All sub-stages of `space` in one set of weights, the largest in force."""
        stage = cls([Block(space.block_specs(position), scheme) for position in range(max(space.depths))])
        stage.activate(space.specs(space.largest, max(space.cins)))
        return stage

    def activate(self, specs: Sequence[BlockSpec]) -> None:
        """Put a sub-stage in force."""
        self.depth = len(specs)
        for block, spec in zip(self.active_blocks, specs, strict=True):
            block.activate(spec)

    @property
    def active_blocks(self) -> list[Block]:
        """The blocks in force."""
        return [block for block in self.blocks[: self.depth] if isinstance(block, Block)]

    def forward(self, x: Tensor) -> Tensor:
        """`(N, Cin, H, W)` → `(N, Cout, H/stride, W/stride)`."""
        for block in self.active_blocks:
            x = block(x)
        return x

    def read_from(self, source: ActivationQuantizer | None) -> ActivationQuantizer | None:
        """Tell every layer in force the quantiser of the tensor it reads; return that of the stage's result."""
        for block in self.active_blocks:
            source = block.read_from(source)
        return source

    def extract(self) -> Stage:
        """A stage of its own with the active blocks' weights."""
        return Stage([block.extract() for block in self.active_blocks])

    def lower(self, writer: LayerWriter, prefix: str, x: str) -> str:
        """Write the stage's layers in order; return the result's tensor."""
        for index, block in enumerate(self.active_blocks):
            x = block.lower(writer, f"{prefix}.{index}", x)
        return x
