"""What the launcher (torchrun, Slurm) says of this process; asking needs no torch."""

import os

from spaceevo.errors import ConfigError


def launched(variable: str, default: int) -> int:
    """Read a number that a launcher gives each process in an environment variable."""
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(
            f"environment variable {variable} = {text!r}; allowed: a whole number from 0 on; unset it, or use torchrun"
        )
    return int(text)


def is_first() -> bool:
    """Tell whether this is the process that writes and prints; one alone is."""
    variables = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return launched(next((name for name in variables if name in os.environ), variables[0]), 0) == 0
