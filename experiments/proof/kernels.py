"""Which kernels make INT8 fast: times subnets of `small`, INT8 of seven bits and fp32, files of each side by side.

    python kernels.py          # ms of INT8 and fp32 / INT8, in ONNX Runtime and OpenVINO

Weights are random, on which latency does not depend.
"""

from spaceevo.quant.quantizer import REDUCED_RANGE
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.runtimes.timing import time_models
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import subnet_blocks
from spaceevo.stages.bench import random_network

RESNET, FUSED = "small-3333-2322", "small-4444-2322"
WIDTHS = "w24#24#40#40#72#72#112#112#144#144"
REPEATS = 30
# a space, the kernel of each of its stages 1 to 4, and their expand ratio
SUBNETS = [(RESNET, kernels, "0.75") for kernels in ("3333", "3335", "3355", "3555", "5555")] + [(FUSED, "3333", "2")]


def spec_of(kernels: str, expand: str) -> SubnetSpec:
    """The widest subnet of these kernels, two blocks a stage."""
    twice = [kernel for kernel in kernels for _ in range(2)]
    ks, es = "#".join(["3", "3", *twice]), "#".join(["0", "0.5", *[expand] * len(twice)])
    return SubnetSpec.parse(f"d1#1#2#2#2#2_k{ks}_{WIDTHS}_e{es}_r36")


def measure(space: str, spec: SubnetSpec) -> dict[str, float]:
    """Time a subnet in both runtimes; return ms by `runtime precision`."""
    member = parse_space(space)
    member.validate(spec)
    program = random_program(subnet_blocks(member, spec), REDUCED_RANGE.weight.limit)
    shape = (member.superspace.input_channels, spec.resolution, spec.resolution)
    sessions = {}
    for name in ("onnxruntime", "openvino"):
        runtime = RUNTIMES[name]
        sessions[f"{name} int8"] = runtime.load(runtime.write(program))
        sessions[f"{name} fp32"] = runtime.load(runtime.write_float(random_network(member, spec), shape))
    return {key: timing.latency_ms for key, timing in time_models(sessions, lambda it: it, REPEATS).items()}


def main() -> None:
    """Print a row for each subnet."""
    for space, kernels, expand in SUBNETS:
        ms = measure(space, spec_of(kernels, expand))
        told = [
            f"{name} {ms[f'{name} int8']:.3f} ms, {ms[f'{name} fp32'] / ms[f'{name} int8']:.2f} times"
            for name in ("onnxruntime", "openvino")
        ]
        print(space, kernels, *told, sep="  ", flush=True)


if __name__ == "__main__":
    main()
