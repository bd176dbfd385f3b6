"""Read a checkpoint that holds foreign objects beside its tensors, without executing anything of it.

A pickle may name any class or function and have it called. Here tensors are rebuilt by torch's own functions, objects
of foreign classes become stand-ins that keep and do nothing, and a file that asks for any other function is refused.
"""

import _compat_pickle
import pickle
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch
from torch import _utils as rebuilders

from spaceevo.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
_ARRAYS = ("_reconstruct", "scalar")
_SIMPLE_VALUES = frozenset(
    f"{module}.{name}"
    for module, names in {
        "_codecs": ("encode",),
        "argparse": ("Namespace",),
        "builtins": ("bytearray", "complex", "frozenset", "object", "range", "set", "slice"),
        "collections": ("Counter", "defaultdict", "deque"),
        "copyreg": ("_reconstructor",),
        "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
        "decimal": ("Decimal",),
        "fractions": ("Fraction",),
        "numpy": ("dtype", "ndarray"),
        "numpy._core.multiarray": _ARRAYS,
        "numpy.core.multiarray": _ARRAYS,
        "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
        "types": ("SimpleNamespace",),
        "uuid": ("UUID",),
    }.items()
    for name in names
)
"""What settings are made of: at home in the standard library or named like functions, yet harmless. They too become
stand-ins."""


class _HoldsCode(Exception):
    """The pickle asks for this function."""


class _StandIn:
    """Takes the place of an object that is not needed: accepts all that unpickling does to it and keeps nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None:
        """Keep nothing."""

    extend = update = add = append


class _ForeignClass(type):
    """Class of stand-ins; what has a function's name may be an object's class, but may not be called."""

    may_be_called: bool

    def __call__(cls, *args: object, **kwargs: object) -> object:
        if not cls.may_be_called:
            raise _HoldsCode(cls.__qualname__)
        return super().__call__(*args, **kwargs)


def _stand_in(name: str) -> type:
    looks_like_class = name.rpartition(".")[2].lstrip("_")[:1].isupper()
    fields = {"__qualname__": name, "may_be_called": looks_like_class or name in _SIMPLE_VALUES}
    return _ForeignClass(name, (_StandIn,), fields)


def _private(function: Callable[..., object]) -> Callable[..., object]:
    """The function under another object, so that a pickle which sets attributes changes nothing of torch's."""
    return lambda *args: function(*args)


def _find(module: str, name: str) -> object:
    """What stands for a global of a pickle.

    Raises:
        _HoldsCode: it is a function, or a part of the standard library that no checkpoint needs.
    """
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    full, package = f"{module}.{name}", module.partition(".")[0]
    if full == "collections.OrderedDict":
        return OrderedDict
    if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"):
        return _private(getattr(rebuilders, name))
    if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
        return found
    if full in ("torch.device", "torch.Size"):
        return _private(getattr(torch, name))
    if full == "torch.storage.UntypedStorage":
        return torch.UntypedStorage
    if full not in _SIMPLE_VALUES and package in (*sys.stdlib_module_names, "torch"):
        raise _HoldsCode(full)
    return _stand_in(full)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Never imports anything."""
        return _find(module, name)


def _load(file: BinaryIO, **settings: Any) -> object:
    return _Unpickler(file, **settings).load()


def read_foreign(path: Path) -> Mapping[str, object]:
    """Read a file that `torch.save` wrote: tensors and plain values as they are, foreign objects as stand-ins.

    Raises:
        CheckpointError: the file is missing, truncated, no checkpoint, or holds code; nothing has been executed.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    source: Any = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="inert pickle")
    try:
        _refuse_programs(path)
        content = torch.load(path, map_location="cpu", pickle_module=source, weights_only=False)
    except _HoldsCode as code:
        raise CheckpointError(
            f"checkpoint {path} holds code ({code}); it is refused and nothing was executed: "
            "use a file of tensors and settings, from a source you trust"
        ) from None
    except Exception as error:  # whatever a broken file makes torch or pickle raise
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} is truncated or no checkpoint ({reason}); make or fetch it again"
        ) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"checkpoint {path} holds a {type(content).__name__}; expected a mapping of tensors")
    return content


def _refuse_programs(path: Path) -> None:
    """TorchScript archives, and the tar files of the first torch versions: torch would run or unpack what they hold."""
    with path.open("rb") as file:
        is_zip = file.read(4) == ZIP_MAGIC
    if is_zip and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
        raise _HoldsCode("a TorchScript archive")
    if not is_zip and tarfile.is_tarfile(path):
        raise _HoldsCode("a tar file, the format of the first torch versions")
