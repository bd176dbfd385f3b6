"""Writes integer programs as LiteRT (TFLite) files: int8 storage, every number as the program has it."""

from collections.abc import Mapping, Sequence

from spaceevo.quant.program import Op, Program, TensorQuant
from spaceevo.quant.quantizer import RELU6_SCALE
from spaceevo.runtimes.base import INPUT_NAME, OUTPUT_NAME, PLAIN_FILE, FileOptions
from spaceevo.runtimes.litert.layers import LayerGraph, Value, Weights
from spaceevo.runtimes.litert.packing import channels_to_fill
from spaceevo.runtimes.preprocessing import INSIDE_NAME, Preprocessing


def _add(graph: LayerGraph, op: Op, x: Sequence[Value], quant: TensorQuant) -> Value:
    """Append an operation; saturation does what relu, relu6 and the gates' clips do."""
    if op.weights is not None:
        weights = Weights(op.weights.weight, op.weights.bias, op.weights.scale)
        if op.kind == "linear":
            return graph.linear(op.output, x[0], weights, quant)
        assert op.groups in (1, x[0].shape[-1])
        return graph.conv(op.output, x[0], weights, quant, stride=op.stride, depthwise=op.groups > 1)
    match op.kind:
        case "add" | "mul":
            return graph.binary(op.kind.upper(), op.output, x[0], x[1], quant)
        case "mean":
            return graph.mean(op.output, x[0], quant)
        case "sigmoid":
            return graph.unary("LOGISTIC", op.output, x[0], quant)
    # relu6(x + 3) on the grid 6/256, then a sixth of it: the same integers on the grid 1/256.
    three = graph.scalar(f"{op.output}.three", 3.0, quant)
    sixth = graph.scalar(f"{op.output}.sixth", 1 / 6, quant)
    sixfold = graph.binary("ADD", f"{op.output}.sixfold", x[0], three, TensorQuant(RELU6_SCALE, 0))
    return graph.binary("MUL", op.output, sixfold, sixth, quant)


def _normalize(graph: LayerGraph, pixels: Value, preprocessing: Preprocessing) -> Value:
    """Append the normalisation of pixels, in float."""
    x = graph.value(f"{INSIDE_NAME}.real", pixels.shape, None)
    types = graph.schema.TensorType
    settings = {"inDataType": types.UINT8, "outDataType": types.FLOAT32}
    graph.operator("CAST", [pixels.index], x.index, 1, "CastOptions", **settings)
    for kind, name, numbers in zip(("MUL", "ADD"), ("gain", "shift"), preprocessing.factors(), strict=True):
        constant = Value(graph.constant(f"{INSIDE_NAME}.{name}", numbers, "FLOAT32"), numbers.shape, None)
        x = graph.binary(kind, f"{INSIDE_NAME}.{kind.lower()}", x, constant, None)
    return x


def to_tflite(program: Program, metadata: Mapping[str, str] | None = None, options: FileOptions = PLAIN_FILE) -> bytes:
    """Write a program as a LiteRT file: float input `images` `(1, H, W, C)`, float output `logits`; N can be resized.

    Inside, everything is int8: the program's integers less 128. Watched tensors come out as real values.
    """
    graph = LayerGraph(channels_to_fill(options.packed_channels))
    channels, height, width = program.input_shape
    shape = (1, height, width, channels)
    if options.preprocessing is None or not options.preprocessing.inside:
        source = images = graph.value(INPUT_NAME, shape, None)
    else:
        source = Value(graph.tensor(INSIDE_NAME, shape, "UINT8"), shape, None)
        images = _normalize(graph, source, options.preprocessing)
    name = program.input_name
    values = {name: graph.value(name, shape, program.tensors[name])}
    graph.operator("QUANTIZE", [images.index], values[name].index, 1, "QuantizeOptions")
    for op in program.ops:
        values[op.output] = _add(graph, op, [values[x] for x in op.inputs], program.tensors[op.output])
    outputs = []
    for output, name in ((OUTPUT_NAME, program.output_name), *((f"{x}.real", x) for x in options.watch)):
        real = graph.value(output, values[name].shape, None)
        graph.operator("DEQUANTIZE", [values[name].index], real.index, 2, "DequantizeOptions")
        outputs.append(real.index)
    return graph.pack([source.index], outputs, metadata)
