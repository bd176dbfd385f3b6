"""Block types: one class each, its recipe of layers and its data flow; every module here registers its own."""

from importlib import import_module
from pkgutil import iter_modules

from spaceevo.space.blocks.base import BlockType, Run, block_type, block_types, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["BlockType", "Run", "block_type", "block_types", "register"]
