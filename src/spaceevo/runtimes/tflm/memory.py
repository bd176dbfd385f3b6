"""Predicts the memory that a program takes on a microcontroller under TensorFlow Lite Micro, nothing written or run.

Buffers of tensors are placed as the runtime does it, to the byte. What else lasts as long as the network is loaded, and
the file's own tables, are counted with figures measured once; the tests hold both against the runtime and the file.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from spaceevo.quant.program import Program
from spaceevo.runtimes.tflm.census import Census, Kind

ALIGNMENT = 16  # Buffers begin at multiples of so many bytes
SETUP_BYTES = 714  # Of the arena: the interpreter's own, and both ends of the network
TENSOR_BYTES = 24  # Of the arena: each tensor, constants too
OPERATOR_BYTES: Mapping[Kind, int] = {
    "QUANTIZE": 64,  # what each has besides is within `SETUP_BYTES`
    "DEQUANTIZE": 64,
    "CONV": 172,
    "FULLY_CONNECTED": 177,
    "PAD": 129,
    "ADD": 135,
    "MUL": 117,
    "MEAN": 134,
    "LOGISTIC": 81,
}
"""Of the arena: each operator, by its kind. All such figures are of 64-bit processors; on 32 bits they are smaller."""
MULTIPLIER_BYTES = 8  # Of the arena: each channel with a scale of its own; multiplier and shift

FILE_BYTES = 351  # Of the file: what every file has
FILE_KIND_BYTES = 28  # Of the file: each kind of operator
FILE_TENSOR_BYTES = 90  # Of the file: each tensor, with its share of the operators
SCALE_BYTES = 12  # Of the file: each scale, and its zero point


class Buffer(NamedTuple):
    """Describes memory that is needed from one operator to another, both included."""

    size: int  # in bytes
    first: int
    last: int


def arena_bytes(program: Program) -> int:
    """Predict the arena, the memory in which a network lives: planned buffers, and what lies beside them throughout."""
    return sum(arena_parts(program))


def arena_parts(program: Program) -> tuple[int, int]:
    """Predict both parts of the arena: bytes of planned buffers, and bytes that last as long as the network."""
    census = Census.of(program)
    return planned_bytes(_buffers(census)), _lasting_bytes(census)


def flash_bytes(program: Program, texts: Mapping[str, str] | None = None) -> int:
    """Predict the size of the TFLite file, which lies in flash memory; `texts` are the metadata that it keeps."""
    census = Census.of(program)
    found = FILE_BYTES + len(json.dumps(dict(texts or {})))
    found += FILE_KIND_BYTES * len({operator.kind for operator in census.operators})
    for tensor in census.tensors:
        content = _aligned(tensor.size, 4) if tensor.is_constant else 0
        name = _aligned(len(tensor.name) + 1, 4)
        found += content + name + 4 * tensor.sides + SCALE_BYTES * tensor.scales + FILE_TENSOR_BYTES
    return found + sum(4 * len(operator.inputs) for operator in census.operators)


def planned_bytes(buffers: Sequence[Buffer]) -> int:
    """Place buffers as the runtime's greedy planner does; return the height of the pile.

    The largest comes first, of equal ones the last; each goes into the lowest gap among those placed before it that
    live at the same time.
    """
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(reversed(buffers), key=lambda each: -each.size):
        offset = 0
        for start, other in placed:
            if other.first > buffer.last or buffer.first > other.last:
                continue
            if start - offset >= buffer.size:
                break
            offset = max(offset, start + other.size)
        placed.append((offset, buffer))
        placed.sort(key=lambda each: each[0])
    return max((start + buffer.size for start, buffer in placed), default=0)


def part_bytes(program: Program) -> tuple[int, int]:
    """Predict what a program adds that stands within a network, without the real values that it reads and gives.

    Returns:
        Bytes of its planned buffers, the one that it reads included, and bytes that last as long as the network is
        loaded. Of the parts of a network the greatest plan counts; what lasts adds up.
    """
    census = Census.of(program)
    inner = [buffer for buffer in _buffers(census) if 0 < buffer.first < len(census.operators)]
    empty = Census.of(Program(program.input_name, program.input_shape, program.tensors))
    return planned_bytes(inner), _lasting_bytes(census) - _lasting_bytes(empty)


def _buffers(census: Census) -> list[Buffer]:
    """List the buffers to be planned: tensors that are computed, then the accumulators of means."""
    first = {operator.output: time for time, operator in enumerate(census.operators, 1)}
    last = dict(first)
    for time, operator in enumerate(census.operators, 1):
        last |= dict.fromkeys(operator.inputs, time)
    tensors = [
        Buffer(_aligned(tensor.size, ALIGNMENT), first.get(index, 0), last[index])
        for index, tensor in enumerate(census.tensors)
        if not tensor.is_constant
    ]
    means = ((first[operator.output], operator) for operator in census.operators if operator.kind == "MEAN")
    sums = [Buffer(_aligned(4 * census.tensors[mean.output].size, ALIGNMENT), time, time) for time, mean in means]
    return tensors + sums


def _lasting_bytes(census: Census) -> int:
    """Count what lasts as long as the network is loaded: structures of tensors and operators, multipliers."""
    found = SETUP_BYTES + TENSOR_BYTES * len(census.tensors)
    for operator in census.operators:
        found += OPERATOR_BYTES[operator.kind]
        if operator.kind == "CONV" or (operator.channels and census.tensors[operator.inputs[1]].scales > 1):
            found += MULTIPLIER_BYTES * operator.channels
    return found


def _aligned(size: int, step: int) -> int:
    return -(-size // step) * step
