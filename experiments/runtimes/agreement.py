"""Trains a small network in INT8 under both deployable schemes; tells on how many images each runtime agrees with it.

    python experiments/runtimes/agreement.py [digits|gratings]

`once` is OpenVINO's answer to files as they were before branches of sums were rounded twice.
"""

import sys

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from spaceevo.export.parity import compare
from spaceevo.nn.evaluate import calibrate_subnet
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Executor
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.space.description import parse_space

SIZE = 24
EPOCHS = {False: 8, True: 3}


def digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits as RGB images and labels."""
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None].expand(-1, 3, -1, -1) / 8 - 1
    return functional.interpolate(images, (SIZE, SIZE), mode="bicubic"), torch.from_numpy(found.target)


def gratings() -> tuple[Tensor, Tensor]:
    """Return noisy gratings of ten directions, and these as labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1800) % 10
    angles = labels * np.pi / 10 + 0.05 * torch.randn(1800, generator=generator)
    phases = 6.3 * torch.rand(1800, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(SIZE) / 3, torch.arange(SIZE) / 3, indexing="ij")
    waves = torch.sin(angles.cos().view(-1, 1, 1) * x + angles.sin().view(-1, 1, 1) * y + phases)
    noise = 0.6 * torch.randn(1800, 3, SIZE, SIZE, generator=generator)
    return waves[:, None].expand(-1, 3, -1, -1) + noise, labels


def trained(images: Tensor, labels: Tensor, quant: str) -> Supernet:
    """Train the smallest subnet of a digits space, in fp32 and then in INT8 under a scheme."""
    torch.manual_seed(0)
    supernet = Supernet(parse_space("digits-012-110"), quant)
    supernet.activate_min()
    for is_int8, epochs in EPOCHS.items():
        set_quant(supernet, is_int8)
        optimizer = torch.optim.Adam(supernet.parameters(), 0.003 if not is_int8 else 0.0005)
        for epoch in range(epochs):
            supernet.train()
            for part in torch.split(torch.randperm(len(images)), 64):
                loss = nn.functional.cross_entropy(supernet(images[part]), labels[part])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            print(f"# INT8 {is_int8}, epoch {epoch}, loss {float(loss):.3f}", flush=True)
    return supernet.eval()


def once(file: bytes) -> bytes:
    """Return a file without the second rounding of branches."""
    model = onnx.load_from_string(file)
    for node in [node for node in model.graph.node if ".again." in node.output[0]]:
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [name.replace(".again.dq", ".dq") for name in node.input]
    return bytes(model.SerializeToString())


def tell(quant: str, what: str, reference: Tensor, logits: Tensor, step: float) -> None:
    """Print a row of the table."""
    found = compare(reference, logits, step)
    print(f"| `{quant}` | {what} | {found} | {found.mean_difference:.4f} | {found.max_difference:.4f} |", flush=True)


def main() -> None:
    """Train, write, compare."""
    images, labels = {"digits": digits, "gratings": gratings}[(sys.argv[1:] or ["digits"])[0]]()
    is_test = torch.arange(len(images)) % 4 == 0
    test, noise, openvino = images[is_test], torch.randn(500, 3, SIZE, SIZE), RUNTIMES["openvino"]
    print("| scheme | runtime | agreement | mean difference, std | largest |\n|---|---|---|---|---|")
    for quant in ("deploy", "reduced_range"):
        supernet = trained(images[~is_test], labels[~is_test], quant)
        calibrate_subnet(supernet, supernet.member.smallest, [images[~is_test][:256]])
        network = supernet.extract(supernet.member.smallest)
        program = to_program(network, (3, SIZE, SIZE))
        with torch.no_grad():
            logits = network(test)
        top1 = 100 * float((logits.argmax(1) == labels[is_test]).double().mean())
        print(f"# {quant}: top-1 {top1:.1f} % of {len(test)} test images, weights up to {program.largest_weight}")
        step = program.tensors[program.output_name].scale
        tell(quant, "exact executor", logits, Executor(program)(test), step)
        for runtime in RUNTIMES.values():
            tell(quant, runtime.name, logits, runtime.load(runtime.write(program)).logits(test), step)
        file = openvino.write(program)
        tell(quant, "openvino, once", logits, openvino.load(once(file)).logits(test), step)
        tell(quant, "openvino on noise", Executor(program)(noise), openvino.load(file).logits(noise), step)


if __name__ == "__main__":
    main()
