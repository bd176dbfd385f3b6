"""Rows of figures as a table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_rows(
    console: Console, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], title: str = ""
) -> None:
    """Print these columns of rows.

    Args:
        console: where.
        rows: key → value; floats are shown with four significant digits, long texts folded.
        columns: key → heading, in order.
        title: above the table.
    """
    table = Table(title=title or None, title_justify="left")
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(f"{row[k]:.4g}" if isinstance(row[k], float) else str(row[k]) for k in columns))
    console.print(table)
