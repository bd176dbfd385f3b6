"""Contract of every runtime: what it writes computes what was trained, and it can look into what it wrote."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from spaceevo.errors import ExportError, MissingExtraError
from spaceevo.export.gate import Gate, asked_formats
from spaceevo.export.parity import Tolerance
from spaceevo.nn.block import Block
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Network
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.program import Executor, Program, execute
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.runtimes.base import PLAIN_FILE, FileOptions, OperatorTime, Profile, Runtime, Session, Shape
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.runtimes.registry import RUNTIMES, formats, runtime_for, runtime_named
from spaceevo.runtimes.timing import time_models
from spaceevo.space.blocks import block_types
from spaceevo.space.placement import PlacedBlock
from spaceevo.space.spec import Activation, BlockSpec
from tests.contracts.test_blocks import ACTS
from tests.runtimes.conftest import for_here, irregular, steps_apart

BLOCKS = [(name, stride) for name, kind in block_types().items() for stride in ((1,) if kind.is_head else (1, 2))]
GATED: tuple[Activation, ...] = ("relu6", "hswish", "swish")


class Closeness(NamedTuple):
    """How near a runtime comes to the exact executor's integers: least shares, and most steps."""

    equal: float
    within_a_step: float
    steps: int


EXACT = Closeness(0.98, 0.999, 2)
LOOSE = {
    # A fifth of a sum's integers is a step apart: OpenVINO adds to a rectified convolution before it rounds.
    ("openvino", "MobileNetV1Dual", "relu6"): Closeness(0.75, 0.999, 2),
}
ROUNDED_TWICE = Closeness(0.6, 0.85, 6)


def closeness(runtime: Runtime, spec: BlockSpec | None = None) -> Closeness:
    """What the runtime keeps to, on a block or in general."""
    if runtime.rounds_twice:
        return ROUNDED_TWICE
    return LOOSE.get((runtime.name, spec.type, spec.act), EXACT) if spec is not None else EXACT


SLOW_TO_LOAD = {"openvino"}  # A second a file: fewer of them are tested each time
every_block = pytest.mark.parametrize(("name", "stride"), BLOCKS)


def present(runtime: Runtime) -> Runtime:
    """The runtime, or a skipped test where its package is absent."""
    try:
        runtime.require()
    except MissingExtraError as error:
        pytest.skip(str(error))
    return runtime


