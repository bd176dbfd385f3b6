"""Images of digits' test split whose top-1 a file changes: after compare_schemes.py, for its networks under deploy.

    python experiments/int8_files/parity.py [seeds]

One line a network: test images with another top-1 than the trained network's and than the folded evaluation's, mean
logit difference to the folded evaluation in its standard deviation, logits equal to the exact executor's.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from compare_schemes import RUNS, SPACE, SUBNETS
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tensorflow_route import to_tflite_by_tensorflow
from torch import Tensor

import spaceevo
from spaceevo.artifacts import Layout
from spaceevo.nn.deployable import FoldedNetwork
from spaceevo.nn.evaluate import calibrate_subnet
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.supernet import Supernet, resize
from spaceevo.quant.program import execute
from spaceevo.runtimes.litert.runtime import LiteRt
from spaceevo.runtimes.litert.writer import to_tflite
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.onnx.writer import to_onnx
from spaceevo.space.description import conf_folder

ONNX = OnnxRuntime()
LITERT = LiteRt()


@torch.no_grad()
def compare(name: str, text: str, supernet: Supernet, calibration: list[Tensor], images: Tensor) -> None:
    """Print the lines of one subnet."""
    corners = {"max": supernet.member.largest, "min": supernet.member.smallest}
    spec = corners.get(text) or spaceevo.SubnetSpec.parse(text)
    calibrate_subnet(supernet, spec, calibration)
    network = supernet.extract(spec)
    folded = FoldedNetwork(network)
    x, program = resize(images, spec.resolution), folded.program
    trained, reference, exact = network(x), folded(x), execute(program, x)
    onnx = to_onnx(program).SerializeToString()
    routes = {"ONNX Runtime": ONNX.load(onnx).logits(x), "… unoptimised": ONNX.load(onnx, "unoptimized").logits(x)}
    if find_spec("ai_edge_litert"):
        routes["LiteRT"] = LITERT.load(to_tflite(program)).logits(x)
    if find_spec("tensorflow"):
        routes["TensorFlow's converter"] = LITERT.load(to_tflite_by_tensorflow(program)).logits(x, batch_size=1)
    step = program.tensors[program.output_name].scale
    for route, logits in routes.items():
        other = [int((logits.argmax(1) != known.argmax(1)).sum()) for known in (trained, reference)]
        difference = float((logits - reference).abs().mean() / reference.std())
        equal = 100.0 * float(((logits - exact).abs() < step / 2).double().mean())
        print(f"| {name} | {route} | {other[0]} | {other[1]} | {difference:.5f} | {equal:.2f} % |", flush=True)


def main() -> None:
    """Compare every network."""
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        data = instantiate(compose("config", ["superspace=digits"]).data)
    data.setup()
    calibration, images = list(data.calibration_images()), torch.cat([images for images, _ in data.test()])
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        path = Layout(RUNS / f"seed{seed}" / "deploy" / Path("checkpoints")).supernet(SPACE, int8=True)
        supernet = Supernet(spaceevo.parse_space(SPACE))
        read_checkpoint(path, "supernet", "compare_schemes.py").load_into(supernet, int8=True)
        for name, text in SUBNETS.items():
            compare(f"seed {seed}, {name}", text, supernet, calibration, images)


if __name__ == "__main__":
    main()
