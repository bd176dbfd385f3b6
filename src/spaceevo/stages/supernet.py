"""Job supernet: weight-sharing training of a whole space, fp32 from scratch, INT8 from its fp32 checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import torch

from spaceevo.errors import ConfigError
from spaceevo.lit.module import MultiPassModule
from spaceevo.lit.supernet import SubnetLoss, SupernetModule
from spaceevo.lit.training import Figures
from spaceevo.nn.block import zero_last_norms
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.evaluate import subnet_top1
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.stages.job import Outcome
from spaceevo.stages.selection import SpaceJob
from spaceevo.stages.settings import SpaceSettings
from spaceevo.stages.training import OneNetworkJob, Share, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class SupernetSettings(TrainingSettings, SpaceSettings):
    """Says which supernet is trained, and how."""

    label_smoothing: Share  # share of the target that all classes have in common, for the largest subnet
    dropout: Share  # share of the features that the largest subnet's classifier does without
    subnet_loss: SubnetLoss  # what all subnets but the largest learn by: from its logits, or from labels


class SupernetJob(OneNetworkJob[SupernetSettings], SpaceJob[SupernetSettings]):
    """Trains the supernet of a space with the sandwich rule."""

    name = "supernet"

    @property
    def resolution(self) -> int:
        """The largest resolution of the superspace's supernets in pixels."""
        return max(self.superspace.supernet_resolutions)

    @property
    def outputs(self) -> int:
        """The superspace's number of classes."""
        return self.superspace.num_classes

    def checkpoint(self, int8: bool) -> Path:
        """Return the file of the supernet's weights."""
        return self.workspace.layout.supernet(str(self.member), int8)

    @property
    def passes(self) -> int:
        """The number of passes of the supernet: largest, smallest and two random ones."""
        return 4

    @property
    def evaluated_images(self) -> int:
        """The number of images that a look takes: the largest and the smallest subnet are tested."""
        return 2 * (self.data.calibrated_on + self.data.tested_on)

    def work(self) -> Outcome:
        """Train, then tell the top-1 of the largest and the smallest subnet.

        Raises:
            ConfigError: the images have more classes than the superspace.
            MissingArtifactError: INT8 training lacks the fp32 weights.
        """
        self._check_classes()
        space = str(self.member)
        meta = CheckpointMeta(space=space, quant=self.settings.quant)
        found = self.train("supernet", meta, self._make_module)
        figures = {f"supernet_{name}_{self.precision}_top1": found[f"{name}_top1"] for name in ("max", "min")}
        commands, of_space = self.workspace.commands, f"space={space}"
        following = ("subnet_search", of_space) if self.int8 else ("supernet", of_space, commands.in_int8)
        found_all = {"space": space, "top1": found["max_top1"], **figures}
        return self.outcome(found_all, commands(*following))

    def _check_classes(self) -> None:
        classes, data = self.superspace.num_classes, self.data
        if data.num_classes > classes:
            raise ConfigError(
                f"data {data.root} has {data.num_classes} classes, superspace {self.superspace.name} has {classes}; "
                f"set superspace.stages.logits.widths=[{data.num_classes}]"
            )

    def _make_module(self) -> MultiPassModule:
        settings, space = self.settings, self.member
        torch.manual_seed(settings.seed)
        supernet = Supernet(space, self.scheme.name)
        if self.int8:
            fp32 = self.checkpoint(int8=False)
            self.load_fp32(supernet, fp32, f"fp32 supernet {space}", f"space={space}", "quant=off")
            set_quant(supernet, True)
        else:
            zero_last_norms(supernet)
        recipe, loss = self.recipe, settings.subnet_loss
        return SupernetModule(supernet, recipe, settings.seed, settings.label_smoothing, settings.dropout, loss)

    def measure(self, module: MultiPassModule) -> Figures:
        """Measure the top-1 of the largest and the smallest subnet, in percent."""
        supernet = module.network
        assert isinstance(supernet, Supernet)
        images = self.data.calibration_images(), self.data.test()
        corners = {"max": self.member.largest, "min": self.member.smallest}
        return {f"{name}_top1": subnet_top1(supernet, spec, *images) for name, spec in corners.items()}
