"""Pages: sections of tables, heat maps and charts as one HTML file that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from math import log
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from spaceevo.artifacts import cache_folder, write_text
from spaceevo.report.charts import Spec
from spaceevo.version import VERSION

CHARTS_PACKAGE = "vl-convert-python"
GLOBALS = "window.vegaEmbed = vegaEmbed;"  # the name by which the page's own script finds the library
LONG = 32  # characters of a cell from which on it may be folded
MOST_NARROW = 5  # columns of a table that takes no more than its share of the page's width
Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Holds rows under headings."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kind: str = "table"

    @property
    def is_wide(self) -> bool:
        """Whether it needs the width of the page."""
        return len(self.columns) > MOST_NARROW or any(is_long(cell) for row in self.rows for cell in row)

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return any(isinstance(row[column], int | float) for row in self.rows)


@dataclass(frozen=True)
class Facts:
    """Holds single figures by name."""

    title: str
    facts: Mapping[str, Cell]
    kind: str = "facts"


@dataclass(frozen=True)
class HeatMap:
    """Holds positive numbers that are coloured by their place between the least and the most of their row."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float | None]]  # heading → values
    ends: Mapping[str, tuple[float, float]]  # heading → what counts as least and as most in that row
    kind: str = "heat"

    def warmth(self, heading: str, value: float) -> float:
        """Return where a value lies between its row's ends, on a scale of ratios: 0 is the least, 1 the most."""
        low, high = self.ends[heading]
        return 0.0 if not 0 < low < high else max(0.0, min(1.0, log(max(value, low) / low) / log(high / low)))


@dataclass(frozen=True)
class Chart:
    """Holds a Vega-Lite chart and what it shows in words."""

    title: str
    spec: Spec
    kind: str = "chart"


@dataclass(frozen=True)
class Commands:
    """Holds command lines to copy."""

    title: str
    lines: Sequence[str]
    kind: str = "commands"


Part = Table | Facts | HeatMap | Chart | Commands


@dataclass(frozen=True)
class Section:
    """Holds what a page says of one matter, and what is lacking for more."""

    title: str
    parts: Sequence[Part] = ()
    lacks: Sequence[str] = ()  # what is not there, and the command that makes it, a line each


@dataclass(frozen=True)
class Column:
    """Holds all sections about one chain; pages of several show them side by side."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def is_long(value: Cell) -> bool:
    """Tell whether a cell is a text of several lines: an encoding, a path."""
    return isinstance(value, str) and len(value) > LONG


def shown(value: Cell) -> str:
    """Write a cell as users read it: four significant digits, nothing for None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def write_report(path: Path, title: str, columns: Sequence[Column]) -> None:
    """Write the page of one chain, or of several side by side; it holds the charts' library too."""
    text = (
        _templates()
        .get_template("report.html")
        .render(title=title, columns=columns, library=charts_library(), refresh_s=None, version=VERSION)
    )
    write_text(path, text)


def write_status(path: Path, title: str, sections: Sequence[Section], refresh_s: int | None) -> None:
    """Write a page without charts; a browser that shows it reads it again every `refresh_s` seconds."""
    template = _templates().get_template("status.html")
    write_text(path, template.render(title=title, sections=sections, refresh_s=refresh_s, version=VERSION))


def charts_library() -> str:
    """Return Vega-Embed with all it needs as one script; it is bundled once for each version, which takes seconds."""
    file = cache_folder("report") / f"vega-{version(CHARTS_PACKAGE)}.js"
    if not file.is_file():
        import vl_convert  # a large library that nothing else needs

        write_text(file, vl_convert.javascript_bundle(GLOBALS))
    return file.read_text(encoding="utf-8").replace("</script", "<\\/script")


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("spaceevo.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown}
    environment.tests |= {"long": is_long}
    return environment
