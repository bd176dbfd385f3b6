"""How many threads torch computes with."""

from __future__ import annotations

import torch

from spaceevo.stages.setting_types import Threads


def use_threads(threads: Threads) -> None:
    """Let torch compute with so many threads; None leaves it as it is."""
    if threads is not None:
        torch.set_num_threads(threads)
