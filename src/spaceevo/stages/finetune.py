"""Job finetune: trains a subnet on other data, under a new classifier."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from spaceevo.errors import ConfigError
from spaceevo.lit.finetune import FinetuneModule
from spaceevo.lit.module import MultiPassModule
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.loading import load_state
from spaceevo.nn.models import read_supernet, trained_supernet
from spaceevo.nn.subnets import Subnet, read_subnet
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import float_state, set_quant
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.job import Outcome
from spaceevo.stages.selection import SpaceJob, existing
from spaceevo.stages.settings import OneText, SpaceSettings
from spaceevo.stages.training import OneNetworkJob, Share, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings, SpaceSettings):
    """Says which subnet is trained, and how."""

    subnet: OneText | None  # encoding, `max`, `min` or published name of a found subnet; None takes the chosen one
    checkpoint: Path | None  # the subnet's own checkpoint; None takes that of the last subnet search
    label_smoothing: Share  # share of the target that all classes have in common
    freeze_body: bool  # whether all but the classifier keeps its weights, norms and quantisers


class FinetuneJob(OneNetworkJob[FinetuneSettings], SpaceJob[FinetuneSettings]):
    """Gives a subnet a new classifier and trains it; the INT8 body keeps its quantisers."""

    name = "finetune"

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
        return Path(files.get(wanted) or self._supernet_file)

    @property
    def _supernet_file(self) -> Path:
        return self.workspace.layout.supernet(str(self.member), self.int8)

    @cached_property
    def start(self) -> Subnet:
        """The subnet to start from: fp32, or of the scheme that is to be trained.

        Raises:
            ConfigError: it was trained under another scheme.
        """
        quant = self.settings.quant
        if self.settings.checkpoint is None and self.source == self._supernet_file:
            member, spec = self.member, self.best_subnet()
            command = self.workspace.commands("supernet", f"space={member}", f"quant={quant}", without=("subnet",))
            weights = read_supernet(member, self.source, int8=self.int8, command=command)
            supernet = trained_supernet(member, self.scheme.name, weights, int8=self.int8)
            return Subnet(supernet.extract(spec), member, spec, (), quant, CheckpointMeta())
        command = "" if self.settings.checkpoint else self.workspace.commands("subnet_search")
        start = read_subnet(self.source, self.superspace, command)
        if start.quant not in ("off", quant):
            raise ConfigError(
                f"{self.source} was trained under quant={start.quant}, not {quant}; set quant={start.quant}"
            )
        return start

    @property
    def finetuned_member(self) -> SpaceMember:
        """The space of `start` with a classifier for the data's classes."""
        start = self.start.member
        return self.superspace.with_classes(self.data.num_classes).member(start.blocks, start.windows, start.align)

    @property
    def _dataset(self) -> str:
        return str(getattr(self.data, "dataset", self.data.root.name))

    @property
    def resolution(self) -> int:
        """The subnet's resolution in pixels."""
        return self.start.spec.resolution

    def checkpoint(self, int8: bool) -> Path:
        """Return the file of the finetuned subnet."""
        return self.workspace.layout.finetuned(str(self.finetuned_member), str(self.start.spec), self._dataset, int8)

    def starts(self) -> dict[str, Path]:
        """Return the subnet."""
        return {"subnet": self.source}

    def work(self) -> Outcome:
        """Train, then tell the top-1."""
        spec, classes, quant = str(self.start.spec), self.data.classes, self.settings.quant
        meta = CheckpointMeta(space=str(self.finetuned_member), subnet=spec, quant=quant, data=self._dataset)
        found = self.train(
            f"finetune_{self._dataset}", meta, self._make_module, besides=("space", "subnet", "checkpoint")
        )
        figures = {"subnet": spec, "classes": len(classes), **found, f"finetune_{self.precision}_top1": found["top1"]}
        changes = (f"checkpoint={self.checkpoint(self.int8)}", f"quant={quant}")
        return self.outcome(figures, self.workspace.commands("export", *changes, without=("subnet",)))

    def _make_module(self) -> MultiPassModule:
        settings = self.settings
        torch.manual_seed(settings.seed)
        network = Network.fixed(self.finetuned_member, self.start.spec, self.scheme)
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
