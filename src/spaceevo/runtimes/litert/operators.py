"""Looks at the operators of a LiteRT file: which of them compute in float, and the time of each."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spaceevo.runtimes.base import OperatorTime, Profile
from spaceevo.runtimes.litert.flatbuffer import FlatbufferGraph, Table, litert_schema, read_model
from spaceevo.runtimes.litert.session import LiteRtSession
from spaceevo.runtimes.preprocessing import INSIDE_NAME
from spaceevo.runtimes.timing import time_models


class OperatorFile(NamedTuple):
    """Holds an operator as a LiteRT file of its own.

    Attributes:
        name: name of the tensor it writes.
        kind: its type, a name of the schema's `BuiltinOperator`.
        file: takes what the operator is fed, constants apart, and returns what it writes.
    """

    name: str
    kind: str
    file: bytes


def operator_kinds(model: Table) -> list[str]:
    """List the types of a model's operators, in order of execution."""
    names = {value: name for name, value in vars(litert_schema().BuiltinOperator).items() if not name.startswith("_")}
    return [names[model.operatorCodes[each.opcodeIndex].builtinCode] for each in model.subgraphs[0].operators]


def operator_files(file: bytes) -> list[OperatorFile]:
    """Cut a file written here into its operators, in order of execution; padding goes with what reads it."""
    model = read_model(file)
    found: list[OperatorFile] = []
    together: list[Table] = []
    (graph,) = model.subgraphs
    for kind, operator in zip(operator_kinds(model), graph.operators, strict=True):
        together.append(operator)
        if kind != "PAD":  # the runtime's convolutions pad as they read
            name = graph.tensors[operator.outputs[0]].name.decode()
            found.append(OperatorFile(name, kind, _alone(model, together)))
            together = []
    return found


def _alone(model: Table, operators: Sequence[Table]) -> bytes:
    """Operators in a row, of which each but the last is read by the next alone, as a file."""
    (graph,), part = model.subgraphs, FlatbufferGraph()
    read = dict.fromkeys(int(index) for each in operators for index in each.inputs)
    written = [int(index) for each in operators for index in each.outputs]
    contents = {index: model.buffers[graph.tensors[index].buffer].data for index in [*read, *written]}
    moved = {index: part.adopt(graph.tensors[index], content) for index, content in contents.items()}
    part.codes = model.operatorCodes
    for operator in map(copy.copy, operators):
        operator.inputs = np.array([moved[int(index)] for index in operator.inputs], np.int32)
        operator.outputs = np.array([moved[int(index)] for index in operator.outputs], np.int32)
        part.operators.append(operator)
    fed = [moved[index] for index in read if contents[index] is None and index not in written]
    return part.pack(fed, [moved[written[-1]]], "one operator", {})


def float_operators(file: bytes) -> Counter[str]:
    """Count operators, by type, that compute in float; conversions and preprocessing are none."""
    model = read_model(file)
    (graph,) = model.subgraphs
    real = litert_schema().TensorType.FLOAT32
    found = Counter[str]()
    for kind, operator in zip(operator_kinds(model), graph.operators, strict=True):
        tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs)]
        is_border = any(tensor.name.startswith(INSIDE_NAME.encode()) for tensor in tensors)
        if kind not in ("QUANTIZE", "DEQUANTIZE") and not is_border and any(tensor.type == real for tensor in tensors):
            found[kind] += 1
    return found


def operator_times(file: bytes, repeats: int) -> Profile:
    """Time every operator as a file of its own: one thread, batch 1, in order of execution.

    LiteRT has no profiler in Python. What running any file takes is taken off each; still, an operator alone is not the
    operator in its place, where the runtime plans memory for all and merges some. So the whole is timed beside
    them, to be compared with their sum, which lay 9 % below to 42 % above it where it was tried.
    """
    operators = operator_files(file)
    files = {"whole": file, "empty": _empty_file()} | {str(index): op.file for index, op in enumerate(operators)}
    timings = time_models(files, LiteRtSession, repeats, group=len(files))
    empty_ms = timings["empty"].latency_ms
    alone_ms = [max(0.0, timings[str(index)].latency_ms - empty_ms) for index in range(len(operators))]
    rows = [OperatorTime(op.name, op.kind, ms) for op, ms in zip(operators, alone_ms, strict=True)]
    return Profile(rows, timings["whole"].latency_ms)


def _empty_file() -> bytes:
    """Write a file that returns what it is fed."""
    graph = FlatbufferGraph()
    index = graph.tensor("x", (1,), "FLOAT32")
    return graph.pack([index], [index], "empty", {})
