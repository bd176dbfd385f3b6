"""Imports what the jobs do; the server that processes are forked from starts with it."""

import hydra
import onnxruntime

import spaceevo.jobs.runner
from spaceevo import __main__
from spaceevo.stages import block_kd, block_lut, evaluate, export, finetune, profile, subnet_search, supernet, teacher

__all__ = [
    "__main__", "block_kd", "block_lut", "evaluate", "export", "finetune", "hydra", "onnxruntime", "profile",
    "spaceevo", "subnet_search", "supernet", "teacher",
]  # fmt: skip
