"""Job finetune: trains a subnet on other data, under a new classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Lt

from spaceevo.errors import ConfigError, choices
from spaceevo.lit.finetune import FinetuneModule
from spaceevo.lit.module import MultiPassModule
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.evaluate import top1
from spaceevo.nn.loading import load_state
from spaceevo.nn.subnets import Subnet, read_subnet
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import float_state, set_quant
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.job import Input, Outcome, file_input
from spaceevo.stages.selection import Selection
from spaceevo.stages.training import TrainingJob, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """Says which subnet is trained, and how."""

    space: str | None  # encoding of the space; None takes the best found
    subnet: str | None  # encoding, `max`, `min` or published name of a found subnet; None takes the chosen one
    checkpoint: Path | None  # the subnet's own checkpoint; None takes that of the last subnet search
    label_smoothing: Annotated[float, Ge(0), Lt(1)]  # share of the target that all classes have in common
    freeze_body: bool  # whether all but the classifier keeps its weights, norms and quantisers


class FinetuneJob(TrainingJob[FinetuneSettings]):
    """Gives a subnet a new classifier and trains it; the INT8 body keeps its quantisers."""

    name = "finetune"
    main_figure = "top1"

    @cached_property
    def source(self) -> Path:
        """The checkpoint to start from.

        Raises:
            MissingArtifactError: none is given, and no subnet search has left one.
            ConfigError: the last subnet search did not extract the subnet asked for.
        """
        if self.settings.checkpoint is not None:
            return self.settings.checkpoint
        selection = Selection(self.superspace, self.workspace, self.settings.space, self.settings.subnet)
        files = {row.subnet: row.int8_file if self.int8 else row.fp32_file for row in selection.front().front}
        wanted = str(selection.best_subnet())
        file = files.get(wanted)
        if file is None:
            command = self.workspace.commands("subnet_search", f"space={selection.member}", without=("subnet",))
            told = f"subnet {wanted} was not extracted by the last search ({choices(files, 3)})"
            raise ConfigError(f"{told}; run: {command}")
        return Path(file)

    @cached_property
    def start(self) -> Subnet:
        """The subnet to start from: fp32, or of the scheme that is to be trained.

        Raises:
            ConfigError: it was trained under another scheme.
        """
        quant = self.settings.quant
        start = read_subnet(self.source, self.superspace, self.workspace.commands("subnet_search"))
        if start.quant not in ("off", quant):
            raise ConfigError(
                f"{self.source} was trained under quant={start.quant}, not {quant}; set quant={start.quant}"
            )
        return start

    @property
    def member(self) -> SpaceMember:
        """The space with a classifier for the data's classes."""
        start = self.start.member
        return self.superspace.with_classes(self.data.num_classes).member(start.blocks, start.windows, start.align)

    def inputs(self) -> Mapping[str, Input]:
        """Return the images and the subnet."""
        return {**super().inputs(), "subnet": file_input(self.source)}

    def work(self) -> Outcome:
        """Train, then tell the top-1."""
        dataset = str(getattr(self.data, "dataset", self.data.root.name))
        spec, member, quant = self.start.spec, self.member, self.settings.quant
        target = self.workspace.layout.finetuned(str(member), str(spec), dataset, self.int8)
        trainee = self.trainee(
            f"finetune_{dataset}_{self.precision}",
            target,
            {"subnet": file_input(self.source).state(None)},
            CheckpointMeta(space=str(member), subnet=str(spec), classes=self.data.classes, quant=quant, data=dataset),
            besides=("space", "subnet", "checkpoint"),
        )
        found = self.training.fit(
            trainee,
            self._make_module,
            lambda module: {"top1": top1(module.network, self.data.test())},
            anew=self.workspace.force,
        )
        figures = {"subnet": str(spec), "classes": self.data.num_classes, "top1": found["top1"]}
        figures[f"finetune_{self.precision}_top1"] = found["top1"]
        following = self.workspace.commands("export", f"checkpoint={target}", f"quant={quant}", without=("subnet",))
        return Outcome(figures, self.training.made, following, self.training.device)

    def _make_module(self) -> MultiPassModule:
        settings = self.settings
        torch.manual_seed(settings.seed)
        network = Network.fixed(self.member, self.start.spec, self.scheme)
        _load_body(network, self.start, self.source)
        set_quant(network, self.int8)
        *body, _ = network.stages.values()
        quantizer = [] if network.image_quantizer is None else [network.image_quantizer]
        frozen = [*body, *quantizer] if settings.freeze_body else []
        return FinetuneModule(network, self.recipe, settings.seed, settings.label_smoothing, frozen)


def _load_body(network: Network, start: Subnet, source: Path) -> None:
    """Load everything but the classifier; INT8 from fp32 takes the weights and lets quantisers start anew."""
    classifier = f"stages.{list(network.stages)[-1]}."
    state = {key: value for key, value in start.network.state_dict().items() if not key.startswith(classifier)}
    load_state(network, state if start.quant != "off" else float_state(state), source, strict=False)
