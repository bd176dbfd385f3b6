"""Supervised training of one classifier, fp32 and INT8: the teacher, and found subnets on other data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaceevo.artifacts import file_hash, read_json
from spaceevo.errors import ConfigError, MissingArtifactError, choices
from spaceevo.lit.base import MultiPassModule, Recipe, TrainingRun
from spaceevo.nn.evaluate import top1
from spaceevo.nn.loading import load_state, read_checkpoint
from spaceevo.nn.subnets import Subnet, read_subnet
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import float_state, prepare, set_quant
from spaceevo.space.description import found_space
from spaceevo.teacher import Teacher, make_teacher


class FinetuneModule(MultiPassModule):
    """Cross-entropy with label smoothing; `frozen` parts of the classifier keep their weights and statistics."""

    def __init__(
        self,
        classifier: nn.Module,
        recipe: Recipe,
        seed: int,
        label_smoothing: float,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__(recipe, seed)
        self.classifier = classifier
        self.label_smoothing = label_smoothing
        self._frozen = [module.requires_grad_(False) for module in frozen]

    @property
    def network(self) -> nn.Module:
        """The classifier."""
        return self.classifier

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        """One pass on the labels."""
        for module in self._frozen:
            module.eval()  # Lightning puts everything in training mode
        yield "loss", functional.cross_entropy(self.classifier(images), labels, label_smoothing=self.label_smoothing)


def train_teacher(run: TrainingRun, recipe: Recipe, label_smoothing: float = 0.1) -> None:
    """Finetune the teacher: fp32 from the library's weights, INT8 (published scheme) from its fp32 checkpoint."""
    config, int8 = run.teacher, run.quant.int8
    source = run.layout.teacher(config.name, int8=False)
    inputs = {"teacher": file_hash(source)} if int8 and source.exists() else {}

    def make_module() -> FinetuneModule:
        needs_library = config.weights == "pretrained" and not (int8 and source.exists())
        teacher: Teacher = make_teacher(config, run.data.num_classes, pretrained=needs_library)
        if int8:
            if not needs_library:
                checkpoint = read_checkpoint(source, f"teacher {config.name}", run.command("teacher"))
                checkpoint.load_into(teacher, int8=False)
            prepare(teacher.model)
            set_quant(teacher, True)
        return FinetuneModule(teacher, recipe, run.seed, label_smoothing)

    name = f"teacher_{'int8' if int8 else 'fp32'}"
    found = run.fit(
        name,
        run.layout.teacher(config.name, int8),
        make_module,
        lambda module: {"top1": top1(module.network, run.data.test())},
        inputs,
        {"teacher": config.name, "num_classes": run.data.num_classes},
    )
    run.figures["teacher_int8_top1" if int8 else "teacher_top1"] = found["top1"]


def train_subnet(
    run: TrainingRun,
    recipe: Recipe,
    checkpoint: str | None,
    space: str | None,
    subnet: str | None,
    label_smoothing: float = 0.1,
    freeze_body: bool = False,
) -> None:
    """Finetune a subnet on other data, under a new classifier.

    Args:
        run: the data, whose classes the new classifier has, and the quantisation.
        recipe: how to train.
        checkpoint: the subnet's own checkpoint; without, that of the last subnet search.
        space: whose search, where there is no `checkpoint`; the best space found by default.
        subnet: which of the found subnets; the chosen one by default.
        label_smoothing: of the cross-entropy.
        freeze_body: whether all but the classifier keeps its weights, norms and quantisers.
    """
    run.data.setup()
    source = Path(checkpoint) if checkpoint else _found_checkpoint(run, space, subnet)
    start = _start(run, source)
    classes, data = run.data.classes, str(getattr(run.data, "dataset", run.data.root.name))
    member = run.superspace.with_classes(len(classes)).member(
        start.member.blocks, start.member.windows, start.member.align
    )

    def make_module() -> FinetuneModule:
        torch.manual_seed(run.seed)
        network = Network.fixed(member, start.spec, run.quant.scheme)
        _load_body(network, start, source)
        set_quant(network, run.quant.int8)
        *body, _ = network.stages.values()
        quantizer = [] if network.image_quantizer is None else [network.image_quantizer]
        frozen = [*body, *quantizer] if freeze_body else []
        return FinetuneModule(network, recipe, run.seed, label_smoothing, frozen)

    target = run.layout.finetuned(str(member), str(start.spec), data, run.quant.int8)
    meta = {"space": str(member), "subnet": str(start.spec), "classes": list(classes), "quant": run.quant.name}
    precision = "int8" if run.quant.int8 else "fp32"
    found = run.fit(
        f"finetune_{data}_{precision}",
        target,
        make_module,
        lambda module: {"top1": top1(module.network, run.data.test())},
        {"subnet": file_hash(source)},
        {**meta, "data": data, "freeze_body": freeze_body, "label_smoothing": label_smoothing},
    )
    run.figures |= {"subnet": str(start.spec), "classes": len(classes), f"finetune_{precision}_top1": found["top1"]}
    images = [f"data={data}"] if hasattr(run.data, "dataset") else []
    images += [f"data.root={run.data.root}", f"quant={run.quant.name}"]
    run.announce(f"Next: {run.command('export', f'checkpoint={target}', *images)}")


def _start(run: TrainingRun, source: Path) -> Subnet:
    """The subnet to finetune: fp32, or of the scheme that is to be trained."""
    start = read_subnet(source, run.superspace, run.command("subnet_search"))
    if start.quant not in ("off", run.quant.name):
        raise ConfigError(
            f"{source} was trained under quant={start.quant}, not {run.quant.name}; set quant={start.quant}"
        )
    return start


def _load_body(network: Network, start: Subnet, source: Path) -> None:
    """Weights of everything but the classifier; INT8 from fp32 takes the weights and lets quantisers start anew."""
    classifier = f"stages.{list(network.stages)[-1]}."
    state = {key: value for key, value in start.network.state_dict().items() if not key.startswith(classifier)}
    load_state(network, state if start.quant != "off" else float_state(state), source, strict=False)


def _found_checkpoint(run: TrainingRun, space: str | None, subnet: str | None) -> Path:
    """The checkpoint that the last subnet search left of the chosen, or of the asked, subnet."""
    member = found_space(run.layout, run.superspace, space, run.command("space_search"))
    path = run.layout.subnet_search(str(member)) / "front.json"
    command = run.command("subnet_search", f"space={member}")
    if not path.exists():
        raise MissingArtifactError("a subnet's checkpoint (checkpoint=…, or a found one)", path, command)
    record = read_json(path)
    files = {row["subnet"]: row.get("int8_file" if run.quant.int8 else "fp32_file") for row in record["front"]}
    wanted = subnet or record["chosen"]
    if not files.get(wanted):
        raise ConfigError(f"subnet {wanted} was not extracted by the last search ({choices(files, 3)}); run: {command}")
    return Path(files[wanted])
