"""Which superspace, space, subnets and supernet a job works on: those asked for, else what earlier jobs found."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from spaceevo.artifacts import FRONT_FILE, Front
from spaceevo.errors import CheckpointError, ConfigError, MissingArtifactError
from spaceevo.space.description import found_space, parse_description
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.published import published_model, published_models, published_names
from spaceevo.space.superspace import SpaceMember, Superspace
from spaceevo.stages.job import Input, Job, Made, file_input
from spaceevo.stages.settings import SpaceSettings, SupernetSettings, SuperspaceSettings, Texts

if TYPE_CHECKING:  # jobs that build no network start without torch
    from spaceevo.lit.datamodule import ImageFolderDataModule
    from spaceevo.nn.checkpoint import CheckpointMeta
    from spaceevo.nn.loading import Checkpoint
    from spaceevo.nn.subnets import Subnet
    from spaceevo.nn.supernet import Supernet

Q = TypeVar("Q", bound=SuperspaceSettings, covariant=True)
P = TypeVar("P", bound=SpaceSettings, covariant=True)
W = TypeVar("W", bound=SupernetSettings, covariant=True)


class SuperspaceJob(Job[Q]):
    """Works on a superspace."""

    @cached_property
    def superspace(self) -> Superspace:
        """The superspace; a `ConfigError` lists every fault of its description."""
        description = self.settings.superspace
        return parse_description(description, source=str(description.get("name")))

    def check(self) -> None:
        """Tell faults of the superspace's description."""
        _ = self.superspace


class SpaceJob(SuperspaceJob[P]):
    """Works on a space, or on subnets of it."""

    @cached_property
    def member(self) -> SpaceMember:
        """The space asked for, or the best of the last space search; `MissingArtifactError` where neither is there."""
        command = self.workspace.commands("space_search")
        return found_space(self.workspace.layout, self.superspace, self.settings.space, command)

    def check(self) -> None:
        """Tell also what is wrong with a space or subnet that is asked for."""
        super().check()
        if self.settings.space is not None:
            _ = self.member, self.subnets()

    def inputs(self) -> Mapping[str, Input]:
        """Return the file that chose the space, where none is asked for; jobs add what else they read."""
        file = self.workspace.layout.space_choice(self.superspace.name)
        return {"space": file_input(file)} if self.settings.space is None else {}

    @cached_property
    def subnet_names(self) -> dict[SubnetSpec, str]:
        """Names of the subnets that have one: as asked for, else `max` and `min`, else published ones."""
        corners = {self.member.largest: "max", self.member.smallest: "min"}
        asked = {self._parse(text): text for text in self._asked if "@" in text or text in published_models()}
        return published_names(self.member) | corners | asked

    @property
    def _asked(self) -> list[str]:
        """The subnets asked for, as they were typed."""
        asked: Texts = getattr(self.settings, "subnet", None)
        return [asked] if isinstance(asked, str) else list(asked or ())

    def subnets(self, *defaults: SubnetSpec) -> list[SubnetSpec]:
        """Return the subnets asked for, or the defaults; faults are an `EncodingError` or a `ConfigError`."""
        if getattr(self.settings, "subnet", None) is None:
            return list(defaults)
        texts = self._asked
        if not texts:
            raise ConfigError("subnet = []; allowed: a subnet, max, min, a published name, or a list of them")
        return [self._parse(text) for text in texts]

    def _parse(self, text: str) -> SubnetSpec:
        corners = {"max": self.member.largest, "min": self.member.smallest}
        if text in corners:
            return corners[text]
        known = published_model(text).spec if "@" in text or text in published_models() else None
        spec = known or SubnetSpec.parse(text, also="max, min, a published name")
        self.member.validate(spec)
        return spec

    def found_supernet(self, int8: bool, model: str | None) -> Path:
        """Return the file of the supernet trained here, or the released one of `model` where that alone is there."""
        trained = self.workspace.layout.supernet(str(self.member), int8)
        released = self.workspace.layout.released_supernet(model or "", int8)
        return released if model and released.exists() and not trained.exists() else trained

    def require_supernet(self, int8: bool, quant: str, model: str | None) -> None:
        """Raise a `MissingArtifactError` where no supernet is found; it says how one is made, and where one may lie."""
        path = self.found_supernet(int8, model)
        if path.exists():
            return
        changes = [f"space={self.member}", f"quant={quant if int8 else 'off'}"]
        command = self.workspace.commands("supernet", *changes, without=("subnet", "weights"))
        place = f", put it at {self.workspace.layout.released_supernet(model, int8)}" if model else ""
        other = f"name a released file by checkpoint=…{place}, or "
        raise MissingArtifactError(f"{'INT8' if int8 else 'fp32'} supernet {self.member}", path, command, other)

    @property
    def front_file(self) -> Path:
        """The file in which the last subnet search of the space left its front."""
        return self.workspace.layout.subnet_search(str(self.member)) / FRONT_FILE

    def front(self) -> Front:
        """Read the front of the last subnet search of the space; `MissingArtifactError` where there is none."""
        command = self.workspace.commands("subnet_search", f"space={self.member}")
        if not self.front_file.exists():
            raise MissingArtifactError("a subnet (subnet=…, or a found one)", self.front_file, command)
        front = Front.read(self.front_file, command)
        if front.space != str(self.member):
            told = f"{self.front_file} is of space {front.space}, not of {self.member}"
            raise CheckpointError(f"{told}; make it again with: {command}")
        return front

    def best_subnet(self) -> SubnetSpec:
        """Return the first subnet asked for, or what the last subnet search chose."""
        return next(iter(self.subnets()), None) or self._parse(self.front().chosen)


