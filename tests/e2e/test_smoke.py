"""The whole chain on a few images, a step or two of training each: every job finds what the one before it left."""

from __future__ import annotations

from pathlib import Path

from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.models import trained_supernet
from spaceevo.nn.supernet import Supernet
from spaceevo.space.description import parse_space
from tests.jobs.conftest import SMALLEST_CHAIN, RunJob

SPACE = "digits-012-010"


def test_training_from_the_teacher_to_a_finetuned_subnet(tiny: RunJob, tmp_path: Path) -> None:
    block = "block=[stage1_0,stage3_2]"
    chain = [("teacher",), ("block_kd", block), ("supernet", f"space={SPACE}")]
    for job, *overrides in chain:
        for quant in ("off", "deploy"):
            result = tiny(job, *overrides, f"quant={quant}")
            assert result.device == "cpu"
            int8 = "lsq.pth" if job == "teacher" else "lsq_deploy.pth"
            weights = [path for path in result.outputs.values() if path.endswith(".pth")]
            for path in weights:
                assert Path(path).name == (int8 if quant == "deploy" else "checkpoint.pth")
                assert len(read_checkpoint(Path(path), job).state) > 5
    member = parse_space(SPACE)
    (trained,) = weights
    supernet: Supernet = trained_supernet(member, "deploy", read_checkpoint(Path(trained), "supernet"), int8=True)
    subnet = tmp_path / "subnet.pth"
    meta = CheckpointMeta(SPACE, str(member.smallest), classes=tuple("0123456789"), quant="deploy")
    save_checkpoint(subnet, supernet.extract(member.smallest), meta)
    result = tiny("finetune", f"checkpoint={subnet}")
    assert result.figures["classes"] == 4
    assert 0 <= result.figures["finetune_int8_top1"] <= 100


def test_the_pipeline_to_a_measured_file(tiny: RunJob) -> None:
    result = tiny("pipeline", *SMALLEST_CHAIN)
    assert result.figures["onnx_agreement"] >= 0
    assert result.figures["int8_latency_ms"] > 0
    assert f"{result.figures['int8_speedup']:.2f} times as fast as in fp32" in result.figures["in_words"]
    assert result.summary[-1] == "in_words"
    assert Path(result.outputs["front_picture"]).read_bytes().startswith(b"\x89PNG")
