"""What the golden file holds: figures of the package on inputs that formulas give, each section a function."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import spaceevo
from spaceevo.nn.block import Block
from spaceevo.nn.losses import adaptive_alpha_divergence, noise_to_signal
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.program import execute
from spaceevo.quant.quantizer import PUBLISHED
from spaceevo.search.lut import LutRow, lut_file_name, lut_keys, write_lut_file
from spaceevo.space.blocks import block_types
from spaceevo.space.spec import Activation, BlockSpec
from tests.golden.formulas import block_key, wave

Figures = dict[str, list[float]]
SPACE = "digits-012-010"
ACTS: dict[str, Activation] = {"MobileNetV1": "relu", "MobileNetV2Res": "relu6", "MobileNetV3Res": "hswish"}
LSQ = {
    "activation": {"scale": 0.02, "offset": -0.7, "low": 0, "high": 255},
    "clipped_activation": {"scale": 0.004, "offset": -0.3, "low": 0, "high": 255},
    "weight": {"scale": 0.01, "offset": 0.0, "low": -128, "high": 127},
    "clipped_weight": {"scale": 0.006, "offset": 0.0, "low": -128, "high": 127},
}


@torch.no_grad()
def filled(module: nn.Module) -> None:
    """Weights and statistics by formula, sized so that activations stay of size 1; quantisers keep their start."""
    for index, (name, tensor) in enumerate(module.state_dict().items()):
        if "quantizer" in name or not tensor.is_floating_point():
            continue
        values = wave(*tensor.shape, phase=float(index))
        if name.endswith("running_var"):
            values = 1.0 + 0.5 * values
        elif name.endswith("norm.weight"):
            values = 1.0 + 0.3 * values
        elif tensor.ndim > 1:
            values = values * (3.0 / tensor[0].numel()) ** 0.5
        else:
            values = 0.2 * values
        tensor.copy_(values)
    module.eval()


def lsq_input(name: str) -> tuple[Tensor, Tensor]:
    """Values and upstream gradients of a case of `LSQ`, `(3, 16)`."""
    return wave(3, 16, phase=1.0, size=1.3), wave(3, 16, phase=2.0)


def lsq(name: str) -> Figures:
    """Output and gradients of LSQ+ in training."""
    case = LSQ[name]
    x, upstream = lsq_input(name)
    x.requires_grad_()
    scale = torch.tensor(float(case["scale"]), requires_grad=True)
    offset = torch.tensor(float(case["offset"]), requires_grad=True)
    if name.endswith("weight"):
        y = spaceevo.lsq_plus_weight(x, scale)
    else:
        y = spaceevo.lsq_plus_activation(x, scale, offset)
    y.backward(upstream)
    found = {"output": y, "input_gradient": x.grad, "scale_gradient": scale.grad, "offset_gradient": offset.grad}
    return {key: value.flatten().tolist() for key, value in found.items() if value is not None}


def loss_inputs(spread: float) -> tuple[Tensor, Tensor]:
    """Logits of a student and a teacher, `(6, 10)`."""
    return wave(6, 10, phase=3.0, size=spread), wave(6, 10, phase=4.0, size=spread)


def features() -> tuple[Tensor, Tensor]:
    """Features of a student and a teacher, `(2, 3, 5, 4)`."""
    return wave(2, 3, 5, 4, phase=5.0), wave(2, 3, 5, 4, phase=6.0)


def losses() -> Figures:
    """Both losses of the method, with the gradients of their first argument."""
    found: Figures = {}
    for spread in (0.5, 4.0):
        student, teacher = loss_inputs(spread)
        student.requires_grad_()
        loss = adaptive_alpha_divergence(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        found[f"alpha_{spread}"] = [loss.item(), *gradient.flatten().tolist()]
    for variance_of in ("teacher", "published"):
        student, teacher = features()
        student.requires_grad_()
        loss = noise_to_signal(student, teacher, "teacher" if variance_of == "teacher" else "published")
        (gradient,) = torch.autograd.grad(loss, student)
        found[f"nsr_{variance_of}"] = [loss.item(), *gradient.flatten().tolist()]
    return found


def block_spec(kind: str, stride: int) -> BlockSpec:
    """A block of a type: 8 to 16 channels with stride 2, 8 to 8 with stride 1."""
    ratio = (0.5 if kind.startswith("ResNet") else 2.0) if block_types()[kind].has_expand else None
    kernel = 1 if block_types()[kind].is_head else 5
    act: Activation = "none" if kind == "Logits" else ACTS.get(kind, "swish")
    return BlockSpec(kind, 8, 8 * stride, kernel, ratio, stride, act)


BLOCKS = [f"{name}_{s}" for name, kind in block_types().items() for s in ((1,) if kind.is_head else (1, 2))]


def block(case: str) -> tuple[Block, Tensor]:
    """A filled block `<type>_<stride>` and its input, `(1, 8, 5, 5)`."""
    kind, stride = case.split("_")
    made = Block([block_spec(kind, int(stride))], PUBLISHED)
    filled(made)
    hw = 1 if kind == "Logits" else 5
    return made, wave(1, 8, hw, hw, phase=7.0)


@torch.no_grad()
def blocks() -> Figures:
    """Outputs of every block type in fp32."""
    found = {}
    for case in BLOCKS:
        made, x = block(case)
        found[case] = made(x).flatten().tolist()
    return found


def images() -> Tensor:
    """Two images, `(2, 3, 24, 24)`."""
    return wave(2, 3, 24, 24, phase=8.0)


@torch.no_grad()
def subnets(quant: str, int8: bool) -> dict[str, Network]:
    """The smallest and the largest subnet of a filled supernet, whose quantisers the largest starts."""
    supernet = Supernet(spaceevo.parse_space(SPACE), quant)
    filled(supernet)
    spaceevo.set_quant(supernet, int8)
    for activate in (supernet.activate_max, supernet.activate_min):
        activate()
        supernet(images())
    member = supernet.member
    return {"smallest": supernet.extract(member.smallest), "largest": supernet.extract(member.largest)}


@torch.no_grad()
def logits() -> Figures:
    """Logits of both subnets: fp32, INT8 of either scheme, and those of the integer program."""
    found: Figures = {}
    for quant, int8 in (("published", False), ("published", True), ("deploy", True)):
        for name, network in subnets(quant, int8).items():
            found[f"{name}_{quant}_{'int8' if int8 else 'fp32'}"] = network(images()).flatten().tolist()
    for name, network in subnets("deploy", True).items():
        if name == "smallest":  # the images have its size
            program = to_program(copy.deepcopy(network), (3, network.resolution, network.resolution))
            found[f"{name}_program"] = execute(program, images()).flatten().tolist()
    return found


def cost() -> Figures:
    """MMACs and MParams of both subnets, and of published ones."""
    member = spaceevo.parse_space(SPACE)
    found = {
        name: list(spaceevo.subnet_cost(member, spec))
        for name, spec in (("smallest", member.smallest), ("largest", member.largest))
    }
    for text in ("mobilew-122222-155400", "onnxw-151122-023231"):
        large = spaceevo.parse_space(text)
        found[text] = list(spaceevo.subnet_cost(large, large.smallest))
    return found


def subnet_keys(name: str) -> list[str]:
    """Keys of the blocks of a subnet of `SPACE`, by the published layout of keys."""
    member = spaceevo.parse_space(SPACE)
    spec = member.smallest if name == "smallest" else member.largest
    keys, hw = [], spec.resolution
    for row in (b for stage in member.block_specs(spec).values() for b in stage):
        keys.append(block_key(row.type, hw, row.cin, row.cout, row.kernel, row.expand, row.stride, row.act))
        hw = 1 if row.type == "FeatureMix" else (hw + row.stride - 1) // row.stride
    return keys


def entry_ms(key: str) -> float:
    """Latency of a block in the table of these cases: from its text, so that no two are alike."""
    return round(0.01 + sum(ord(letter) * (place + 1) for place, letter in enumerate(key)) % 997 / 1000, 6)


def latency(folder: Path) -> Figures:
    """Predicted latencies in ms of both subnets from a table of their blocks."""
    from spaceevo.artifacts import write_json

    path = folder / "table.json"
    write_json(path, {key: entry_ms(key) for name in ("smallest", "largest") for key in subnet_keys(name)})
    table, member = spaceevo.BlockLatency.load(path), spaceevo.parse_space(SPACE)
    specs = {"smallest": member.smallest, "largest": member.largest}
    return {name: [table.predict(member, spec)] for name, spec in specs.items()}


CONSTRAINTS_MS = (4.0, 7.0)
FIXED_MS = 0.5
SAMPLES = 2000


def table_rows(stage: int, key: int, size: int) -> list[tuple[float, float]]:
    """Loss and latency in ms of four sub-stages of one look-up table at one image size (0 or 1)."""
    return [
        (
            round(0.2 + (7 * stage + 5 * key + 3 * n + size) % 11 / 10, 4),
            round(0.4 + (3 * stage + 2 * key + 5 * n) % 13 / 6 + 0.3 * size, 4),
        )
        for n in range(4)
    ]


def quality(folder: Path) -> Figures:
    """Score, probability and loss of a space under two constraints, from tables of four rows a size."""
    space = spaceevo.superspace("digits")
    for key in lut_keys(space):
        name, rows = space.searched[key.stage].name, []
        for size, resolution in enumerate(space.block_resolutions):
            rows += [
                LutRow("3#16#2", 8, space.input_hw(name, resolution), loss, 1, 1, ms)
                for loss, ms in table_rows(key.stage, 3 * key.block + key.window, size)
            ]
        write_lut_file(folder / lut_file_name(space, key), rows)
    scorer = spaceevo.QualityScorer(
        folder, space, list(CONSTRAINTS_MS), FIXED_MS, t=0.5, a=0.3, samples=SAMPLES, seed=1
    )
    found = scorer.score(SPACE)
    return {
        "total": [found.score, found.probability, found.loss],
        **{f"{part.constraint_ms}": [part.score, part.probability, part.loss] for part in found.per_constraint},
    }


def everything() -> dict[str, Figures]:
    """All sections of the golden file."""
    with tempfile.TemporaryDirectory() as table, tempfile.TemporaryDirectory() as tables:
        return {
            **{f"lsq_{name}": lsq(name) for name in LSQ},
            "losses": losses(),
            "blocks": blocks(),
            "logits": logits(),
            "cost": cost(),
            "latency": latency(Path(table)),
            "quality": quality(Path(tables)),
        }
