import pytest
import torch

from spaceevo.errors import ExportError
from spaceevo.export.parity import ParityReport, compare
from spaceevo.quant.program import Program
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.onnx.writer import to_onnx

ONNX = OnnxRuntime()


def test_comparison() -> None:
    reference = torch.tensor([[0.0, 2.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
    logits = reference.clone()
    logits[0, 0] = 3.0
    spread = reference.std().item()
    assert compare(reference, reference) == ParityReport(4, 100.0, 0.0, 0.0)
    report = compare(reference, logits)
    assert (report.images, report.agreement) == (4, 75.0)
    assert report.mean_difference == pytest.approx(3 / 8 / spread)
    assert report.max_difference == pytest.approx(3 / spread)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ExportError, match=r"logits of shape \(4, 2\) against \(4, 3\)"):
        compare(torch.zeros(4, 3), torch.zeros(4, 2))


def test_batch_size_does_not_matter(program: Program, images: torch.Tensor) -> None:
    model = to_onnx(program).SerializeToString()
    torch.testing.assert_close(
        ONNX.load(model).logits(images, batch_size=5), ONNX.load(model).logits(images), rtol=0, atol=0
    )
