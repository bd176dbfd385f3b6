"""Counts what a program's TFLite file holds — tensors and operators with their sizes — without writing it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

from spaceevo.quant.program import Op, OpKind, Program
from spaceevo.runtimes.base import INPUT_NAME, OUTPUT_NAME
from spaceevo.runtimes.litert.layers import pads_as_same

Kind = Literal["QUANTIZE", "DEQUANTIZE", "CONV", "FULLY_CONNECTED", "PAD", "ADD", "MUL", "MEAN", "LOGISTIC"]
FLOAT_BYTES = 4
ALIKE: Mapping[OpKind, Kind] = {"add": "ADD", "mul": "MUL", "sigmoid": "LOGISTIC"}
"""Operations that become one operator without constants."""


class Tensor(NamedTuple):
    """Describes a tensor of the file."""

    name: str
    size: int  # bytes
    is_constant: bool = False
    scales: int = 1  # scales of its integers, each with a zero point; 0 where it is not quantised
    sides: int = 4  # its dimensions


class Operator(NamedTuple):
    """Describes an operator of the file: tensors by index, and channels that have a multiplier each."""

    kind: Kind
    inputs: tuple[int, ...]
    output: int
    channels: int = 0


@dataclass
class Census:
    """Lists tensors and operators as `runtimes.litert.writer` writes them, nothing packed."""

    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)

    @classmethod
    def of(cls, program: Program) -> Self:
        """Take the census of a program; weights are looked at for their shapes alone."""
        census, shapes = cls(), program.shapes()
        images = census.activation(INPUT_NAME, shapes[program.input_name], FLOAT_BYTES)
        values = {program.input_name: census.activation(program.input_name, program.input_shape)}
        census.operator("QUANTIZE", (images,), values[program.input_name])
        for op in program.ops:
            inputs = tuple(values[name] for name in op.inputs)
            values[op.output] = census.add(op, inputs, shapes[op.inputs[0]], shapes[op.output])
        logits = census.activation(OUTPUT_NAME, shapes[program.output_name], FLOAT_BYTES)
        census.operator("DEQUANTIZE", (values[program.output_name],), logits)
        return census

    def tensor(self, tensor: Tensor) -> int:
        """Add a tensor; return its index."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def activation(self, name: str, shape: tuple[int, ...], width: int = 1) -> int:
        """Add a tensor that is computed, of elements so many bytes wide."""
        return self.tensor(Tensor(name, width * math.prod(shape), scales=int(width == 1), sides=len(shape) + 1))

    def constant(self, name: str, size: int, scales: int = 0, sides: int = 1) -> int:
        """Add a tensor that lies in the file."""
        return self.tensor(Tensor(name, size, True, scales, sides))

    def operator(self, kind: Kind, inputs: tuple[int, ...], output: int, channels: int = 0) -> int:
        """Append an operator; return its output."""
        self.operators.append(Operator(kind, inputs, output, channels))
        return output

    def add(self, op: Op, inputs: tuple[int, ...], source: tuple[int, ...], result: tuple[int, ...]) -> int:
        """Append the operators of one operation, whose first input and output have these shapes `(C, H, W)`."""
        name = op.output
        match op.kind:
            case "conv" | "linear":
                return self.convolve(op, inputs[0], source, result)
            case "hard_sigmoid":
                three, sixth = (self.constant(f"{name}.{what}", 1, scales=1) for what in ("three", "sixth"))
                sixfold = self.activation(f"{name}.sixfold", result)
                self.operator("ADD", (inputs[0], three), sixfold)
                return self.operator("MUL", (sixfold, sixth), self.activation(name, result))
            case "mean":
                axes = self.constant(f"{name}.axes", 8)
                return self.operator("MEAN", (inputs[0], axes), self.activation(name, result))
        return self.operator(ALIKE[op.kind], inputs, self.activation(name, result))

    def convolve(self, op: Op, x: int, source: tuple[int, ...], result: tuple[int, ...]) -> int:
        """Append a convolution or matrix product, with the zeros around that LiteRT would put elsewhere."""
        assert op.weights is not None
        weight, name, channels = op.weights.weight, op.output, len(op.weights.bias)
        kernel, sides = weight.shape[-1], source[1:]
        is_product = op.kind == "linear" or (set(sides) == {1} and kernel == 1)
        if not is_product and not all(pads_as_same(side, kernel, op.stride) for side in sides):
            sizes = (source[0], *(side + 2 * (kernel // 2) for side in sides))
            padded = self.activation(f"{name}.padded", sizes)
            x = self.operator("PAD", (x, self.constant(f"{name}.padded.margins", 32, sides=2)), padded)
        shared = is_product and len(set(op.weights.scale.tolist())) == 1
        scales = 1 if shared else channels
        operands = (
            self.constant(f"{name}.weight", weight.size, scales, sides=2 if is_product else 4),
            self.constant(f"{name}.bias", 4 * channels, scales),
        )
        kind: Kind = "FULLY_CONNECTED" if is_product else "CONV"
        return self.operator(kind, (x, *operands), self.activation(name, result), channels)
