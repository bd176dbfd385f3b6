"""Profile, transfer, fit_latency and benchmark as a user runs them."""

import json
from pathlib import Path

import pytest

from tests.e2e.test_command_line import fault, spaceevo

pytestmark = pytest.mark.slow


def test_profile_then_benchmark_of_listed_subnets(tmp_path: Path) -> None:
    done = spaceevo(tmp_path, "+stage=profile", "superspace=digits", "debug=fast")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs/digits/profile_ort_cpu/result.json").read_text())
    assert result["networks"] == 3
    assert result["outputs"].keys() == {"table", "unseen", "picture", "nn_meter"}
    assert all(Path(path).exists() for path in result["outputs"].values())
    table = json.loads(Path(result["outputs"]["table"]).read_text())
    assert table["provenance"]["machine"] == result["machine"]
    assert table["correction"]["scale"] == result["scale"]
    assert len(table["blocks"]) == 20

    done = spaceevo(tmp_path, "+stage=profile", "superspace=digits", "debug=fast")
    assert "unchanged, skipped" in done.stdout

    listed = ["+stage=benchmark", "superspace=digits", "space=digits-012-000", "subnet=[max,min]"]
    done = spaceevo(tmp_path, *listed, "recipe.benchmark.repeats=5")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "runs/digits/benchmark/result.json").read_text())["subnets"]
    assert len(rows) == 2
    assert all(0.3 < row["predicted_ms"] / row["int8_ms"] < 3 and row["fp32_ms"] > 0 for row in rows)


def test_another_runtime_is_told_from_a_profiled_one(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="TFLite is the other runtime")
    given = ["superspace=digits", "debug=fast"]
    line = fault(tmp_path, "+stage=transfer", *given, "platform=tflite_cpu")
    assert "source = ort_cpu was not profiled: " in line
    assert "make it with: python -m spaceevo +stage=profile superspace=digits debug=fast platform=ort_cpu" in line
    assert spaceevo(tmp_path, "+stage=profile", *given).returncode == 0
    done = spaceevo(tmp_path, "+stage=transfer", *given, "platform=tflite_cpu")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs/digits/transfer_tflite_cpu/result.json").read_text())
    assert (result["measured_blocks"], result["measured_networks"], result["networks"]) == (0, 3, 3)
    assert result["transferred_from"] == "ort_cpu"
    table = json.loads(Path(result["outputs"]["table"]).read_text())
    assert table["blocks"] == {}
    assert table["provenance"]["runtime"] == "ai-edge-litert"
    assert "unchanged, skipped" in spaceevo(tmp_path, "+stage=transfer", *given, "platform=tflite_cpu").stdout
    asked = ["+stage=predict_latency", "superspace=digits", "platform=tflite_cpu", "space=digits-012-000", "subnet=min"]
    done = spaceevo(tmp_path, *asked)
    assert done.returncode == 0, done.stderr
    assert "are measured whole" not in done.stdout


def test_faults_are_one_line(tmp_path: Path) -> None:
    line = fault(tmp_path, "+stage=profile", "superspace=digits", "platform=vnni")
    assert "platform = vnni cannot be measured; allowed: ort_cpu, " in line
    line = fault(tmp_path, "+stage=predict_latency", "superspace=digits", "platform=vnni", "space=digits-012-000")
    assert "platform vnni has no latency table" in line
    assert "+stage=fit_latency superspace=digits platform=vnni source=" in line
    line = fault(tmp_path, "+stage=profile", "superspace=digits", "platform=adb")
    assert "adb" in line
    line = fault(tmp_path, "+stage=fit_latency", "superspace=onnxw", "platform=vnni", f"source={tmp_path}")
    assert "lacks 132 of the 132 stage tables of superspace onnxw, e.g. stage1_0_0.csv" in line
    line = fault(tmp_path, "+stage=fit_latency", "superspace=onnxw", "platform=vnni")
    assert "source = null" in line


def test_published_tables_become_a_platform(tmp_path: Path, reference: Path) -> None:
    source, exact = reference / "block_lut" / "onnxw", reference / "latency" / "vnni_block_latency.json"
    command = ["+stage=fit_latency", "superspace=onnxw", "platform=vnni", f"source={source}", f"exact={exact}"]
    done = spaceevo(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs/onnxw/fit_latency_vnni/result.json").read_text())
    assert result["rows_of_exact_blocks"] == 46_774
    assert result["exact_max_difference_ms"] < 1e-3
    assert result["within_1_percent"] >= 90
    search = [
        "+stage=space_search",
        "superspace=onnxw",
        "platform=vnni",
        f"paths.lut={source}",
        "latency_constraint=10",
    ]
    line = fault(tmp_path, *search)
    assert "platform.fixed_latency_ms" in line
    small = ["recipe.space_search.samples=2000", "recipe.space_search.local.total=50"]
    done = spaceevo(tmp_path, *search, *small, "platform.unknown_blocks=fitted")
    assert done.returncode == 0, done.stderr
    assert "interpolated by its fitted model" in done.stdout + done.stderr
