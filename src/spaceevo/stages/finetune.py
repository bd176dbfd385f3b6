"""Job finetune: trains a subnet on other data, under a new classifier, or from random weights."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from spaceevo.artifacts.shell import quoted
from spaceevo.artifacts.values import Name
from spaceevo.errors import CheckpointError, ConfigError
from spaceevo.lit.finetune import FinetuneModule
from spaceevo.lit.matching import check_shape
from spaceevo.lit.module import MultiPassModule
from spaceevo.nn.block import zero_last_norms
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.loading import Checkpoint, load_state, read_checkpoint
from spaceevo.nn.models import subnet_with
from spaceevo.nn.subnets import Subnet, read_subnet
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import float_state, set_quant
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.job import Outcome
from spaceevo.stages.selection import SpaceJob, existing, refuse_random_from_file
from spaceevo.stages.settings import OneText, SpaceSettings
from spaceevo.stages.training import OneNetworkJob, Share, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings, SpaceSettings):
    """Says which subnet is trained, and how."""

    subnet: OneText | None  # encoding, `max`, `min` or published name of a found subnet; None takes the chosen one
    # the subnet's own checkpoint, or one of its supernet, ours or released; None takes that of the last subnet search
    checkpoint: Path | None
    weights: Literal["trained", "random"]  # `random` takes no supernet's: the subnet is trained from scratch
    model: Name | None  # name of the published supernet whose released file may be taken
    label_smoothing: Share  # share of the target that all classes have in common
    freeze_body: bool  # whether all but the classifier keeps its weights, norms and quantisers


class FinetuneJob(OneNetworkJob[FinetuneSettings], SpaceJob[FinetuneSettings]):
    """Gives a subnet a new classifier and trains it; the INT8 body keeps its quantisers."""

    name = "finetune"

    @property
    def _is_random(self) -> bool:
        return self.settings.weights == "random"

    def check(self) -> None:
        """Tell also that random weights lie in no file, and are trained in fp32 first."""
        super().check()
        refuse_random_from_file(self.settings.weights, self.settings.checkpoint)
        if self._is_random and self.int8:
            raise ConfigError(
                "weights = random is trained in fp32 first: set quant=off; then checkpoint=… names what that made"
            )

    @cached_property
    def source(self) -> Path:
        """The checkpoint to start from: the one given, the subnet's of the last search, or its supernet's.

        Raises:
            MissingArtifactError: no subnet is given, and no subnet search has left one.
        """
        if self.settings.checkpoint is not None:
            return existing(self.settings.checkpoint)
        wanted = str(self.best_subnet())
        rows = self.front().front if self.front_file.exists() else ()
        files = {row.subnet: row.int8_file if self.int8 else row.fp32_file for row in rows}
        return Path(files.get(wanted) or self.found_supernet(self.int8, self.settings.model))

    @cached_property
    def start(self) -> Subnet:
        """The subnet to start from: fp32, or of the scheme that is to be trained.

        Raises:
            MissingArtifactError: its supernet has not been trained.
            ConfigError: it was trained under another scheme.
        """
        quant, given = self.settings.quant, self.settings.checkpoint
        if self._is_random:
            return self._random()
        if given is None and self.source == self.found_supernet(self.int8, self.settings.model):
            self.require_supernet(self.int8, quant, self.settings.model)
        command = "" if given else self.workspace.commands("subnet_search")
        weights = read_checkpoint(self.source, "subnet or supernet", command)
        trained = weights.meta.quant or "off"
        if self.int8 and trained not in ("off", quant):
            raise ConfigError(f"{self.source} was trained under quant={trained}, not {quant}; set quant={trained}")
        return read_subnet(self.source, self.superspace, command) if weights.meta.subnet else self._taken(weights)

    def _taken(self, weights: Checkpoint) -> Subnet:
        """The subnet asked for with weights that do not say whose they are; a supernet's get its own statistics."""
        if weights.meta.space not in ("", str(self.member)):
            raise CheckpointError(f"{weights.path} is of space {weights.meta.space}; set space={weights.meta.space}")
        spec, int8 = self.best_subnet(), self.int8 and weights.meta.int8
        scheme = self.settings.quant if int8 else "deploy"
        network, member, is_of_supernet = subnet_with(weights, self.member, spec, scheme, int8=int8)
        if is_of_supernet:
            recalibrate(network, self.data.calibration_images(), network)
        return Subnet(network, member, spec, (), scheme if int8 else "off", weights.meta)

    def _random(self) -> Subnet:
        """The subnet asked for with weights of the seed; residual blocks start as their shortcuts, as in a supernet."""
        torch.manual_seed(self.settings.seed)
        spec = self.best_subnet()
        network = Network.fixed(self.member, spec, self.scheme)
        zero_last_norms(network)
        return Subnet(network, self.member, spec, (), "off", CheckpointMeta(space=str(self.member)))

    @property
    def finetuned_member(self) -> SpaceMember:
        """The space of `start` with a classifier for the data's classes."""
        start = self.start.member
        return self.superspace.with_classes(self.data.num_classes).member(start.blocks, start.windows, start.align)

    @property
    def _dataset(self) -> str:
        return str(getattr(self.data, "dataset", self.data.root.name))

    def checkpoint(self, int8: bool) -> Path:
        """Return the file of the finetuned subnet: one for other images, and one for each job of a sweep."""
        images, layout = self.data.content_hash, self.workspace.layout
        file = layout.finetuned(str(self.finetuned_member), str(self.start.spec), self._dataset, images, int8)
        return self.workspace.shared(file)

    def starts(self) -> dict[str, Path]:
        """Return the subnet; random weights have no file."""
        return {} if self._is_random else {"subnet": self.source}

    def work(self) -> Outcome:
        """Train, then tell the top-1.

        Raises:
            ConfigError: the images are smaller than the subnet's resolution.
        """
        check_shape(self.data, self.superspace, self.start.spec.resolution)
        spec, classes, quant = str(self.start.spec), self.data.classes, self.settings.quant
        meta = CheckpointMeta(space=str(self.finetuned_member), subnet=spec, quant=quant, data=self._dataset)
        found = self.train(
            f"finetune_{self._dataset}", meta, self._make_module, besides=("space", "subnet", "checkpoint")
        )
        figures = {"subnet": spec, "classes": len(classes), **found, f"finetune_{self.precision}_top1": found["top1"]}
        changes = (f"checkpoint={quoted(self.checkpoint(self.int8))}", f"quant={quant}")
        return self.outcome(figures, self.workspace.commands("export", *changes, without=("subnet", "weights")))

    def _make_module(self) -> MultiPassModule:
        settings = self.settings
        torch.manual_seed(settings.seed)
        network = Network.fixed(self.finetuned_member, self.start.spec, self.scheme)
        _load_body(network, self.start, Path("random weights") if self._is_random else self.source)
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
