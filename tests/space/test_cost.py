"""Costs against published figures, against look-up tables, and against convolutions counted while a network runs."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from torch import nn

from spaceevo.errors import EncodingError
from spaceevo.nn.block import Block
from spaceevo.nn.layers import ElasticConv
from spaceevo.quant.quantizer import PUBLISHED
from spaceevo.space.cost import blocks_cost, stage_cost, stage_costs, subnet_cost
from spaceevo.space.description import parse_space, superspace
from spaceevo.space.encoding import SubnetSpec, format_substage, parse_substage
from spaceevo.space.operators import sample_subnet
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import SpaceMember

PUBLISHED_COSTS = {
    "SEQnet@pixel4-A0": (111.0, 6.38),
    "SEQnet@pixel4-A1": (272.1, 9.71),
    "SEQnet@pixel4-A2": (397.0, 10.01),
    "SEQnet@pixel4-A3": (589.3, 13.88),
    "SEQnet@pixel4-A4": (736.2, 15.30),
    "SEQnet@vnni-A0": (161.6, 7.80),
    "SEQnet@vnni-A1": (356.3, 11.96),
    "SEQnet@vnni-A2": (636.4, 14.52),
    "SEQnet@vnni-A3": (979.6, 15.93),
    "SEQnet@vnni-A4": (1381.2, 23.37),
}
STAGES = [f"stage{index}" for index in range(1, 7)]
TABLES = [
    (name, stage, block) for name, count in (("mobilew", 7), ("onnxw", 6)) for stage in STAGES for block in range(count)
]
MMACS_TOLERANCE, MPARAMS_TOLERANCE = 6e-4, 1.5e-4  # the published counter adds in single precision and prints 4 digits


@pytest.mark.parametrize("name", PUBLISHED_COSTS)
def test_published_subnets(reference: Path, name: str) -> None:
    published = yaml.safe_load((reference / "published.yaml").read_text())
    entry = published["subnets"][name]
    cost = subnet_cost(parse_space(published["supernets"][entry["supernet"]]), SubnetSpec.parse(entry["subnet"]))
    assert (round(cost.mmacs, 1), round(cost.mparams, 2)) == PUBLISHED_COSTS[name]


def rows(folder: Path, name: str, stage: str, block: int, window: int) -> Iterator[list[str]]:
    with (folder / "block_lut" / name / f"{stage}_{block}_{window}.csv").open(newline="") as file:
        yield from csv.reader(file)


def check_rows(name: str, stage: str, block: int, window: int, lines: Sequence[list[str]]) -> None:
    space = superspace(name).stage_space(stage, block, window)
    for text, shape, _, mflops, mparams, _ in lines:
        blocks = parse_substage(text)
        space.validate(blocks)
        assert format_substage(blocks) == text
        _, cin, hw, _ = map(int, shape.split("x"))
        assert cin in space.cins
        assert hw in {superspace(name).input_hw(stage, resolution) for resolution in (160, 192, 224)}
        cost = stage_cost(name, stage, block, text, cin, hw)
        assert cost.mmacs == pytest.approx(float(mflops), abs=MMACS_TOLERANCE), text
        assert cost.mparams == pytest.approx(float(mparams), abs=MPARAMS_TOLERANCE), text


@pytest.mark.parametrize(("name", "stage", "block"), TABLES)
def test_some_rows_of_the_lookup_tables(reference: Path, name: str, stage: str, block: int) -> None:
    last = superspace(name).stage(stage).windows - 1
    check_rows(name, stage, block, last, list(rows(reference, name, stage, block, last))[::50])


@pytest.mark.slow
def test_all_rows_of_the_lookup_tables(reference: Path) -> None:
    """342,000 of them, counted together; published figures have four decimals."""
    total = equal = 0
    for name, stage, block in TABLES:
        space = superspace(name)
        for window in range(space.stage(stage).windows):
            lines = list(rows(reference, name, stage, block, window))
            for text, shape, _, mflops, mparams, _ in lines:
                _, cin, hw, _ = map(int, shape.split("x"))
                cost = stage_cost(space, stage, block, text, cin, hw)
                assert abs(cost.mmacs - float(mflops)) < MMACS_TOLERANCE, text
                assert abs(cost.mparams - float(mparams)) < MPARAMS_TOLERANCE, text
                equal += f"{cost.mmacs:.4f}" == mflops and f"{cost.mparams:.4f}" == mparams
            total += len(lines)
    assert total == 342_000
    assert equal / total > 0.995


def counted_by_running(specs: Sequence[BlockSpec], hw: int) -> tuple[int, int]:
    """Multiply-accumulates and parameters of the built blocks, without memory: on the meta device."""
    macs = 0

    def count(conv: ElasticConv, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        if output.ndim == 4:
            macs += output.numel() * conv.weight[0].numel()

    with torch.device("meta"):
        network = nn.Sequential(*(Block([spec], PUBLISHED) for spec in specs)).eval()
        convs = [child for child in network.modules() if isinstance(child, ElasticConv)]
        for conv in convs:
            conv.register_forward_hook(count)
        network(torch.empty(1, specs[0].cin, hw, hw))
    quantiser_scalars = sum("quantizer" in name for name, _ in network.named_parameters())
    assert quantiser_scalars == 3 * len(convs)
    return macs, sum(parameter.numel() for parameter in network.parameters())


def check_against_running(member: SpaceMember, spec: SubnetSpec) -> None:
    blocks = [block for stage in member.block_specs(spec).values() for block in stage]
    macs, params = counted_by_running(blocks, spec.resolution)
    cost = subnet_cost(member, spec)
    assert round(cost.mmacs * 1e6) == macs
    assert round(cost.mparams * 1e6) == params
    stages = stage_costs(member, spec)
    assert list(stages) == list(member.stages)
    assert sum(part.mmacs for part in stages.values()) == pytest.approx(cost.mmacs, rel=1e-12)


@pytest.mark.parametrize("name", ["digits-012-110", "mobilew-013456-133421", "onnxw-345012-013333"])
def test_a_running_network_counts_the_same(name: str) -> None:
    member = parse_space(name)
    for spec in (member.largest, sample_subnet(member, Random(4))):
        check_against_running(member, spec)


@pytest.mark.parametrize("hw", [1, 7, 15, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_odd_sizes_round_as_a_convolution_does(hw: int, stride: int) -> None:
    specs = [
        BlockSpec("ResNetSE", 16, 24, 5, 0.5, stride, "relu"),
        BlockSpec("MobileNetV3K3Res", 24, 24, 7, 3, 2, "swish"),
    ]
    cost = blocks_cost(specs, hw)
    assert (round(cost.mmacs * 1e6), round(cost.mparams * 1e6)) == counted_by_running(specs, hw)


def test_a_substage_as_value_text_or_with_its_superspace() -> None:
    text = "3#32#None_5#24#None"
    cost = stage_cost("mobilew", "stage1", 0, text, 16, 80)
    assert cost == stage_cost(superspace("mobilew"), "stage1", 0, parse_substage(text), 16, 80)
    assert cost.mmacs > stage_cost("mobilew", "stage1", 0, text, 16, 78).mmacs


def test_a_foreign_subnet_has_no_cost() -> None:
    with pytest.raises(EncodingError, match="is not in digits-012-000: stage1"):
        subnet_cost(parse_space("digits-012-000"), parse_space("digits-012-111").largest)