class SupernetBasedJob(SpaceJob[W]):
    """Works on subnets of a supernet with weights, and on images."""

    data: Made[ImageFolderDataModule] = Made()

    def check(self) -> None:
        """Tell also that random weights lie in no file."""
        super().check()
        refuse_random_from_file(self.settings.weights, self.settings.checkpoint)

    def supernet_file(self, int8: bool) -> Path:
        """Return the supernet's checkpoint: the one asked for, else the one trained here, else a released one."""
        given = self.settings.checkpoint
        return self.found_supernet(int8, self.settings.model) if given is None else existing(given)

    def supernet_inputs(self, *precisions: bool) -> dict[str, Input]:
        """Return the checkpoints of these precisions (`True` is INT8) as inputs; random weights have none."""
        if self.settings.weights == "random":
            return {}
        return {f"supernet_{'int8' if int8 else 'fp32'}": file_input(self.supernet_file(int8)) for int8 in precisions}

    def supernet(self, int8: bool) -> Supernet:
        """Build the supernet with its weights, in eval mode, quantisers on if `int8`.

        Raises:
            MissingArtifactError: it has not been trained; names the command.
            CheckpointError: the weights are a subnet's, or another network's.
            ConfigError: its INT8 weights were trained under another scheme, or the images do not fit it.
        """
        from spaceevo.nn.models import random_supernet, trained_supernet

        settings = self.settings
        if self.given is not None:
            remedy = "+stage=export tells its top-1; set checkpoint to a supernet's weights"
            raise CheckpointError(f"checkpoint = {settings.checkpoint} is of one subnet, {self.given.spec}; {remedy}")
        if settings.weights == "random":
            return random_supernet(self.member, self._scheme(int8), int8=int8, seed=settings.seed)
        weights = self._weights(int8)
        self._match(weights.meta, str(weights.path), self.member)
        return trained_supernet(self.member, self._scheme(int8), weights, int8=int8)

    def _scheme(self, int8: bool) -> str:
        return self.settings.quant if int8 and self.settings.int8 else "deploy"

    def _weights(self, int8: bool) -> Checkpoint:
        from spaceevo.nn.models import read_supernet

        if self.settings.checkpoint is None:
            self.require_supernet(int8, self._scheme(int8), self.settings.model)
        changes = [f"space={self.member}", f"quant={self._scheme(int8) if int8 else 'off'}"]
        command = "" if self.settings.checkpoint else self.workspace.commands("supernet", *changes)
        return read_supernet(self.member, self.supernet_file(int8), int8=int8, command=command)

    @cached_property
    def given(self) -> Subnet | None:
        """The subnet whose own checkpoint is `checkpoint`; None without one, or where it is a supernet's."""
        from spaceevo.nn.loading import read_checkpoint
        from spaceevo.nn.subnets import read_subnet

        path = self.settings.checkpoint
        if path is None or not read_checkpoint(existing(path), "subnet or supernet").meta.subnet:
            return None
        return read_subnet(path, self.superspace, "")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the network's classes, by output; from now on the images are labelled as its outputs.

        Raises:
            ConfigError: the images do not fit the network.
        """
        from spaceevo.nn.checkpoint import CheckpointMeta

        if self.given is not None:
            resolution = self.given.spec.resolution
            return self._match(self.given.meta, str(self.settings.checkpoint), self.given.member, resolution)
        if self.settings.weights == "random":
            return self._match(CheckpointMeta(classes=self.data.classes), f"random supernet {self.member}", self.member)
        weights = self._weights(self.settings.int8)
        return self._match(weights.meta, str(weights.path), self.member)

    def _match(
        self, meta: CheckpointMeta, what: str, member: SpaceMember, resolution: int | None = None
    ) -> tuple[str, ...]:
        from spaceevo.lit.matching import check_shape, match_images

        superspace = member.superspace
        check_shape(self.data, superspace, resolution or max(superspace.supernet_resolutions))
        return match_images(self.data, meta, what, superspace.num_classes)


def refuse_random_from_file(weights: str, checkpoint: Path | None) -> None:
    """Raise a `ConfigError` where random weights are asked for, and a file of weights as well."""
    if weights == "random" and checkpoint is not None:
        given = f"weights = random with checkpoint = {checkpoint}"
        raise ConfigError(f"{given}; leave one of them out: random weights lie in no file")


def existing(path: Path) -> Path:
    """Return the file that `checkpoint=` names; a `CheckpointError` says that it is not there."""
    if not path.is_file():
        fault = "is no file" if path.exists() else "does not exist"
        raise CheckpointError(f"checkpoint = {path} {fault}; set it to a file of weights, or leave it out")
    return path
