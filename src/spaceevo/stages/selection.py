"""Which space, subnets and supernet a job works on: those asked for, else what earlier jobs found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from spaceevo.artifacts import FRONT_FILE, Front
from spaceevo.errors import CheckpointError, ConfigError, MissingArtifactError
from spaceevo.space.description import found_space, parse_description
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.published import published_model, published_models, published_names
from spaceevo.space.superspace import SpaceMember, Superspace
from spaceevo.stages.job import Input, Job, Made, Workspace, file_input
from spaceevo.stages.settings import SpaceSettings, SupernetSettings, SuperspaceSettings, Texts

if TYPE_CHECKING:  # jobs that build no network start without torch
    from spaceevo.lit.datamodule import ImageFolderDataModule
    from spaceevo.nn.subnets import Subnet
    from spaceevo.nn.supernet import Supernet


@dataclass(frozen=True)
class Selection:
    """Finds a space and subnets of it."""

    superspace: Superspace  # whose space
    workspace: Workspace  # where earlier jobs left what they found
    space: str | None = None  # encoding of the space; None takes the best of the last space search
    subnet: Texts = None  # encodings, `max`, `min` or published names; None takes what the last subnet search chose

    @cached_property
    def member(self) -> SpaceMember:
        """The space asked for, or the best of the last space search; `MissingArtifactError` where neither is there."""
        command = self.workspace.commands("space_search")
        return found_space(self.workspace.layout, self.superspace, self.space, command)

    def input(self) -> dict[str, Input]:
        """Return the files that decide the choice, where none is made by settings."""
        file = self.workspace.layout.space_choice(self.superspace.name)
        return {"space": file_input(file)} if self.space is None else {}

    @cached_property
    def names(self) -> dict[SubnetSpec, str]:
        """Names of the subnets that have one: published ones, `max` and `min`."""
        return {self.member.largest: "max", self.member.smallest: "min"} | published_names(self.member)

    def subnets(self, *defaults: SubnetSpec) -> list[SubnetSpec]:
        """Return the subnets asked for, or the defaults; faults are an `EncodingError` or a `ConfigError`."""
        if self.subnet is None:
            return list(defaults)
        texts = [self.subnet] if isinstance(self.subnet, str) else list(self.subnet)
        if not texts:
            raise ConfigError("subnet = []; allowed: a subnet, max, min, a published name, or a list of them")
        return [self._parse(text) for text in texts]

    def _parse(self, text: str) -> SubnetSpec:
        corners = {"max": self.member.largest, "min": self.member.smallest}
        if text in corners:
            return corners[text]
        known = published_model(text).spec if "@" in text or text in published_models() else None
        spec = known or SubnetSpec.parse(text)
        self.member.validate(spec)
        return spec

    @property
    def front_file(self) -> Path:
        """The file in which the last subnet search of the space left its front."""
        return self.workspace.layout.subnet_search(str(self.member)) / FRONT_FILE

    def front(self) -> Front:
        """Read the front of the last subnet search of the space; `MissingArtifactError` where there is none."""
        command = self.workspace.commands("subnet_search", f"space={self.member}")
        if not self.front_file.exists():
            raise MissingArtifactError("a subnet (subnet=…, or a found one)", self.front_file, command)
        return Front.read(self.front_file, command)

    def best_subnet(self) -> SubnetSpec:
        """Return the first subnet asked for, or what the last subnet search chose."""
        return self._parse(self.front().chosen) if self.subnet is None else self.subnets()[0]


@dataclass(frozen=True)
class SupernetSource:
    """Finds the weights of a space's supernet."""

    selection: Selection  # the space
    settings: SupernetSettings  # whose weights

    def file(self, int8: bool) -> Path:
        """Return the supernet's checkpoint: the one asked for, else the one trained here, else a released one."""
        settings, layout = self.settings, self.selection.workspace.layout
        if settings.checkpoint is not None:
            return existing(settings.checkpoint)
        trained = layout.supernet(str(self.selection.member), int8)
        released = layout.released_supernet(settings.model or "", int8)
        return released if settings.model and released.exists() and not trained.exists() else trained

    def input(self, *precisions: bool) -> dict[str, Input]:
        """Return the checkpoints of these precisions (`True` is INT8) as inputs; random weights have none."""
        if self.settings.weights == "random":
            return {}
        return {f"supernet_{'int8' if int8 else 'fp32'}": file_input(self.file(int8)) for int8 in precisions}

    def supernet(self, int8: bool) -> Supernet:
        """Build the supernet with its weights, in eval mode, quantisers on if `int8`.

        Raises:
            MissingArtifactError: it has not been trained; names the command.
            ConfigError: its INT8 weights were trained under another scheme.
        """
        from spaceevo.nn.models import random_supernet, trained_supernet

        member, settings = self.selection.member, self.settings
        scheme = settings.quant if int8 and settings.int8 else "deploy"
        if settings.weights == "random":
            return random_supernet(member, scheme, int8=int8, seed=settings.seed)
        changes = [f"space={member}", f"quant={scheme if int8 else 'off'}"]
        command = "" if settings.checkpoint else self.selection.workspace.commands("supernet", *changes)
        return trained_supernet(member, scheme, self.file(int8), int8=int8, command=command)

    def given_subnet(self) -> Subnet | None:
        """Read the subnet whose own checkpoint is `checkpoint`; None without one, or where it is a supernet's."""
        from spaceevo.nn.subnets import holds_subnet, read_subnet

        path = self.settings.checkpoint
        if path is None or not holds_subnet(existing(path)):
            return None
        return read_subnet(path, self.selection.superspace, "")


def existing(path: Path) -> Path:
    """Return the file that `checkpoint=` names; a `CheckpointError` says that it is not there."""
    if not path.is_file():
        raise CheckpointError(f"checkpoint = {path} does not exist; set it to a file of weights, or leave it out")
    return path


Q = TypeVar("Q", bound=SuperspaceSettings)
P = TypeVar("P", bound=SpaceSettings)
W = TypeVar("W", bound=SupernetSettings)


class SuperspaceJob(Job[Q]):
    """Works on a superspace."""

    @cached_property
    def superspace(self) -> Superspace:
        """The superspace; a `ConfigError` lists every fault of its description."""
        description = self.settings.superspace
        return parse_description(description, source=str(description.get("name")))


class SpaceJob(SuperspaceJob[P]):
    """Works on a space, or on subnets of it."""

    @cached_property
    def selection(self) -> Selection:
        """The space and subnets asked for, or found."""
        subnet = getattr(self.settings, "subnet", None)
        return Selection(self.superspace, self.workspace, self.settings.space, subnet)

    def inputs(self) -> Mapping[str, Input]:
        """Return what chose the space, where none is asked for; jobs add what else they read."""
        return self.selection.input()


class SupernetBasedJob(SpaceJob[W]):
    """Works on subnets of a supernet with weights, and on images."""

    data: Made[ImageFolderDataModule] = Made()

    @cached_property
    def source(self) -> SupernetSource:
        """The supernet's weights."""
        return SupernetSource(self.selection, self.settings)
