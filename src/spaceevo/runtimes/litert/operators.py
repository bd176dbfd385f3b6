"""Looks at the operators of a LiteRT file: their types, and each as a file of its own."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spaceevo.runtimes.litert.flatbuffer import FlatbufferGraph, Table, litert_schema, read_model


class OperatorFile(NamedTuple):
    """Holds an operator as a LiteRT file of its own, which is fed what the operator reads, constants apart."""

    name: str  # name of the tensor it writes
    kind: str  # its type, a name of the schema's `BuiltinOperator`
    file: bytes  # the file


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
    """Write operators in a row, of which each but the last is read by the next alone, as a file."""
    (graph,) = model.subgraphs
    part = FlatbufferGraph()
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
    return part.pack(fed, [moved[written[-1]]])
