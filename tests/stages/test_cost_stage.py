import csv
from pathlib import Path

import pytest

from spaceevo.space.cost import subnet_cost
from spaceevo.space.description import parse_space
from tests.stages.conftest import RunStage

PUBLISHED = {
    "SEQnet@pixel4-A0": (111.0, 6.38),
    "SEQnet@pixel4-A4": (736.2, 15.30),
    "SEQnet@vnni-A0": (161.6, 7.80),
    "SEQnet@vnni-A4": (1381.2, 23.37),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_by_name(
    run_stage: RunStage, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = run_stage("cost", f"model={name}").figures
    assert (round(figures["mmacs"], 1), round(figures["mparams"], 2)) == PUBLISHED[name]
    assert [row["name"] for row in figures["subnets"]] == [name]
    shown = capsys.readouterr().out
    assert all(stage in shown for stage in ("first_conv", "stage6", "logits", f"{PUBLISHED[name][0]:.4g}"))
    with (tmp_path / "runs" / "cost" / "stages.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["mmacs"]) for row in rows) == pytest.approx(figures["mmacs"], rel=1e-12)
    (subnet,) = {row["subnet"] for row in rows}
    resolution = int(subnet.partition("_r")[2])
    width = subnet.partition("_w")[2].partition("#")[0]
    last = -(-resolution // 32)
    assert [row["output"] for row in rows][-3:] == [f"1280×{last}×{last}", "1920×1×1", "1000×1×1"]
    assert rows[0]["output"] == f"{width}×{resolution // 2}×{resolution // 2}"


def test_largest_and_smallest_without_a_subnet(run_stage: RunStage) -> None:
    member = parse_space("digits-012-010")
    figures = run_stage("cost", "superspace=digits", f"space={member}").figures
    costs = [subnet_cost(member, spec) for spec in (member.largest, member.smallest)]
    assert [(row["mmacs"], row["mparams"]) for row in figures["subnets"]] == costs


@pytest.mark.parametrize("space", ["'012_010'", "['012_010']", "digits-012-010", "[digits-012-010]"])
def test_a_list_of_subnets_is_counted_and_shown_whole(
    run_stage: RunStage, space: str, capsys: pytest.CaptureFixture[str]
) -> None:
    member = parse_space("digits-012-010")
    found = run_stage("cost", "superspace=digits", f"space={space}", f"subnet=[min,'{member.largest}']").figures
    costs = [subnet_cost(member, spec) for spec in (member.smallest, member.largest)]
    assert [(row["mmacs"], row["mparams"]) for row in found["subnets"]] == costs
    table = capsys.readouterr().out.rpartition("subnets of digits-012-010")[2]
    assert all(f"{cost.mmacs:.4g}" in table for cost in costs)
