"""What subnets demand, against whole programs and written files; and the limits on it."""

import json
from random import Random

import numpy as np
import pytest
from tests.runtimes.conftest import irregular

from spaceevo.nn.supernet import Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.runtimes.base import FileOptions
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.registry import runtime_named
from spaceevo.runtimes.tflm.memory import arena_bytes
from spaceevo.search.demands import SHARES, SubnetDemands
from spaceevo.search.limits import DEMANDS, Limit, kinds_of, main_kind, told_keys
from spaceevo.space.cost import subnet_cost
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import crossover_subnet, sample_subnet
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.superspace import SpaceMember

CLASSES = tuple("0123456789")
MEMBERS = [parse_space(text) for text in ("digits-222-110", "digits-012-010", "digits-100-111")]


def sampled(member: SpaceMember, count: int) -> list[SubnetSpec]:
    """The smallest and the largest subnet, and random ones between."""
    rng = Random(0)
    return [member.smallest, member.largest, *(sample_subnet(member, rng) for _ in range(count - 2))]


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_memory_by_blocks_is_that_of_the_whole_network(member: SpaceMember) -> None:
    demands = SubnetDemands(member, CLASSES)
    for spec in sampled(member, 12):
        program = irregular(random_program(subnet_blocks(member, spec)))
        assert demands.figure("peak_ram_kb", spec) == pytest.approx(arena_bytes(program) / 1e3, rel=1e-9)


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_both_files_of_a_trained_network_are_within_what_was_told(member: SpaceMember) -> None:
    demands = SubnetDemands(member, CLASSES)
    supernet = Supernet(member)
    set_quant(supernet, True)
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, 32, 32, inside=True)
    for spec in sampled(member, 3):
        supernet.activate(spec)
        supernet(0.1 * next(supernet.parameters()).new_ones(2, 3, 32, 32))
        program = irregular(to_program(supernet.extract(spec).eval(), (3, spec.resolution, spec.resolution)))
        texts = {"space": str(member), "subnet": str(spec), "resolution": str(spec.resolution), "quant": "deploy"}
        texts |= {"classes": json.dumps(CLASSES), "preprocessing": preprocessing.text()}
        options = FileOptions(preprocessing=preprocessing)
        files = [runtime_named(name).write(program, texts, options) for name in ("onnxruntime", "litert")]
        largest = max(map(len, files)) / 1e3
        assert largest <= demands.figure("file_kb", spec) <= 1.03 * largest


@pytest.mark.parametrize("kind", DEMANDS)
@pytest.mark.parametrize("member", MEMBERS[:2], ids=str)
def test_no_subnet_demands_less_than_the_least(member: SpaceMember, kind: str) -> None:
    (named,) = [each for each in DEMANDS if each == kind]
    demands, rng = SubnetDemands(member, CLASSES), Random(1)
    least = demands.figure(named, demands.least(named))
    assert least == demands.figure(named, demands.least(named)) <= demands.figure(named, member.smallest)
    for _ in range(150):
        spec = crossover_subnet(member, sample_subnet(member, rng), member.smallest, rng)
        assert demands.figure(named, spec) >= least


@pytest.mark.slow
def test_the_least_memory_may_not_be_that_of_the_smallest() -> None:
    # A block between equal widths has no convolution beside it: a wider one may then take less.
    member = parse_space("mobilew-122222-155400")
    demands = SubnetDemands(member, CLASSES)
    figures = [demands.figure("peak_ram_kb", spec) for spec in (demands.least("peak_ram_kb"), member.smallest)]
    assert figures[0] < figures[1]


def test_macs_and_parameters_are_sums_of_blocks() -> None:
    for member in MEMBERS:
        demands = SubnetDemands(member, CLASSES)
        for spec in sampled(member, 5):
            cost = subnet_cost(member, spec)
            assert (demands.figure("mmacs", spec), demands.figure("mparams", spec)) == cost
            blocks = subnet_blocks(member, spec)
            assert [SHARES[kind][0].of_row(blocks) for kind in ("mmacs", "mparams")] == pytest.approx(cost)


def test_shares_join_as_they_are() -> None:
    parts = np.array([[1.0, 2.0], [3.0, 1.0]])
    adds_up, peaks = SHARES["peak_ram_kb"]
    assert adds_up.join(parts).tolist() == [4.0, 3.0]
    assert peaks.join(parts).tolist() == [3.0, 2.0]


def test_limits_of_several_kinds() -> None:
    limit = Limit.of({"peak_ram_kb": 40, "ms": 0.4})
    assert (str(limit), limit.label, limit.key) == (
        "0.4 ms, 40 kB of RAM",
        "0.4ms+40peak_ram_kb",
        "0.4ms+40peak_ram_kb",
    )
    assert Limit.of({"ms": 0.4}).key == "0.4"
    assert limit.allows({"ms": 0.4, "peak_ram_kb": 40.0}.__getitem__)
    assert not limit.allows({"ms": 0.4, "peak_ram_kb": 40.1}.__getitem__)
    assert not limit.allows({"ms": 0.5, "peak_ram_kb": 1.0}.__getitem__)
    keys = ("0.4", limit.key, "40peak_ram_kb", "5mmacs+1mparams", "1e-05", "1e+06mmacs+2e+06mparams")
    assert [Limit.of_key(key).ms for key in keys] == [0.4, 0.4, None, None, 1e-5, None]
    assert [Limit.of_key(key).key for key in keys] == [*keys]
    assert told_keys("0.4 0.5ms+0.5mmacs") == "0.4 ms; 0.5 ms, 0.5 MMACs"
    assert told_keys("") == ""
    assert Limit.of_key("0.4ms+5of_later") == Limit.of({"ms": 0.4})
    assert kinds_of([Limit.of({"mparams": 1}), limit]) == ("ms", "mparams", "peak_ram_kb")
    assert main_kind([Limit.of({"mparams": 1, "mmacs": 2})]) == "mmacs"
