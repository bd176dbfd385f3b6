"""Collects an ONNX graph node by node: what the integer and the fp32 writer share."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

OPSET = 17  # Every operator needed is in it, and ONNX Runtime has fused its Q/DQ pairs since 1.13
IR_VERSION = 9


class Graph:
    """Collects nodes, each named as its output, and initialisers."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    def constant(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        """Add an initialiser; return its name."""
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        self.initializers.append(helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: float | list[int]) -> str:
        """Add a node; return its output."""
        node = helper.make_node(kind, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return output

    def model(
        self, images: ValueInfoProto, outputs: Sequence[ValueInfoProto], metadata: Mapping[str, str] | None
    ) -> onnx.ModelProto:
        """Make the model, `metadata` in its `metadata_props`."""
        model = helper.make_model(
            helper.make_graph(self.nodes, "spaceevo", [images], outputs, self.initializers),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="spaceevo",
            producer_version=version("spaceevo"),
        )
        helper.set_model_props(model, dict(metadata or {}))
        return model
