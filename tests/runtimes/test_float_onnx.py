import pytest
import torch

from spaceevo.errors import ExportError
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import quantizers
from spaceevo.runtimes.onnx.float_writer import to_float_onnx
from spaceevo.runtimes.onnx.runtime import OnnxRuntime

ONNX = OnnxRuntime()


def test_failure_is_told_and_leaves_the_network_as_it_was(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise torch.onnx.OnnxExporterError("no operator\nlong report")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"fp32 network as ONNX \(no operator\)"):
        to_float_onnx(network, (3, 24, 24))
    assert all(quantizer.is_on for quantizer in quantizers(network).values())
