"""Weight-sharing training of a whole space: the sandwich rule, fp32 and INT8."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaceevo.artifacts import file_hash
from spaceevo.errors import ConfigError
from spaceevo.lit.base import MultiPassModule, Recipe, TrainingRun
from spaceevo.nn.block import zero_last_norms
from spaceevo.nn.evaluate import subnet_top1
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.losses import adaptive_alpha_divergence
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.space.description import found_space
from spaceevo.space.encoding import SubnetSpec


class SupernetModule(MultiPassModule):
    """Four passes a step: the largest subnet on labels, then two random ones and the smallest on its logits."""

    def __init__(self, supernet: Supernet, recipe: Recipe, seed: int, label_smoothing: float, dropout: float) -> None:
        super().__init__(recipe, seed)
        self.supernet = supernet
        self.label_smoothing = label_smoothing
        self.dropout = dropout

    @property
    def network(self) -> nn.Module:
        """The supernet."""
        return self.supernet

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        """Largest, random, random, smallest."""
        member = self.supernet.member
        self.supernet.dropout = self.dropout
        logits = self._logits(images, member.largest)
        self.supernet.dropout = 0.0
        yield "max", functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        teacher_logits = logits.detach()
        for name in ("random1", "random2"):
            logits = self._logits(images, self.supernet.sample(rng))
            yield name, adaptive_alpha_divergence(logits, teacher_logits)
        yield "min", adaptive_alpha_divergence(self._logits(images, member.smallest), teacher_logits)

    def _logits(self, images: Tensor, spec: SubnetSpec) -> Tensor:
        self.supernet.activate(spec)
        y: Tensor = self.supernet(images)
        return y


def train_supernet(
    run: TrainingRun, space: str | None, recipe: Recipe, label_smoothing: float = 0.1, dropout: float = 0.2
) -> None:
    """Train the supernet of `space` (or of the best space found): fp32 from scratch, INT8 from its fp32 checkpoint."""
    member, int8 = found_space(run.layout, run.superspace, space, run.command("space_search")), run.quant.int8
    run.data.setup()
    if run.data.num_classes > run.superspace.num_classes:
        raise ConfigError(
            f"data {run.data.root} has {run.data.num_classes} classes, superspace {run.superspace.name} has "
            f"{run.superspace.num_classes}; set superspace.stages.logits.widths=[{run.data.num_classes}]"
        )
    source = run.layout.supernet(str(member), int8=False)
    inputs = {"fp32": file_hash(source)} if int8 and source.exists() else {}

    def make_module() -> SupernetModule:
        torch.manual_seed(run.seed)
        supernet = Supernet(member, run.quant.scheme.name)
        if int8:
            command = run.command("supernet", f"space={member}")
            read_checkpoint(source, f"fp32 supernet {member}", command).load_into(supernet, int8=False)
            set_quant(supernet, True)
        else:
            zero_last_norms(supernet)
        return SupernetModule(supernet, recipe, run.seed, label_smoothing, dropout)

    def figures(module: MultiPassModule) -> dict[str, float]:
        supernet = module.network
        assert isinstance(supernet, Supernet)
        cached = run.data.calibration_images(), run.data.test()
        return {
            f"{name}_top1": subnet_top1(supernet, spec, *cached)
            for name, spec in (("max", member.largest), ("min", member.smallest))
        }

    precision = "int8" if int8 else "fp32"
    target = run.layout.supernet(str(member), int8)
    meta = {"space": str(member), "quant": run.quant.name}
    found = run.fit(f"supernet_{precision}", target, make_module, figures, inputs, meta)
    run.figures |= {f"supernet_{name}_{precision}_top1": found[f"{name}_top1"] for name in ("max", "min")}
