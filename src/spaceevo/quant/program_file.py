"""Integer programs on disk: one safetensors file, its numbers as tensors, everything else as JSON in its header."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from spaceevo.artifacts import parse_json, write_bytes
from spaceevo.artifacts.parsing import require_file
from spaceevo.artifacts.values import Channels, Pixels
from spaceevo.errors import CheckpointError, choices
from spaceevo.quant.program import ConvWeights, Op, OpKind, Program, TensorQuant
from spaceevo.quant.quantizer import LEVELS

Array = NDArray[np.generic]
FORMAT = "spaceevo.program"
FORMAT_VERSION = 1
HEADER_LENGTH = 8  # bytes at the beginning that say how long the header is
PositiveScale = Annotated[FiniteFloat, Gt(0)]
Level = Annotated[int, Ge(0), Le(LEVELS)]


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
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, header)
    write_bytes(path, _ordered(content))


def _ordered(content: bytes) -> bytes:
    """Put a safetensors file's header in order, which else is another each time: the same program, the same bytes."""
    start = HEADER_LENGTH + int.from_bytes(content[:HEADER_LENGTH], "little")
    header = json.dumps(json.loads(content[HEADER_LENGTH:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % HEADER_LENGTH)  # tensors begin at multiples of it
    return len(header).to_bytes(HEADER_LENGTH, "little") + header + content[start:]


def load_program(path: Path) -> tuple[Program, dict[str, str]]:
    """Read what `save_program` wrote: the program, bit for bit, and its metadata.

    Raises:
        CheckpointError: it is another file, or its operations do not fit each other.
    """
    try:
        require_file(path)
        with safe_open(path, "numpy") as file:
            header = file.metadata() or {}
            described = TypeAdapter(_Described).validate_python(parse_json(header[FORMAT]))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        return _program(described, arrays), TypeAdapter(dict[str, str]).validate_python(parse_json(header["metadata"]))
    except ValidationError as error:
        first, *_ = error.errors()
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error)
    raise CheckpointError(f"{path} is not an integer program ({' '.join(reason.split())[:200]}); export it again")


@dataclass(frozen=True)
class _Operation:
    kind: OpKind
    output: str
    inputs: tuple[str, ...]
    stride: Annotated[int, Ge(1), Le(16)]
    groups: Channels


@dataclass(frozen=True)
class _Input:
    name: str
    shape: tuple[Channels, Pixels, Pixels]


@dataclass(frozen=True)
class _Described:
    """Says what a file's header holds."""

    version: Literal[1]
    input: _Input
    tensors: dict[str, tuple[PositiveScale, Level]]
    ops: tuple[_Operation, ...]


def _program(described: _Described, arrays: Mapping[str, Array]) -> Program:
    tensors = {name: TensorQuant(*quant) for name, quant in described.tensors.items()}
    program = Program(described.input.name, described.input.shape, tensors)
    known = {program.input_name}
    for op in described.ops:
        weights = None
        if op.kind in ("conv", "linear"):
            weights = _weights(*(arrays[f"{op.output}.{part}"] for part in ("weight", "scale", "bias")))
        count = 2 if op.kind in ("add", "mul") else 1
        if len(op.inputs) != count or not known.issuperset(op.inputs) or op.output in known:
            raise ValueError(f"{op.output} cannot read {choices(op.inputs, 3)}")
        known.add(op.output)
        program.ops.append(Op(op.kind, op.output, op.inputs, weights, op.stride, op.groups))
    if unknown := known ^ tensors.keys():
        raise ValueError(f"tensor {min(unknown)} has no place or no scale")
    _check_shapes(program)
    return program


def _weights(weight: Array, scale: Array, bias: Array) -> ConvWeights:
    if [each.dtype.name for each in (weight, scale, bias)] != ["int8", "float32", "int32"]:
        raise ValueError(f"weights, scales and biases of {weight.dtype}, {scale.dtype} and {bias.dtype}")
    return ConvWeights(weight.astype(np.int8), scale.astype(np.float32), bias.astype(np.int32))


def _check_shapes(program: Program) -> None:
    """Check that every operation fits what it reads; raises `ValueError` where one does not."""
    shapes = program.shapes()
    for op in program.ops:
        first, *others = (shapes[name] for name in op.inputs)
        fits = len(first) == 3 and all(len(other) == 3 and (other[0] == first[0]) for other in others)
        if op.weights is not None:
            weight, scale, bias = op.weights.weight, op.weights.scale, op.weights.bias
            fits = fits and weight.ndim == 4 and scale.shape == bias.shape == weight.shape[:1]
            sides = first[1] * first[2] if op.kind == "linear" else 1
            fits = fits and weight.shape[1] * op.groups == first[0] * sides and weight.shape[0] % op.groups == 0
            fits = fits and weight.shape[2] == weight.shape[3] and weight.shape[2] % 2 == 1
            fits = fits and bool(np.isfinite(scale).all() and (scale > 0).all())
        elif others:
            fits = fits and (first[1:] == others[0][1:] or (1, 1) in (first[1:], others[0][1:]))
        if not fits:
            raise ValueError(f"{op.output} does not fit what it reads")
