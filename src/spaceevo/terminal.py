"""What is shown in the terminal goes through one console."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress

console = Console(highlight=False, soft_wrap=True)


def progress() -> Progress:
    """Make a progress bar with the time left; silent where the output is no terminal."""
    return Progress(console=console, transient=True, disable=not console.is_terminal)
