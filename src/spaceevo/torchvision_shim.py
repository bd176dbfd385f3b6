"""Make `import torchvision` work beside a torch build that its compiled operators do not fit.

torchvision 0.28.0 has no wheel for the CPU build of torch 2.13.0: its library fails to load, and the import then dies
because the operators it describes do not exist. Models, datasets and transforms need none of them. torchmetrics and
pytorch_lightning import torchvision too, so the same holds for them.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

# The two operators that torchvision's Python code describes whether or not its library has loaded.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a schema is withdrawn when its Library object dies


def ensure_torchvision() -> None:
    """Declare torchvision's missing operators, where its own library cannot load.

    To be called before the first import of torchvision, torchmetrics or pytorch_lightning; calling it again does
    nothing. The declared operators have a name and no code: torchvision refuses to call them.
    """
    if hasattr(torch.ops.torchvision, "nms") or _own_operators_load():
        return
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)


def _own_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    load: Callable[[Path], None] = torch.ops.load_library
    try:
        for file in folder.glob("_C.*"):
            load(file)
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")