@pytest.fixture(params=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return present(RUNTIMES[request.param])


def test_names_and_formats_are_its_own(runtime: Runtime) -> None:
    assert runtime_named(runtime.name) is runtime
    assert runtime_for(runtime.format).format == runtime.format
    assert formats().count(runtime.format) == 1
    assert runtime.version()[0].isdigit()


def spec_of(name: str, stride: int, act: Activation, kernel: int, ratio: float) -> BlockSpec:
    """A block as large as its residual and squeeze need; heads have no stride."""
    kind = block_types()[name]
    cout = 16 if stride == 1 else 24
    return BlockSpec(name, 16, cout, 1 if kind.is_head else kernel, ratio if kind.has_expand else None, stride, act)


def check_block(runtime: Runtime, spec: BlockSpec, hw: int) -> None:
    """A file of the block has no float operator and gives the executor's integers."""
    program = for_here(runtime, irregular(random_block_program(spec, hw)))
    file = runtime.write(program)
    assert not runtime.float_ops(file)
    images = 1.2 * torch.randn(4, 16, hw, hw)
    steps = steps_apart(program, execute(program, images), runtime.load(file).logits(images))
    near = closeness(runtime, spec)
    assert (steps == 0).double().mean() >= near.equal
    # A sum within float32 rounding of half-way may come out one apart, and the layers after it may double that.
    assert (steps <= 1).double().mean() >= near.within_a_step
    assert steps.max() <= near.steps


@every_block
def test_every_block_computes_what_the_executor_says(runtime: Runtime, name: str, stride: int) -> None:
    """Each block of either stride with another activation, each runtime beginning with another."""
    cases = list(zip(GATED, (5, 3, 5), (1.0, 3.0, 3.0), strict=True))
    turn = BLOCKS.index((name, stride)) + list(RUNTIMES).index(runtime.name)
    act, kernel, ratio = cases[1 if runtime.name in SLOW_TO_LOAD else turn % len(cases)]
    check_block(runtime, spec_of(name, stride, act, kernel, ratio), 1 if name == "Logits" else 9)


@pytest.mark.slow
@every_block
def test_every_block_on_other_sizes(runtime: Runtime, name: str, stride: int) -> None:
    for hw, act, (kernel, ratio) in product((9, 10), GATED, product((3, 5), (1.0, 3.0))):
        check_block(runtime, spec_of(name, stride, act, kernel, ratio), 1 if name == "Logits" else hw)


@pytest.mark.parametrize("name", [name for name, kind in block_types().items() if not kind.is_head])
def test_every_block_is_written_in_fp32(
    runtime: Runtime, name: str, randomize: Callable[[nn.Module], nn.Module]
) -> None:
    spec = BlockSpec(name, 16, 24, 5, 1.0 if block_types()[name].has_expand else None, 2, ACTS.get(name, "swish"))
    block = Block([spec], DEPLOY)
    randomize(block.eval())
    network = Network({"body": Stage([block])}, 10, None).eval()
    images = torch.randn(3, 16, 10, 10)
    with torch.no_grad():
        reference = network(images)
    file = runtime.write_float(network, (16, 10, 10), {"quant": "off"})
    torch.testing.assert_close(runtime.load(file).logits(images).flatten(1), reference.flatten(1), rtol=0, atol=1e-3)
    assert runtime.metadata(file)["quant"] == "off"


def test_any_batch_computes_the_same_in_every_way(runtime: Runtime, program: Program, images: Tensor) -> None:
    program = for_here(runtime, program)
    file = runtime.write(program)
    whole = runtime.load(file).logits(images)
    assert whole.shape == (len(images), 10)
    torch.testing.assert_close(runtime.load(file).logits(images, batch_size=5), whole, rtol=0, atol=0)
    exact = Executor(program)(images)
    for way in ("", *runtime.other_ways):
        agreement = (runtime.load(file, way).logits(images).argmax(1) == exact.argmax(1)).double().mean()
        assert agreement >= (1 if closeness(runtime) == EXACT else 0.9)


def test_every_tensor_has_the_executors_integers(runtime: Runtime, program: Program, images: Tensor) -> None:
    program = for_here(runtime, program)
    exact, found = Executor(program).integers(images[:4]), runtime.integers(program, images[:4])
    assert found.keys() == {op.output for op in program.ops}
    for name, integers in found.items():
        assert integers.shape == exact[name].shape
        steps = (integers.double() - exact[name].double()).abs()
        assert closeness(runtime) != EXACT or (steps > 0).double().mean() < 0.01, name
        assert steps.mean() < (0.1 if closeness(runtime) == EXACT else 3), name


def test_a_file_tells_what_it_is(runtime: Runtime, program: Program) -> None:
    texts = {"space": "digits-012-000", "subnet": "min"}
    file = runtime.write(program, texts)
    assert runtime.metadata(file) == texts
    assert runtime.metadata(runtime.write(program)) == {}
    counts = runtime.op_counts(file)
    assert sum(counts.values()) > len(program.ops) / 2
    assert not runtime.float_ops(file)


def switches(network: Network) -> list[bool]:
    """What `write_float` has to restore: quantisers that are on, modules in training mode."""
    return [q.is_on for q in quantizers(network).values()] + [module.training for module in network.modules()]


def test_the_fp32_file_is_the_network_which_stays_as_it_was(
    runtime: Runtime, network: Network, images: Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    before = switches(network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = runtime.write_float(network, (3, 24, 24), {"subnet": "smallest"})
    assert capfd.readouterr().out == ""
    assert switches(network) == before
    assert any(before)
    set_quant(network, False)
    try:
        with torch.no_grad():
            reference = network(images)
    finally:
        set_quant(network, True)
    for batch_size in (1, 64):
        logits = runtime.load(file).logits(images, batch_size)
        torch.testing.assert_close(logits, reference, rtol=0, atol=1e-4)
    assert runtime.metadata(file)["subnet"] == "smallest"
    assert runtime.float_ops(file)


def test_pixels_are_normalised_in_the_file(runtime: Runtime, program: Program) -> None:
    if not runtime.normalises:
        pytest.skip("it takes images that are normalised already")
    pixels = torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8)
    inside = Preprocessing((0.5, 0.4, 0.3), (0.25, 0.2, 0.3), 24, 24, inside=True)
    gain, shift = (torch.from_numpy(factor).view(1, -1, 1, 1) for factor in inside.factors())
    file = runtime.write(program, options=FileOptions(inside))
    expected = runtime.load(runtime.write(program)).logits(pixels * gain + shift)
    torch.testing.assert_close(runtime.load(file).logits(pixels), expected, rtol=0, atol=0.05)
    assert not runtime.float_ops(file)


def test_files_and_their_operators_are_timed(runtime: Runtime, program: Program) -> None:
    file = runtime.write(program)
    assert time_models({"file": file}, runtime.load, repeats=2)["file"].latency_ms > 0
    prepared = runtime.load(runtime.prepare(file))
    images = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(prepared.logits(images), runtime.load(file).logits(images), rtol=0, atol=0)
    profile = runtime.profile(file, repeats=2)
    assert all(operator.least_ms >= 0 for operator in profile.operators)
    assert {"first_conv", "stage1", "final_expand"} <= {operator.stage for operator in profile.operators}


def test_blocks_are_measured_as_within_a_network(runtime: Runtime) -> None:
    stem = (BlockSpec("FirstConv", 3, 16, 3, None, 2, "swish"), 24)
    block = (spec_of("MobileNetV2Res", 1, "relu6", 3, 2.0), 12)
    for placed in (stem, block):
        runtime.load(runtime.compile_block(placed)).invoke()
        assert all(0 < share <= 1 and len(shape) == 3 for shape, share in runtime.conversions(placed))
    assert runtime.conversions(block)


class TrialSession(Session):
    """The exact executor."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def outputs(self, images: Tensor) -> list[Tensor]:
        return [Executor(self.program)(images)]

    def invoke(self) -> object:
        return None


def test_what_a_runtime_refuses_to_execute_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(session: Session, images: Tensor) -> list[Tensor]:
        raise RuntimeError("node pool:\nparameter out of range")

    monkeypatch.setattr(TrialSession, "outputs", refuse)
    with pytest.raises(ExportError, match=r"^the runtime cannot execute the network \(node pool: parameter out of "):
        TrialSession(Program("images", (3, 8, 8))).logits(torch.zeros(2, 3, 8, 8))


class Trial(Runtime):
    """A runtime as someone would add one: its files are programs kept by their number."""

    name, format, package, module = "trial", "trl", "torch", "torch"

    def __init__(self) -> None:
        self.programs = list[Program]()

    def write(
        self, program: Program, metadata: Mapping[str, str] | None = None, options: FileOptions = PLAIN_FILE
    ) -> bytes:
        self.programs.append(program)
        return bytes([len(self.programs) - 1])

    def write_float(self, network: Network, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
        return b"\0"

    def load(self, file: bytes, way: str = "") -> Session:
        return TrialSession(self.programs[file[0]])

    def integers(self, program: Program, images: Tensor, way: str = "") -> dict[str, Tensor]:
        return Executor(program).integers(images)

    def profile(self, file: bytes, repeats: int) -> Profile:
        return Profile([OperatorTime("stage1.0.expand", "conv", 1.0)])

    def op_counts(self, file: bytes) -> dict[str, int]:
        return {"conv": len(self.programs[file[0]].ops)}

    def float_ops(self, file: bytes) -> list[str]:
        return []

    def metadata(self, file: bytes) -> dict[str, str]:
        return {}

    def conversions(self, block: PlacedBlock) -> list[tuple[Shape, float]]:
        return []


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    runtime = Trial()
    with monkeypatch.context() as patch:
        patch.setitem(RUNTIMES, runtime.name, runtime)
        yield runtime


def test_a_new_runtime_needs_an_entry_alone(
    trial: Trial, network: Network, program: Program, images: Tensor, tmp_path: Path
) -> None:
    assert asked_formats("trl") == ["trl"]
    gate = Gate(network, program, [(images, images.flatten(1).sum(1).long() % 10)])
    figures = gate.check("trl", Tolerance(98, 0.1), allow_float=False)
    assert figures["trl_bit_equal"] == 100
    platform = MeasuringPlatform("trial", "trial", "digits", str(tmp_path))
    block = (spec_of("MobileNetV2Res", 1, "relu6", 3, 2.0), 12)
    assert platform.blocks_ms([block]) >= 0
    assert platform.provenance["runtime"] == "torch"
