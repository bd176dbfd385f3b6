"""Packs LiteRT models as flatbuffers: tensors and operators in, bytes out; what they compute is the caller's matter."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spaceevo.errors import MissingExtraError

PACKAGE = "ai-edge-litert"
EXTRA = "tflite"
FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
Table = Any
"""An object of the generated schema, which has no types."""
METADATA_NAME = b"spaceevo"
"""Name of the metadata entry that holds our texts, as JSON."""


def litert_schema() -> ModuleType:
    """Import the LiteRT flatbuffer schema; raises `MissingExtraError` where `ai-edge-litert` is not installed."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingExtraError(PACKAGE, EXTRA) from error
    module: ModuleType = schema_py_generated
    return module


class FlatbufferGraph:
    """Collects one LiteRT subgraph; tensors are known by their index."""

    def __init__(self) -> None:
        self.schema: Table = litert_schema()
        self.buffers: list[Table] = [self.schema.BufferT()]
        self.tensors: list[Table] = []
        self.operators: list[Table] = []
        self.codes: list[Table] = []
        self.code_indices: dict[tuple[str, int], int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        scale: ArrayLike | None = None,
        zero_point: int = 0,
        *,
        axis: int = 0,
        values: NDArray[np.generic] | None = None,
    ) -> int:
        """Add a tensor; return its index.

        Args:
            name: its name.
            shape: its sizes.
            dtype: a name of the schema's `TensorType`.
            scale: scale of its integers, one or one per slice of `axis`; without, the tensor is not quantised.
            zero_point: zero point of its integers.
            axis: dimension the scales belong to.
            values: content of a constant.
        """
        tensor = self.schema.TensorT()
        tensor.name, tensor.hasRank = name.encode(), True
        tensor.shape = np.array(shape, np.int32)
        tensor.type = getattr(self.schema.TensorType, dtype)
        tensor.buffer = 0 if values is None else self._buffer(values.tobytes())
        if scale is not None:
            quantization = self.schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            quantization.zeroPoint = np.full(len(quantization.scale), zero_point, np.int64)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, name: str, values: NDArray[np.generic], dtype: str, scale: ArrayLike | None = None) -> int:
        """Add a constant with zero point 0; return its index."""
        return self.tensor(name, values.shape, dtype, scale, values=values)

    def adopt(self, tensor: Table, content: NDArray[np.uint8] | None) -> int:
        """Add a copy of a tensor of another model, with the bytes of a constant; return its index."""
        tensor = copy.copy(tensor)
        tensor.buffer = 0 if content is None else self._buffer(content.tobytes())
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _buffer(self, content: bytes) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.buffers.append(buffer)
        return len(self.buffers) - 1

    def operator(
        self, kind: str, inputs: Sequence[int], output: int, version: int, options: str = "", **settings: object
    ) -> None:
        """Append an operator that reads tensors and writes one.

        `kind` is a name of the schema's `BuiltinOperator`, `version` tells the types that it has to support, and
        `settings` are fields of its table of `options`, e.g. `Conv2DOptions`.
        """
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(kind, version)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options:
            table = getattr(self.schema, f"{options}T")()
            for name, value in settings.items():
                setattr(table, name, value)
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = table
        self.operators.append(operator)

    def _code(self, kind: str, version: int) -> int:
        key = (kind, version)
        if key not in self.code_indices:
            code = self.schema.OperatorCodeT()
            code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
            # Readers of the time before 127 operators look at this field.
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = version
            self.code_indices[key] = len(self.codes)
            self.codes.append(code)
        return self.code_indices[key]

    def pack(self, inputs: Sequence[int], outputs: Sequence[int], texts: Mapping[str, str] | None = None) -> bytes:
        """Pack the finished file, which keeps `texts` as JSON in the metadata entry `spaceevo`."""
        import flatbuffers

        graph = self.schema.SubGraphT()
        model = self.schema.ModelT()
        entry = self.schema.MetadataT()
        graph.name, graph.tensors, graph.operators = b"main", self.tensors, self.operators
        graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        entry.name, entry.buffer = METADATA_NAME, self._buffer(json.dumps(dict(texts or {})).encode())
        model.version, model.metadata = SCHEMA_VERSION, [entry]
        model.description = f"spaceevo {version('spaceevo')}".encode()
        model.operatorCodes, model.subgraphs, model.buffers = self.codes, [graph], self.buffers
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())


def read_model(file: bytes) -> Table:
    """Read a LiteRT file as the schema's objects."""
    return litert_schema().ModelT.InitFromPackedBuf(file, 0)
