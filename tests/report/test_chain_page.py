"""The page of a chain shows what its files say, and says what they lack."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from spaceevo.artifacts import StageResult, checksums, write_csv
from spaceevo.errors import SpaceEvoError
from spaceevo.jobs.doctor import _artefacts
from spaceevo.report.chain import read_chain
from spaceevo.report.chain_page import chain_sections, write_chain_page
from spaceevo.report.page import Chart, Section, Table
from tests.report.conftest import BENCHMARKED, FRONT, leave


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundling the charts' library takes seconds."""
    monkeypatch.setattr("spaceevo.report.page.charts_library", lambda: "")


def command(job: str, quant: str) -> str:
    return f"make {job} {quant}"


def sections(root: Path) -> dict[str, Section]:
    return {section.title: section for section in chain_sections(read_chain(root), command)}


def charted(section: Section) -> str:
    return json.dumps([part.spec["data"] for part in section.parts if isinstance(part, Chart)])


def page(root: Path, *others: Path) -> str:
    chains = {folder.name: read_chain(folder) for folder in (root, *others)}
    write_chain_page(root / "page.html", chains, lambda _: command)
    return (root / "page.html").read_text()


def test_every_section_of_a_whole_chain_is_filled(chain_folder: Path) -> None:
    for title, section in sections(chain_folder).items():
        assert section.parts, title
        assert not section.lacks, title


def test_another_runtime_of_an_export_has_its_row(chain_folder: Path) -> None:
    figures = {"onnx_int8_latency_ms": 0.46, "openvino_int8_latency_ms": 0.375, "machine": "M"}
    leave(chain_folder, "export", figures, "2026-11-28T11:00:00+00:00")
    tables = [part for part in sections(chain_folder)["Asked, predicted, measured"].parts if isinstance(part, Table)]
    assert [row[:2] for row in tables[-1].rows] == [["onnx", 0.46], ["openvino", 0.375]]


def test_a_page_is_of_one_scheme_and_names_the_others(chain_folder: Path) -> None:
    chain = read_chain(chain_folder)
    assert chain.of_scheme("deploy") == chain.of_scheme("reduced_range") == chain  # nothing to tell apart
    figures = {"platform": "ort_cpu", "machine": "M", "int8_latency_ms": 0.25, "subnets": []}
    leave(chain_folder, "benchmark_reduced_range", figures, "2026-11-28T11:00:00+00:00")
    both = read_chain(chain_folder)
    names = {quant: {step.name for step in both.of_scheme(quant).steps} for quant in ("deploy", "reduced_range")}
    assert names["deploy"] == {step.name for step in chain.steps}
    assert names["reduced_range"] == {"teacher_fp32", "block_kd_fp32", "supernet_fp32", "benchmark_reduced_range"}
    (told,) = (section for section in chain_sections(both.of_scheme("deploy"), command) if section.title == "The chain")
    assert told.lacks == [
        "Results under quant=reduced_range lie there too; they are shown by recipe.pipeline.quant=reduced_range."
    ]


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("Space search", ["0.34375", "1.75", "0.25"]),
        ("Supernet and training curves", ["1.5", "44.25", "supernet_int8"]),
        ("Front", ["0.4", "0.45", "70.5"]),
        ("Asked, predicted, measured", ["0.45", "0.9"]),
        ("Operators' time", ["0.3125", "QLinearConv"]),
    ],
)
def test_charts_hold_what_the_jobs_found(chain_folder: Path, title: str, values: list[str]) -> None:
    data = charted(sections(chain_folder)[title])
    assert [value for value in values if value not in data] == []


def test_heat_maps_of_both_precisions_have_one_scale(chain_folder: Path) -> None:
    text = page(chain_folder)
    cells = re.findall(r'--warmth:([\d.]+)">([\d.]+)<', text)
    # losses 0.125 … 2 of the stage lie four doublings apart
    assert cells == [("0.500", "0.5"), ("0.000", "0.125"), ("1.000", "2"), ("0.250", "0.25")]
    assert "0 ResNet" in text and "1 MobileNetV1" in text


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("block_kd_int8", "Block losses, INT8: not there yet; it is made by: make block_kd deploy"),
        ("supernet_fp32", "Supernet, fp32: not there yet; it is made by: make supernet off"),
        ("benchmark", "Latencies of subnets, measured: not there yet; it is made by: make benchmark deploy"),
        ("export", "Exported files: not there yet; it is made by: make export deploy"),
        ("space_search", "Space search: not there yet; it is made by: make space_search deploy"),
        ("subnet_search", "Front of subnets: not there yet; it is made by: make subnet_search deploy"),
    ],
)
def test_what_is_lacking_is_said_in_its_place(chain_folder: Path, folder: str, told: str) -> None:
    (chain_folder / folder / "result.json").unlink()
    assert told in page(chain_folder)


