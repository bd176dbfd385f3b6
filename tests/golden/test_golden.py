"""Golden values of our own: each figure against its formula first, then against the file (made by `make.py`).

They hold on a clean clone; the tests against the published system's outputs need ../shared and skip without it.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import spaceevo
from spaceevo.nn.supernet import Network
from spaceevo.quant.quantizer import Quantizer
from tests.golden import cases
from tests.golden.formulas import (
    PlainBlocks,
    alpha_divergence,
    lsq_gradients,
    noise_to_signal,
    on_grid,
    sums_of,
)
from tests.golden.make import FILE

GOLDEN: dict[str, cases.Figures] = json.loads(FILE.read_text(encoding="utf-8"))


def assert_golden(section: str, found: cases.Figures, rel: float = 1e-5, atol: float = 1e-6) -> None:
    """Every figure of a section is that of the file."""
    expected = GOLDEN[section]
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values == pytest.approx(expected[name], rel=rel, abs=atol), f"{section}, {name}"


def test_the_file_is_small_and_has_every_section() -> None:
    assert FILE.stat().st_size < 300_000
    assert set(GOLDEN) == {f"lsq_{name}" for name in cases.LSQ} | {
        *("losses", "blocks", "logits", "cost", "latency", "quality")
    }


@pytest.mark.parametrize("name", cases.LSQ)
def test_lsq(name: str) -> None:
    case = cases.LSQ[name]
    x, upstream = cases.lsq_input(name)
    found = cases.lsq(name)
    scale, offset, low, high = float(case["scale"]), float(case["offset"]), int(case["low"]), int(case["high"])
    values = on_grid(x.double(), torch.tensor(scale, dtype=torch.double), offset, low, high)
    of_x, of_scale, of_offset = lsq_gradients(x, upstream, scale, offset, low, high)
    elements = x.numel() if name.endswith("weight") else x[0].numel()
    factor = (elements * high) ** -0.5
    assert found["output"] == pytest.approx(values.flatten().tolist(), abs=1e-6)
    assert found["input_gradient"] == pytest.approx(of_x, abs=1e-6)
    assert found["scale_gradient"] == pytest.approx([of_scale * factor], rel=1e-4)
    if not name.endswith("weight"):
        assert found["offset_gradient"] == pytest.approx([of_offset * factor], rel=1e-4, abs=1e-6)
    assert_golden(f"lsq_{name}", found, rel=1e-4)


def test_losses() -> None:
    found = cases.losses()
    for spread in (0.5, 4.0):
        assert found[f"alpha_{spread}"][0] == pytest.approx(alpha_divergence(*cases.loss_inputs(spread)), rel=1e-5)
    student, teacher = cases.features()
    assert found["nsr_teacher"][0] == pytest.approx(noise_to_signal(student, teacher, teacher), rel=1e-5)
    assert found["nsr_published"][0] == pytest.approx(noise_to_signal(student, teacher, student), rel=1e-5)
    assert_golden("losses", found, rel=1e-4)


@pytest.mark.parametrize("case", cases.BLOCKS)
@torch.no_grad()
def test_a_block_is_its_description(case: str) -> None:
    made, x = cases.block(case)
    plain = PlainBlocks({f"block.{name}": value for name, value in made.state_dict().items()})
    spec = made.spec
    expected = plain.block("block", spec.type, x, spec.kernel, spec.stride, spec.act)
    torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-5)
    weights = {name for name in plain.state if "quantizer" not in name and not name.endswith("num_batches_tracked")}
    assert plain.used == weights
    assert expected.std() > 0.01


def test_block_outputs() -> None:
    assert_golden("blocks", cases.blocks(), rel=1e-4, atol=1e-5)


def plain_logits(network: Network, int8: bool) -> tuple[Tensor, PlainBlocks]:
    """Logits of a network by the descriptions of its blocks."""
    plain = PlainBlocks(network.state_dict(), int8)
    resolution = network.resolution
    x = torch.nn.functional.interpolate(cases.images(), (resolution, resolution), mode="bicubic", align_corners=False)
    member = spaceevo.parse_space(cases.SPACE)
    spec = next(spec for spec in (member.smallest, member.largest) if spec.resolution == resolution)
    for stage, specs in member.block_specs(spec).items():
        for index, row in enumerate(specs):
            x = plain.block(f"stages.{stage}.blocks.{index}", row.type, x, row.kernel, row.stride, row.act)
    return x, plain


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
@pytest.mark.parametrize("name", ["smallest", "largest"])
@torch.no_grad()
def test_a_subnet_is_its_blocks(name: str, int8: bool) -> None:
    """Its logits, and its cost: what the blocks multiplied, and the parameters they read."""
    network = cases.subnets("published", int8)[name]
    found = network(cases.images())
    expected, plain = plain_logits(network, int8)
    # A sum next to a half may be rounded apart in INT8: a step of one input, not more.
    assert (found - expected).norm() <= (1e-2 if int8 else 1e-5) * expected.norm()
    linear = network.get_parameter("stages.logits.blocks.0.layers.linear.convs.0.weight").numel()
    macs, params = cases.cost()[name]
    assert (plain.macs - linear) / 1e6 == pytest.approx(macs, rel=1e-9)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(params, rel=1e-9)
    scalars = [child for child in network.modules() if isinstance(child, Quantizer)]
    assert all(bool(quantizer.initialized) == int8 for quantizer in scalars)


def test_logits() -> None:
    found = cases.logits()
    for case, values in found.items():
        ours, golden = torch.tensor(values), torch.tensor(GOLDEN["logits"][case])
        assert (ours - golden).norm() <= (1e-5 if "fp32" in case else 1e-2) * golden.norm(), case
    assert found.keys() == GOLDEN["logits"].keys()
    int8, fp32 = (torch.tensor(found[f"largest_published_{kind}"]) for kind in ("int8", "fp32"))
    assert 1e-3 < (int8 - fp32).norm() / fp32.norm() < 0.5


def test_costs() -> None:
    assert_golden("cost", cases.cost(), rel=1e-7)


def test_latencies(tmp_path: Path) -> None:
    found = cases.latency(tmp_path)
    for name, values in found.items():
        assert values == pytest.approx([sum(map(cases.entry_ms, cases.subnet_keys(name)))], rel=1e-9)
    assert_golden("latency", found)


def test_quality(tmp_path: Path) -> None:
    """Against all subnets that the tables can compose, within the error of drawing; the file pins the draws."""
    found = cases.quality(tmp_path)
    blocks, windows = (tuple(map(int, part)) for part in cases.SPACE.split("-")[1:])
    for bound in cases.CONSTRAINTS_MS:
        subnets = [
            sums
            for size in (0, 1)
            for sums in sums_of(
                [cases.table_rows(s, 3 * b + w, size) for s, (b, w) in enumerate(zip(blocks, windows, strict=True))]
            )
        ]
        within = sorted(loss for loss, ms in subnets if ms + cases.FIXED_MS <= bound)
        score, probability, loss = found[f"{bound}"]
        share = len(within) / len(subnets)
        assert probability == pytest.approx(share + 1e-5, abs=4 * (share * (1 - share) / cases.SAMPLES) ** 0.5 + 1e-9)
        # Each of the 128 subnets is drawn about 16 times: the best 50 draws are those of the best few.
        assert within[0] < loss < within[8]
        assert score == pytest.approx(1 / (max(1, (0.5 / probability) ** 0.3) * loss), rel=1e-6)
        assert 0 < share < 1
    assert found["total"][0] == pytest.approx(sum(found[f"{bound}"][0] for bound in cases.CONSTRAINTS_MS))
    assert_golden("quality", found)
