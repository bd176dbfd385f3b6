import pytest
import torch

from spaceevo.errors import ExportError
from spaceevo.export.parity import ParityReport, Tolerance, compare
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


def test_near_ties_are_no_disagreement_and_counted_apart() -> None:
    reference = torch.tensor([[0.0, 2.0, 1.95], [2.0, 0.0, 1.8], [0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    logits = reference.clone()
    logits[0, 2] = 2.05  # as near as can be
    logits[1, 2] = 2.05  # two steps
    logits[2, 1] = 0.5  # far away
    report = compare(reference, logits, step=0.1)
    assert (report.agreeing, report.near_ties, report.missed) == (1, 1, 2)
    assert str(report) == "agrees on 1 of 4, 1 near ties"
    assert compare(reference, logits).near_ties == 0
    assert str(compare(reference, reference, 0.1)) == "agrees on 4 of 4"


def report_of(images: int, missed: int, near_ties: int = 0, mean_difference: float = 0.01) -> ParityReport:
    agreement = 100 * (images - missed - near_ties) / images
    return ParityReport(images, agreement, mean_difference, 1.0, near_ties)


@pytest.mark.parametrize(
    ("least", "images", "allowed"),
    [(99, 450, 4), (99, 200, 2), (99, 20, 1), (99, 2, 1), (99, 1, 0), (100, 450, 0), (100, 20, 0), (0, 20, 20)],
)
def test_of_few_images_one_may_differ(least: float, images: int, allowed: int) -> None:
    tolerance = Tolerance(least, 0.1)
    assert tolerance.allowed(images) == allowed
    tolerance.check("the file", report_of(images, allowed), "nowhere")
    if allowed + 1 < images:
        tolerance.check("the file", report_of(images, allowed, near_ties=1), "nowhere")
        with pytest.raises(
            ExportError, match=rf"top-1 agrees on {images - allowed - 1} of {images}, {allowed} may differ"
        ):
            tolerance.check("the file", report_of(images, allowed + 1), "nowhere")


def test_the_first_images_refuse_what_is_far_off_alone() -> None:
    tolerance = Tolerance(99, 0.1)
    tolerance.check_first("the file", report_of(64, 7), "nowhere")
    tolerance.check_first("the file", report_of(64, 1, mean_difference=0.15), "nowhere")
    for hopeless in (report_of(64, 8), report_of(64, 0, mean_difference=0.21), report_of(64, 0, 0, float("nan"))):
        with pytest.raises(ExportError, match="the file, by its first images, is not the trained network"):
            tolerance.check_first("the file", hopeless, "nowhere")


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ExportError, match=r"logits of shape \(4, 2\) against \(4, 3\)"):
        compare(torch.zeros(4, 3), torch.zeros(4, 2))


def test_batch_size_does_not_matter(program: Program, images: torch.Tensor) -> None:
    model = to_onnx(program).SerializeToString()
    torch.testing.assert_close(
        ONNX.load(model).logits(images, batch_size=5), ONNX.load(model).logits(images), rtol=0, atol=0
    )
