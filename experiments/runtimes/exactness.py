"""Times what exact integer arithmetic costs on processors without VNNI: weights of 8 bits, of 7, and fp32.

    python experiments/runtimes/exactness.py [best.csv of experiments/proof]

Networks have random weights: three published subnets, and of the list every fourth subnet. All files side by side.
"""

import csv
import sys
from pathlib import Path

from spaceevo.quant.quantizer import DEPLOY, REDUCED_RANGE
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.runtimes.timing import time_models
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.published import published_model
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.bench import random_network

REPEATS = 20
PUBLISHED = ("SEQnet@vnni-A0", "SEQnet@vnni-A2", "SEQnet@pixel4-A0")


def measure(member: SpaceMember, spec: SubnetSpec) -> dict[str, float]:
    """Time a subnet in all ways, in ms."""
    onnx, openvino = RUNTIMES["onnxruntime"], RUNTIMES["openvino"]
    blocks, size = subnet_blocks(member, spec), spec.resolution
    deploy, reduced = (onnx.write(random_program(blocks, it.weight.limit)) for it in (DEPLOY, REDUCED_RANGE))
    fp32 = onnx.write_float(random_network(member, spec), (member.superspace.input_channels, size, size))
    sessions = {
        "deploy": onnx.load(deploy),
        "reduced_range": onnx.load(reduced),
        "fp32": onnx.load(fp32),
        "OpenVINO": openvino.load(reduced),
        "OpenVINO fp32": openvino.load(fp32),
    }
    return {name: timing.latency_ms for name, timing in time_models(sessions, lambda it: it, REPEATS).items()}


def main() -> None:
    """Print a table in Markdown."""
    models = [published_model(name) for name in PUBLISHED]
    networks = {name: (m.member, m.spec) for name, m in zip(PUBLISHED, models, strict=True) if m.spec is not None}
    if len(sys.argv) > 1:
        with Path(sys.argv[1]).open() as file:
            listed = list(csv.DictReader(file))[:32:4]
        networks |= {row["space"]: (parse_space(row["space"]), SubnetSpec.parse(row["subnet"])) for row in listed}
    print("| subnet | `deploy` | `reduced_range` | fp32 | OpenVINO | OpenVINO fp32 | fp32 / INT8 of each |")
    print("|---" * 7 + "|")
    for name, (member, spec) in networks.items():
        ms = measure(member, spec)
        ways = (("fp32", "deploy"), ("fp32", "reduced_range"), ("OpenVINO fp32", "OpenVINO"))
        gains = " · ".join(f"{ms[above] / ms[below]:.2f}" for above, below in ways)
        print(f"| {name} |", " | ".join(f"{value:.3f}" for value in ms.values()), f"| {gains} |", flush=True)


if __name__ == "__main__":
    main()
