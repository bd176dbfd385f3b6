"""Times what exact integer arithmetic costs ONNX Runtime on processors without VNNI, beside fp32 and OpenVINO.

    python experiments/runtimes/exactness.py [best.csv of experiments/proof]

Networks have random weights: three published subnets, and of the list every fourth subnet. All files side by side.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from spaceevo.runtimes.base import Session
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.runtimes.timing import Invocable, time_models
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.published import published_model
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.bench import random_network

REPEATS = 20
PUBLISHED = ("SEQnet@vnni-A0", "SEQnet@vnni-A2", "SEQnet@pixel4-A0")


class Saturating:
    """Runs a file in ONNX Runtime as it comes: sums of two products are cut off at 16 bits without VNNI."""

    def __init__(self, file: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        (value,) = self.session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        self.values = {value.name: np.random.default_rng(0).random(shape, np.float32)}

    def invoke(self) -> object:
        """Compute once."""
        return self.session.run(None, self.values)


def measure(member: SpaceMember, spec: SubnetSpec) -> dict[str, float]:
    """Time a subnet in all ways, in ms."""
    onnx, openvino = RUNTIMES["onnxruntime"], RUNTIMES["openvino"]
    int8 = onnx.write(random_program(subnet_blocks(member, spec)))
    size = spec.resolution
    fp32 = onnx.write_float(random_network(member, spec), (member.superspace.input_channels, size, size))
    sessions: dict[str, Session | Saturating] = {
        "exact": onnx.load(int8),
        "saturating": Saturating(int8),
        "fp32": onnx.load(fp32),
        "OpenVINO": openvino.load(int8),
        "OpenVINO fp32": openvino.load(fp32),
    }

    def ready(session: Session | Saturating) -> Invocable:
        return session

    return {name: timing.latency_ms for name, timing in time_models(sessions, ready, REPEATS).items()}


def main() -> None:
    """Print a table in Markdown."""
    models = [published_model(name) for name in PUBLISHED]
    networks = {name: (m.member, m.spec) for name, m in zip(PUBLISHED, models, strict=True) if m.spec is not None}
    if len(sys.argv) > 1:
        with Path(sys.argv[1]).open() as file:
            listed = list(csv.DictReader(file))[:32:4]
        networks |= {row["space"]: (parse_space(row["space"]), SubnetSpec.parse(row["subnet"])) for row in listed}
    print("| subnet | exact | saturating | fp32 | OpenVINO | OpenVINO fp32 | fp32 / INT8 of each |")
    print("|---" * 7 + "|")
    for name, (member, spec) in networks.items():
        ms = measure(member, spec)
        ways = (("fp32", "exact"), ("fp32", "saturating"), ("OpenVINO fp32", "OpenVINO"))
        gains = " · ".join(f"{ms[above] / ms[below]:.2f}" for above, below in ways)
        print(f"| {name} |", " | ".join(f"{value:.3f}" for value in ms.values()), f"| {gains} |", flush=True)


if __name__ == "__main__":
    main()
