"""Integer programs on disk: one safetensors file, its numbers as tensors, everything else as JSON in its header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from spaceevo.artifacts import write_bytes
from spaceevo.errors import CheckpointError
from spaceevo.quant.program import ConvWeights, Op, Program, TensorQuant

Array = NDArray[np.generic]
FORMAT = "spaceevo.program"
FORMAT_VERSION = 1


def save_program(path: Path, program: Program, metadata: Mapping[str, str] | None = None) -> None:
    """Write a program and `metadata` atomically."""
    description = {
        "version": FORMAT_VERSION,
        "input": {"name": program.input_name, "shape": program.input_shape},
        "tensors": {name: list(quant) for name, quant in program.tensors.items()},
        "ops": [
            {"kind": op.kind, "output": op.output, "inputs": op.inputs, "stride": op.stride, "groups": op.groups}
            for op in program.ops
        ],
    }
    arrays: dict[str, Array] = {}
    for op in program.ops:
        if op.weights is not None:
            arrays |= {f"{op.output}.{field}": getattr(op.weights, field) for field in ("weight", "scale", "bias")}
    header = {FORMAT: json.dumps(description), "metadata": json.dumps(dict(metadata or {}))}
    write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, header))


def load_program(path: Path) -> tuple[Program, dict[str, str]]:
    """Read what `save_program` wrote: the program, bit for bit, and its metadata."""
    try:
        with safe_open(path, "numpy") as file:
            header = file.metadata() or {}
            description = json.loads(header[FORMAT])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        if description["version"] != FORMAT_VERSION:
            raise CheckpointError(f"program {path} has version {description['version']}; this reads {FORMAT_VERSION}")
        return _program(description, arrays), json.loads(header["metadata"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not an integer program ({error}); export it again") from error


def _program(description: dict[str, Any], arrays: Mapping[str, Array]) -> Program:
    channels, height, width = description["input"]["shape"]
    tensors = {name: TensorQuant(float(scale), int(zero)) for name, (scale, zero) in description["tensors"].items()}
    program = Program(description["input"]["name"], (channels, height, width), tensors)
    for op in description["ops"]:
        name = op["output"]
        weights = None
        if f"{name}.weight" in arrays:
            weights = ConvWeights(
                np.asarray(arrays[f"{name}.weight"], np.int8),
                np.asarray(arrays[f"{name}.scale"], np.float32),
                np.asarray(arrays[f"{name}.bias"], np.int32),
            )
        program.ops.append(Op(op["kind"], name, tuple(op["inputs"]), weights, op["stride"], op["groups"]))
    return program
