import warnings

import pytest
import torch
from torch import Tensor

from spaceevo.errors import ExportError
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.runtimes.onnx.float_writer import to_float_onnx
from spaceevo.runtimes.onnx.runtime import OnnxRuntime

ONNX = OnnxRuntime()


def switches(network: Network) -> list[bool]:
    return [quantizer.is_on for quantizer in quantizers(network).values()]


def modes(network: Network) -> list[bool]:
    return [module.training for module in network.modules()]


def test_float_file_equals_torch(network: Network, images: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    before = (switches(network), modes(network))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = to_float_onnx(network, (3, 24, 24), {"subnet": "smallest"})
    assert capfd.readouterr() == ("", "")
    assert (switches(network), modes(network)) == before
    assert all(before[0])
    assert ONNX.metadata(file)["subnet"] == "smallest"

    set_quant(network, False)
    try:
        with torch.no_grad():
            reference = network(images)
    finally:
        set_quant(network, True)
    for batch_size in (1, 64):
        torch.testing.assert_close(ONNX.load(file).logits(images, batch_size), reference, rtol=0, atol=1e-4)


def test_failure_is_told_and_leaves_the_network_as_it_was(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise torch.onnx.OnnxExporterError("no operator\nlong report")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"fp32 network as ONNX \(no operator\)"):
        to_float_onnx(network, (3, 24, 24))
    assert all(switches(network))
