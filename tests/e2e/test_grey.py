"""Grey images end to end: a superspace of one input channel, trained, exported and measured."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
import torch

from spaceevo.artifacts import StageResult
from spaceevo.errors import ConfigError
from spaceevo.nn.supernet import Network
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Executor
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.runtimes.base import FileOptions
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.registry import runtime_for
from spaceevo.space.description import superspace
from tests.jobs.conftest import RunJob

GREY = [
    "+superspace.input_channels=1",
    "superspace.stages.logits.widths=[4]",
    "data.transform.channels=1",
    "data.transform.mean=[0.4]",
    "data.transform.std=[0.3]",
]
SPACE = "space=digits-012-110"
FORMATS = ["onnx", *(["tflite"] if find_spec("ai_edge_litert") else [])]
EXPORT = ["subnet=min", f"format=[{','.join(FORMATS)}]", "recipe.export.repeats=1", "recipe.benchmark.repeats=1"]


@pytest.mark.slow
def test_grey_images_from_training_to_a_measured_file(tiny: RunJob) -> None:
    def job(name: str, *overrides: str) -> StageResult:
        return tiny(name, *GREY, *overrides)

    for quant in ("off", "deploy"):
        job("teacher", f"quant={quant}")
        assert job("block_kd", "block=stage1_0", f"quant={quant}").figures["stage1_0_max_nsr"] > 0
        job("supernet", SPACE, f"quant={quant}")
    job("block_lut", "block=stage1_0", "window=0", "quant=deploy", "recipe.block_lut.samples=2", "platform=ort_cpu")
    job("evaluate", SPACE, "recipe.evaluate.folded=true", "subnet=min")
    front = "recipe.subnet_search={tested: 1, front: {population: 2, generations: 1, children: 1}}"
    job("subnet_search", SPACE, front, "latency_constraint=50")
    made = job("export", SPACE, *EXPORT, "recipe.export.min_agreement=90")
    for format in FORMATS:
        assert made.figures[f"{format}_agreement"] >= 90
        assert made.figures[f"{format}_float_layers"] == 0
        for precision in ("int8", "fp32"):
            told = runtime_for(format).metadata(Path(made.outputs[f"{format}_{precision}"]).read_bytes())
            assert json.loads(told["classes"]) == ["cat", "cow", "dog", "eel"]
            through = json.loads(told["preprocessing"])
            assert (through["channels"], through["mean"], through["std"]) == ("grey", [0.4], [0.3])
    shape = onnx.load(made.outputs["onnx_int8"]).graph.input[0].type.tensor_type.shape
    assert [axis.dim_value for axis in shape.dim][1:] == [1, 24, 24]
    inside = job("export", SPACE, *EXPORT, "recipe.export.preprocessing=inside", "recipe.export.min_agreement=90")
    assert onnx.load(inside.outputs["onnx_int8"]).graph.input[0].name == "pixels"
    measured = job("benchmark", SPACE, "subnet=[min,max]", "platform=ort_cpu", *EXPORT[2:]).figures
    assert all(row["int8_ms"] > 0 and row["fp32_ms"] > 0 for row in measured["subnets"])


def test_colours_and_superspace_must_agree(tiny: RunJob) -> None:
    with pytest.raises(
        ConfigError, match="data.transform.channels is 3; allowed: 1, since superspace digits has input_channels: 1"
    ):
        tiny("supernet", SPACE, GREY[0])
    with pytest.raises(
        ConfigError, match="data.transform.channels is 1; allowed: 3, since superspace digits has input_channels: 3"
    ):
        tiny("supernet", SPACE, *GREY[1:])


@pytest.mark.parametrize("format", FORMATS)
def test_files_take_one_channel(format: str) -> None:
    member = replace(superspace("digits"), input_channels=1).member((0, 1, 2), (0, 0, 0))
    images = torch.randn(8, 1, 24, 24)
    network = Network.fixed(member, member.smallest, DEPLOY)
    network(images)
    set_quant(network.eval(), True)
    network(images)
    program, runtime = to_program(network, (1, 24, 24)), runtime_for(format)
    exact, step = Executor(program)(images), program.tensors[program.output_name].scale
    for packed in (1, 16):
        logits = runtime.load(runtime.write(program, options=FileOptions(packed_channels=packed))).logits(images)
        assert (logits - exact).abs().max() < 1.5 * step
    inside = Preprocessing((0.4,), (0.3,), 24, 24, inside=True)
    pixels = torch.randint(0, 256, (4, 1, 24, 24), dtype=torch.uint8)
    expected = Executor(program)((pixels / 255 - 0.4) / 0.3)
    found = runtime.load(runtime.write(program, options=FileOptions(inside))).logits(pixels)
    assert (found - expected).abs().mean() < step
    if format == "onnx":  # torch's exporter takes its time; the chain above has it
        return
    set_quant(network, False)
    floats = runtime.load(runtime.write_float(network, (1, 24, 24))).logits(images)
    torch.testing.assert_close(floats, network(images).detach(), rtol=0, atol=1e-4)
