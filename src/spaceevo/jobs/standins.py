"""Stand-ins for the libraries that jobs compute with: enough to read the settings that jobs declare, in a second."""

from __future__ import annotations

import sys
from abc import ABCMeta
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SLOW = {
    "lightning_fabric", "matplotlib", "onnx", "onnxruntime", "pandas", "pytorch_lightning", "scipy",
    "sklearn", "timm", "torch", "torchmetrics", "torchvision",
}  # fmt: skip
"""Packages that take long to import, and whose classes no setting is checked by."""


class _OfAnything(ABCMeta):
    """Gives a class every attribute."""

    def __getattr__(cls, name: str) -> type:
        return _stand_in(name)


class _StandIn(metaclass=_OfAnything):
    """Stands for a class to inherit from, a type to name, or a decorator; computes nothing."""

    def __init__(self, *given: object, **named: object) -> None:
        pass

    def __call__(self, decorated: object) -> object:
        return decorated

    def __class_getitem__(cls, item: object) -> type:
        return cls


def _stand_in(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _OfAnything(name, (_StandIn,), {})


class _Module(ModuleType):
    """Holds whatever is asked of it."""

    def __getattr__(self, name: str) -> type:
        found = _stand_in(name)
        setattr(self, name, found)
        return found


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in SLOW else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def stand_ins() -> Iterator[None]:
    """Import modules of ours beside stand-ins, and forget both at the end; nothing where the libraries are there."""
    if not SLOW.isdisjoint(sys.modules):
        yield
        return
    before, finder = {*sys.modules}, _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in {*sys.modules} - before:
            if name.partition(".")[0] in SLOW | {"spaceevo"}:
                del sys.modules[name]
