"""A chain's folder as its jobs leave it, a few figures each."""

from pathlib import Path

import pytest

from spaceevo.artifacts import StageResult, checksums, write_csv, write_text

FRONT = {"platform": "ort_cpu", "subnet": "d1_k3", "asked_ms": "0.5", "latency_ms": 0.4, "measured_ms": 0.45}
FRONT |= {"held_out_top1": 70.5, "top1": 71.25, "mmacs": 1.5, "mparams": 0.5}
BENCHMARKED = {"subnet": "d1_k3", "asked_ms": 0.5, "predicted_ms": 0.4, "int8_ms": 0.45, "fp32_ms": 0.9}
SPACE = {
    "space": "digits-222-000",
    "score": 0.25,
    "probability": 0.5,
    "loss": 2.0,
    "fastest_ms": 0.1,
    "slowest_ms": 0.9,
}
FIGURES: dict[str, dict[str, object]] = {
    "teacher_fp32": {"top1": 91.5},
    "block_kd_fp32": {"blocks": [{"block": "stage1_0", "max_nsr": 0.5}, {"block": "stage1_1", "max_nsr": 0.125}]},
    "block_kd_int8": {"blocks": [{"block": "stage1_0", "max_nsr": 2.0}, {"block": "stage1_1", "max_nsr": 0.25}]},
    "space_search": {
        **SPACE,
        "spaces": [SPACE],
        "history": [{"evaluation": 1, **SPACE}],
        "sensitivity": [
            {"t": 0.08, "a": 0.01, "rank": 1, "space": "digits-222-000", "new_rank": 3, "new_best": "other"}
        ],
    },
    "supernet_fp32": {"space": "digits-222-000", "supernet_max_fp32_top1": 88.25},
    "supernet_int8": {"space": "digits-222-000", "supernet_max_int8_top1": 87.75},
    "subnet_search": {"chosen_subnet": "d1_k3", "chosen_top1": 71.25, "pareto_subnets": [FRONT]},
    "export": {
        "onnx_parity": "agrees on 20 of 20",
        "onnx_agreement": 99.5,
        "onnx_int8_latency_ms": 0.46,
        "machine": "M",
    },
    "benchmark": {"platform": "ort_cpu", "machine": "M", "int8_latency_ms": 0.45, "subnets": [BENCHMARKED]},
}


@pytest.fixture
def chain_folder(tmp_path: Path) -> Path:
    root = tmp_path / "digits"
    for number, (folder, figures) in enumerate(FIGURES.items()):
        leave(root, folder, figures, f"2026-11-28T10:{number:02}:00+00:00")
    return root


def leave(root: Path, folder: str, figures: dict[str, object], made: str) -> None:
    """Leave what a job leaves: its result, and files that the page reads."""
    job = folder.removesuffix("_fp32").removesuffix("_int8").removesuffix("_reduced_range")
    quant = "off" if folder.endswith("_fp32") else "deploy"
    outputs: dict[str, str] = {}
    if job == "supernet":
        outputs = {f"{folder}_curve": str(root / folder / "training.csv")}
        write_csv(root / folder / "training.csv", [{"epoch": 1.0, "loss": 1.5, "lr": 0.1, "max_top1": 44.25}])
    if job == "export":
        outputs = {"onnx_int8": str(root / folder / "subnet_int8.onnx"), "onnx_profile": str(root / folder / "ops.csv")}
        write_text(root / folder / "subnet_int8.onnx", "x" * 2048)
        write_csv(
            root / folder / "ops.csv", [{"stage": "stage1", "name": "a", "kind": "QLinearConv", "least_ms": 0.3125}]
        )
    if job == "space_search":
        outputs = {"quantiles": str(root / folder / "quantiles.csv")}
        row = {"space": "digits-222-000", "share": 0.5, "latency_ms": 0.34375, "loss": 1.75}
        write_csv(root / folder / "quantiles.csv", [row])
    command = f"python -m spaceevo +stage={job} quant={quant}"
    versions = {"spaceevo": "0.2.0"}
    settings: dict[str, object] = {"superspace.candidates": [{"type": "ResNet"}, {"type": "MobileNetV1"}]}
    settings |= {} if job in ("space_search", "benchmark") else {"quant": quant}  # as those jobs have none
    sums = checksums(map(Path, outputs.values()))
    result = StageResult(
        job, "f", 0, figures, settings, {}, outputs, sums, versions, made=made, seconds=4.5, command=command
    )
    result.save(root / folder)
