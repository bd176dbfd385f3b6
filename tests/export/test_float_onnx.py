import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from spaceevo.errors import ExportError
from spaceevo.export.float_onnx import export_float
from spaceevo.export.parity import run_onnx
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import quantizers, set_quant


def switches(network: Network) -> list[bool]:
    return [quantizer.is_on for quantizer in quantizers(network).values()]


def modes(network: Network) -> list[bool]:
    return [module.training for module in network.modules()]


def test_float_file_equals_torch(
    network: Network, images: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, before = tmp_path / "fp32.onnx", (switches(network), modes(network))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_float(network, (3, 24, 24), path, {"subnet": "smallest"})
    assert capfd.readouterr() == ("", "")
    assert (switches(network), modes(network)) == before
    assert all(before[0])
    assert {entry.key: entry.value for entry in onnx.load(path).metadata_props}["subnet"] == "smallest"

    set_quant(network, False)
    try:
        with torch.no_grad():
            reference = network(images)
    finally:
        set_quant(network, True)
    for batch_size in (1, 64):
        torch.testing.assert_close(run_onnx(path, images, batch_size), reference, rtol=0, atol=1e-4)


def test_failure_is_told_and_leaves_the_network_as_it_was(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise torch.onnx.OnnxExporterError("no operator\nlong report")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"fp32 network as ONNX \(no operator\)"):
        export_float(network, (3, 24, 24), tmp_path / "fp32.onnx")
    assert all(switches(network))
    assert not list(tmp_path.iterdir())
