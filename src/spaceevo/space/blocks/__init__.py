"""Block types: one class each, its recipe of layers and its data flow."""

from spaceevo.space.blocks import types
from spaceevo.space.blocks.base import BlockType, Run, block_type, block_types, register

__all__ = ["BlockType", "Run", "block_type", "block_types", "register", "types"]
