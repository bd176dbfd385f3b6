"""Memory on microcontrollers, predicted from programs, against TensorFlow Lite Micro and against written files."""

from random import Random

import pytest

from spaceevo.quant.program import Program
from spaceevo.runtimes.base import FileOptions
from spaceevo.runtimes.litert.flatbuffer import read_model
from spaceevo.runtimes.litert.operators import operator_kinds
from spaceevo.runtimes.random_program import random_block_program, random_program
from spaceevo.runtimes.registry import runtime_named
from spaceevo.runtimes.tflm.census import Census
from spaceevo.runtimes.tflm.memory import Buffer, arena_bytes, flash_bytes, planned_bytes
from spaceevo.space.blocks import block_types
from spaceevo.space.description import parse_space
from spaceevo.space.operators import sample_subnet
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.published import published_model, published_models
from spaceevo.space.spec import Activation, BlockSpec
from tests.runtimes.conftest import irregular

UNPACKED = FileOptions(packed_channels=1)
SEQNETS = [name for name in published_models() if name.startswith("SEQnet")]


def sampled_digits(space: str, count: int) -> list[Program]:
    """The largest and the smallest subnet of a space, and sampled ones, with scales as training leaves them."""
    member, rng = parse_space(space), Random(0)
    specs = [member.largest, member.smallest, *(sample_subnet(member, rng) for _ in range(count - 2))]
    return [irregular(random_program(subnet_blocks(member, spec))) for spec in specs]


def check_arena(program: Program) -> None:
    """The program's file fits an arena 1 % larger than predicted, and none 1 % smaller."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    file, predicted = runtime_named("litert").write(program, options=UNPACKED), arena_bytes(program)
    assert flash_bytes(program) == pytest.approx(len(file), rel=0.01)
    runtime.Interpreter.from_bytes(file, arena_size=int(1.01 * predicted))
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(file, arena_size=int(0.99 * predicted))


def test_the_arena_of_subnets_is_what_the_runtime_needs() -> None:
    for program in [*sampled_digits("digits-222-110", 10), *sampled_digits("digits-210-111", 10)]:
        check_arena(program)


@pytest.mark.parametrize("name", SEQNETS)
def test_the_arena_of_published_networks_is_what_the_runtime_needs(name: str) -> None:
    model = published_model(name)
    assert model.spec is not None
    check_arena(random_program(subnet_blocks(model.member, model.spec)))


def test_one_published_networks_arena_is_known() -> None:
    model = published_model("SEQnet@vnni-A0")
    assert model.spec is not None
    # as TensorFlow Lite Micro printed it: 1,065,232 bytes, of which 942,336 are planned
    program = random_program(subnet_blocks(model.member, model.spec))
    assert arena_bytes(program) == pytest.approx(1_065_232, rel=1e-4)


@pytest.mark.parametrize("name", list(block_types()))
@pytest.mark.parametrize("act", ["relu6", "hswish", "swish"])
def test_the_census_is_of_what_is_written(name: str, act: Activation) -> None:
    kind = block_types()[name]
    for stride, hw in ((1, 9), (2, 10)) if not kind.is_head else ((1, 1 if name == "Logits" else 9),):
        ratio = 3.0 if kind.has_expand else None
        spec = BlockSpec(name, 16, 16 if stride == 1 else 24, 1 if kind.is_head else 5, ratio, stride, act)
        program = irregular(random_block_program(spec, hw))
        model, census = read_model(runtime_named("litert").write(program, options=UNPACKED)), Census.of(program)
        (graph,) = model.subgraphs
        assert [tensor.name for tensor in census.tensors] == [tensor.name.decode() for tensor in graph.tensors]
        for found, written in zip(census.tensors, graph.tensors, strict=True):
            content = model.buffers[written.buffer].data
            assert found.is_constant == (content is not None)
            assert content is None or found.size == len(content)
            assert found.scales == (0 if written.quantization is None else len(written.quantization.scale))
            assert found.sides == len(written.shape)
        kinds = [each.replace("DEPTHWISE_CONV_2D", "CONV").replace("CONV_2D", "CONV") for each in operator_kinds(model)]
        assert [operator.kind for operator in census.operators] == kinds
        operators = zip(census.operators, graph.operators, strict=True)
        assert all(tuple(written.inputs) == found.inputs for found, written in operators)


def test_buffers_are_placed_as_the_greedy_planner_does() -> None:
    # Two that never live together share their place; one that lives with both lies above them.
    assert planned_bytes([Buffer(64, 0, 1), Buffer(32, 2, 3), Buffer(16, 0, 3)]) == 80
    # the gap of 32 bytes between the largest two that live then takes the third
    assert planned_bytes([Buffer(64, 0, 3), Buffer(48, 2, 3), Buffer(32, 0, 1), Buffer(16, 1, 2)]) == 128
    assert planned_bytes([]) == 0
