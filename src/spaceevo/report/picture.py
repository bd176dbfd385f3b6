"""The one way a picture is drawn and saved; what each picture shows stands in the module of its subject."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spaceevo.artifacts import atomic_path

if TYPE_CHECKING:  # jobs that draw nothing start without matplotlib
    from matplotlib.axes import Axes

STYLE = {"figure.dpi": 120, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
STYLE |= {"figure.constrained_layout.use": True}

LABELS = {
    "latency_ms": "latency, ms",
    "mmacs": "multiply-accumulates, millions",
    "mparams": "parameters, millions",
    "file_kb": "INT8 file, kB",
    "peak_ram_kb": "memory of a microcontroller, kB",
}
"""Titles of axes, by the column that they show."""


@contextmanager
def picture(path: Path, columns: int = 1, *, width: float = 5.0) -> Iterator[list[Axes]]:
    """Yield axes side by side to draw on; on success write them to `path`, atomically, in the format of its suffix.

    No display is needed, and pyplot's global state is not touched. Width is that of each axes, in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width * columns, 4.0))
        yield list(figure.subplots(1, columns, squeeze=False)[0])
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=path.suffix.removeprefix("."))