def test_a_damaged_result_is_told_and_the_rest_shown(chain_folder: Path) -> None:
    (chain_folder / "benchmark" / "result.json").write_text("{")
    text = page(chain_folder)
    assert "cannot be read" in text and "benchmark/result.json" in text
    assert "99.5" in text


def test_a_front_by_other_limits_is_drawn_by_them(chain_folder: Path) -> None:
    row = {**FRONT, "asked_ms": "5mmacs", "latency_ms": None, "measured_ms": None, "mmacs": 4.75}
    figures: dict[str, object] = {"front_axis": "mmacs", "pareto_subnets": [row]}
    leave(chain_folder, "subnet_search", figures, "2026-11-28T11:00:00+00:00")
    section = sections(chain_folder)["Front"]
    assert '"mmacs": 4.75' in charted(section)
    assert "multiply-accumulates, millions" in str(section.parts[0])
    assert "5 MMACs" in str(section.parts) and "5mmacs" not in str(section.parts)
    assert "latency" not in str(section.parts[0])
    assert section.lacks == ["Measured latencies: the platform was not at hand, or is a table."]


def test_latencies_of_several_platforms_are_told_apart(chain_folder: Path) -> None:
    rows = [{"platform": name, **BENCHMARKED} for name in ("ort_cpu", "phone")]
    leave(chain_folder, "benchmark", {"platform": "ort_cpu, phone", "subnets": rows}, "2026-11-28T11:00:00+00:00")
    data = charted(sections(chain_folder)["Asked, predicted, measured"])
    assert '"ort_cpu INT8"' in data and '"phone fp32"' in data


def test_a_damaged_table_is_left_out_and_told(chain_folder: Path) -> None:
    curve = chain_folder / "supernet_int8" / "training.csv"
    curve.write_text("epoch,loss,lr\n1.0,broken,0.1\n")
    found = sections(chain_folder)
    assert found["The chain"].lacks == [f"{curve} is not as it was made; what it holds is left out"]
    data = charted(found["Supernet and training curves"])
    assert "supernet_fp32" in data and "supernet_int8" not in data


def test_a_file_that_was_exchanged_is_told(chain_folder: Path) -> None:
    (chain_folder / "export/subnet_int8.onnx").write_text("y" * 2048)
    (files,) = [part for part in sections(chain_folder)["Files"].parts if isinstance(part, Table)]
    told = {row[1]: (row[2], row[4]) for row in files.rows}
    assert told["onnx_int8"] == ("export/subnet_int8.onnx is damaged, or was edited: it is not as it was made", "")
    assert told["onnx_profile"][1]


def test_nothing_is_fetched_and_names_cannot_add_markup(chain_folder: Path) -> None:
    leave(chain_folder, "teacher_fp32", {"top1": 1.0, "space": "<img src=x>"}, "2026-11-28T09:00:00+00:00")
    leave(chain_folder, "supernet_int8", {"space": "</script><b>"}, "2026-11-28T11:00:00+00:00")
    text = page(chain_folder)
    assert not re.search(r'(?:src|href)="(?!#|data:,)', text)
    assert "</script><b>" not in text and "</script><b>" in unescape(text)


def test_each_measured_latency_says_which_job_measured_it(chain_folder: Path) -> None:
    text = page(chain_folder)
    for job, minute in (("subnet_search", 6), ("export", 7), ("benchmark", 8)):
        assert f"measured by {job}, 2026-11-28 10:{minute:02}; other runs differ" in text
    assert "measured ms, INT8 (benchmark)" in text


def test_chains_stand_side_by_side(chain_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    leave(other, "teacher_fp32", {"top1": 12.5}, "2026-11-28T09:00:00+00:00")
    text = page(chain_folder, other)
    assert "91.5" in text and "12.5" in text
    assert text.count('<p class="whose">other</p>') == len(sections(other))
    assert "Exported files: not there yet" in text


def test_files_of_a_chain_seen_from_another_folder_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both chains were made as `runs/digits`, each from its own folder; the one looked at is the first."""
    root = Path("runs", "digits")
    for name, top1 in (("first", 44.25), ("second", 50.0)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        curve = root / "checkpoints" / "training.csv"
        write_csv(curve, [{"epoch": 1.0, "max_top1": top1}])
        sums = checksums([curve])
        StageResult("supernet", "f", 0, {}, {}, {}, {"a_curve": str(curve)}, sums).save(root / "supernet_int8")
    chain = read_chain(tmp_path / "first" / root)
    assert [rows[0]["max_top1"] for _, rows in chain.trainings()] == ["44.25"]
    assert _artefacts(chain.root).startswith("1 results")
    mine = chain.root / "checkpoints" / "training.csv"
    mine.write_text("epoch,max_top1\n1.0,99\n")
    assert chain.steps[0].damaged_tables() == [mine]
    with pytest.raises(SpaceEvoError, match=f"{mine} is not as it was made"):
        _artefacts(chain.root)
    mine.unlink()
    assert chain.steps[0].path("a_curve") is None
