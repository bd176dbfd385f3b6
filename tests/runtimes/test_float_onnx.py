"""The fp32 ONNX file; that it computes the network is the contract of every runtime."""

from spaceevo.nn.supernet import Network
from spaceevo.runtimes.onnx.float_writer import to_float_onnx
from spaceevo.runtimes.onnx.runtime import OnnxRuntime


def test_its_operators_are_the_networks_layers_and_nothing_else(network: Network) -> None:
    file = to_float_onnx(network, (3, 24, 24))
    stages = {operator.stage for operator in OnnxRuntime().profile(file, repeats=1).operators}
    assert stages >= {"first_conv", "stage1", "final_expand"}
    of_the_runtime = {"ReorderInput", "ReorderOutput"}  # it moves channels between layouts
    used = OnnxRuntime().op_counts(file).keys() - of_the_runtime
    assert used == {"Conv", "GlobalAveragePool", "Mul", "Flatten", "Gemm"}
