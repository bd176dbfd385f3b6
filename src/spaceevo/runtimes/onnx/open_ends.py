"""Makes ONNX models of single blocks as a network has them: integer tensors, channels last, at both ends.

A network converts images once and then keeps integers in the runtime's own layout from block to block; a block written
as a model of its own would convert its input and output each time, which costs up to a third of it.
"""

from __future__ import annotations

from onnx import ModelProto, TensorProto, ValueInfoProto, helper

TO_CHANNELS_LAST, TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def open_start(model: ModelProto) -> None:
    """Drop the quantisation of the input: the model takes integers, channels last where they have a height."""
    graph = model.graph
    quantize = graph.node[0]
    assert quantize.op_type == "QuantizeLinear"
    graph.node.remove(quantize)
    shape = _shape(graph.input[0])
    name = quantize.output[0]
    del graph.input[:]
    if max(shape[2:]) > 1:
        # The runtime turns this transposition and its own, back again, into nothing.
        outer = f"{name}.channels_last"
        graph.node.insert(0, helper.make_node("Transpose", [outer], [name], perm=TO_CHANNELS_FIRST))
        name, shape = outer, [shape[axis] for axis in TO_CHANNELS_LAST]
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))


def open_end(model: ModelProto) -> None:
    """Drop the dequantisation of the output: the model returns integers, channels last where they have a height."""
    graph = model.graph
    dequantize = graph.node[-1]
    assert dequantize.op_type == "DequantizeLinear"
    graph.node.remove(dequantize)
    shape = _shape(graph.output[0])
    name = dequantize.input[0]
    del graph.output[:]
    if len(shape) == 4:
        outer = f"{name}.channels_last"
        graph.node.append(helper.make_node("Transpose", [name], [outer], perm=TO_CHANNELS_LAST))
        name, shape = outer, [shape[axis] for axis in TO_CHANNELS_LAST]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))


def _shape(value: ValueInfoProto) -> list[int]:
    """Sizes for one image."""
    return [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
