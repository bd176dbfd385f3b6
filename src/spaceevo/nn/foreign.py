"""Read a checkpoint that holds foreign objects beside its tensors, without executing anything of it.

A pickle may name any class or function, have it called, and set attributes on what it has. Here it may call a few
constructors and nothing else: foreign objects become stand-ins, attributes are set on nothing (`nn/unpickling.py`), and
a file that asks for any other function is refused. `nn/archive.py` reads the file around the pickle, and checks sizes.
"""

import _compat_pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from spaceevo.errors import CheckpointError
from spaceevo.nn.archive import DTYPES, HoldsCode, read_archive, tensor_of
from spaceevo.nn.unpickling import Constructor, StandIn, Unpickler, ordered

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
_OWN: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": ordered,
    "torch.Size": tuple,
    "torch.device": StandIn,
    "torch._utils._rebuild_tensor": tensor_of,
    "torch._utils._rebuild_tensor_v2": tensor_of,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
}
"""What is made as the pickle asks, by functions of ours."""


def _find(module: str, name: str) -> object:
    """What stands for a global of a pickle.

    Raises:
        HoldsCode: it is a function, or a part of the standard library that no checkpoint needs.
    """
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    full, package = f"{module}.{name}", module.partition(".")[0]
    if full in _OWN:
        return Constructor(full, _OWN[full])
    if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
        return found
    if module in ("torch", "torch.cuda", "torch.storage") and name in DTYPES:
        return DTYPES[name]
    if full not in _SIMPLE_VALUES and package in (*sys.stdlib_module_names, "torch"):
        raise HoldsCode(full)
    looks_like_class = name.rpartition(".")[2].lstrip("_")[:1].isupper()
    return Constructor(full, StandIn if looks_like_class or full in _SIMPLE_VALUES else None)


def read_foreign(path: Path) -> Mapping[str, object]:
    """Read a file that `torch.save` wrote: tensors and plain values as they are, foreign objects as stand-ins.

    Raises:
        CheckpointError: the file is missing, truncated, no checkpoint, or holds code; nothing has been executed.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        content = read_archive(path, lambda file, resolve: Unpickler(file, _find, resolve).load())
    except HoldsCode as code:
        raise CheckpointError(
            f"checkpoint {path} holds code ({str(code)[:100]}); it is refused and nothing was executed: "
            "use a file of tensors and settings, from a source you trust"
        ) from None
    except Exception as error:  # whatever a broken file makes torch, zipfile or pickle raise
        reason = str(error).partition("\n")[0].partition(". ")[0][:150] or type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} is truncated or no checkpoint ({reason}); make or fetch it again"
        ) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"checkpoint {path} holds a {type(content).__name__}; expected a mapping of tensors")
    return content
