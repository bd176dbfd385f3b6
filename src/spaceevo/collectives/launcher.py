"""What the launcher (torchrun, Slurm) says of this process; asking needs no torch."""

import os

from spaceevo.errors import ConfigError

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""What numbers this process: the first of them that is set."""


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
    return launched(next((name for name in RANKS if name in os.environ), "RANK"), 0) == 0


def check_launch() -> None:
    """Look at what the environment says of this process: left there by an earlier launch, it would do nothing at all.

    Raises:
        ConfigError: a process of that number, or of so many, was not launched.
    """
    for name in RANKS[:2]:
        if launched(name, 0) >= launched("WORLD_SIZE", 1):
            rank, size = os.environ.get(name, 0), os.environ.get("WORLD_SIZE", "not set")
            raise ConfigError(
                f"environment variable {name} = {rank}, and WORLD_SIZE is {size}: no launcher started this process; "
                "unset both, or use torchrun"
            )
    if launched("WORLD_SIZE", 1) > 1 and "MASTER_ADDR" not in os.environ:
        size = os.environ["WORLD_SIZE"]
        raise ConfigError(
            f"environment variable WORLD_SIZE = {size}, and MASTER_ADDR is not set: no launcher started {size} "
            "processes; unset RANK and WORLD_SIZE, or use torchrun"
        )
