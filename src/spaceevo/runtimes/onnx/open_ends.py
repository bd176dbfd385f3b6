"""Makes ONNX models of single blocks as a network has them: integer tensors, channels last, at both ends.

A network converts images once and then keeps integers in the runtime's own layout from block to block; a block written
as a model of its own would convert its input and output each time, which costs up to a third of it.
"""

from onnx import ModelProto, TensorProto, ValueInfoProto, helper


def open_start(model: ModelProto) -> None:
    """Drop the quantisation of the input: the model takes integers, channels last where they have a height."""
    graph = model.graph
    quantize = graph.node.pop(0)
    assert quantize.op_type == "QuantizeLinear"
    name = quantize.output[0]
    count, channels, *sides = _shape(graph.input.pop())
    shape = [count, channels, *sides]
    if max(sides) > 1:
        # The runtime turns this transposition and its own, back again, into nothing.
        outer = f"{name}.channels_last"
        graph.node.insert(0, helper.make_node("Transpose", [outer], [name], perm=(0, 3, 1, 2)))
        name, shape = outer, [count, *sides, channels]
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))


def open_end(model: ModelProto) -> None:
    """Drop the dequantisation of the output: the model returns integers, channels last where they have a height."""
    graph = model.graph
    dequantize = graph.node.pop()
    assert dequantize.op_type == "DequantizeLinear"
    name = dequantize.input[0]
    count, channels, *sides = _shape(graph.output.pop())
    if sides:
        outer = f"{name}.channels_last"
        graph.node.append(helper.make_node("Transpose", [name], [outer], perm=(0, 2, 3, 1)))
        name = outer
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, [count, *sides, channels]))


def _shape(value: ValueInfoProto) -> list[int]:
    """Sizes for one image."""
    return [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
