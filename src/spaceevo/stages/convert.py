"""Job convert: a released checkpoint as one of ours, where the other jobs look for it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from torch import nn

from spaceevo.artifacts import Component, Layout
from spaceevo.errors import CheckpointError, ConfigError, MissingArtifactError
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_released
from spaceevo.nn.released import Released, load_parsed
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import prepare
from spaceevo.quant.quantizer import DEPLOY, PUBLISHED, Scheme
from spaceevo.stages.job import Input, Outcome, file_input
from spaceevo.stages.selection import SpaceJob
from spaceevo.stages.settings import SpaceSettings, Texts
from spaceevo.teacher import TeacherConfig, make_teacher

NEXT = {"supernet": "evaluate", "block": "block_lut", "teacher": "block_kd"}
"""The job that comes after the conversion of each kind of checkpoint."""


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(SpaceSettings):
    """Says what is converted."""

    checkpoint: Path | None  # the released file
    block: Texts  # which candidate block it is of; `all` leaves it to the name of the file's folder
    teacher: Component[TeacherConfig]


class Converted(NamedTuple):
    """Holds one of our networks that takes released weights."""

    network: nn.Module
    target: Path  # file of its weights
    meta: CheckpointMeta  # what the file says of them


class ConvertJob(SpaceJob[ConvertSettings]):
    """Writes the supernet, block or teacher of a released file under our names; what it is, its names say."""

    name = "convert"
    main_figure = "tensors"

    @property
    def source(self) -> Path:
        """The released file.

        Raises:
            ConfigError: it is not set.
            MissingArtifactError: it is not there.
        """
        path = self.settings.checkpoint
        if path is None:
            raise ConfigError("checkpoint = null; set checkpoint=<a released .pth file>")
        if not path.is_file():
            command = self.workspace.commands("convert", "checkpoint=…")
            raise MissingArtifactError("the released checkpoint", path, command)
        return path

    @cached_property
    def released(self) -> Released:
        """Its content."""
        return read_released(self.source)

    def inputs(self) -> Mapping[str, Input]:
        """Return the released file and, where that is a supernet, what decides its space where none is asked for."""
        space = super().inputs() if self.released.kind == "supernet" else {}
        return {**space, "released": file_input(self.source)}

    def work(self) -> Outcome:
        """Read, rename, write."""
        released = self.released
        make = {"supernet": self._supernet, "block": self._block, "teacher": self._teacher}[released.kind]
        network, target, meta = make()
        loaded = load_parsed(network, released, self.source)
        quant = "published" if released.int8 else "off"
        save_checkpoint(target, network, replace(meta, quant=quant, epochs=loaded.epochs))
        figures = {
            "kind": released.kind,
            "precision": "int8" if released.int8 else "fp32",
            "tensors": len(released.state) - len(loaded.unused),
            "unused_tensors": len(loaded.unused),
            "quantised_layers": loaded.quantised,
            "epochs": loaded.epochs,
        }
        changes = [f"{name}={value}" for name, value in (("space", meta.space), ("block", meta.block)) if value]
        changes.append(f"quant={quant}")
        following = self.workspace.commands(NEXT[released.kind], *changes, without=("checkpoint", "block"))
        return Outcome(figures, {"checkpoint": target}, following)

    @property
    def _scheme(self) -> Scheme:
        """fp32 networks of ours carry the quantisers of `deploy`, switched off."""
        return PUBLISHED if self.released.int8 else DEPLOY

    @property
    def _layout(self) -> Layout:
        """Names of files; released INT8 networks are of the scheme `published`, whatever `quant` is."""
        return replace(self.workspace.layout, quant="published")

    def _supernet(self) -> Converted:
        member = self.member
        target = self._layout.supernet(str(member), self.released.int8)
        return Converted(Supernet(member, self._scheme.name), target, CheckpointMeta(space=str(member)))

    def _block(self) -> Converted:
        """Make a student; which one, `block` says or, as in the published layout, the file's folder."""
        superspace, asked = self.superspace, self.settings.block
        asked = self.source.resolve().parent.name if asked in (None, "all") else asked
        match = re.fullmatch(r"(\w+)_(\d+)", str(asked))
        if match is None:
            told = f"block = {asked!r} does not say which block {self.source} is"
            raise ConfigError(f"{told}; set it, e.g. block=stage1_0")
        stage, index = match[1], int(match[2])
        channels = self._projected("in_proj", 1), self._projected("out_proj", 0)
        student = BlockStudent(superspace.stage_space(stage, index), channels, self._scheme)
        target = self._layout.block(superspace.name, stage, index, self.released.int8)
        return Converted(student, target, CheckpointMeta(block=str(asked)))

    def _projected(self, name: str, axis: int) -> int:
        """Channels on the teacher's side of a projection."""
        for key in (f"{name}.weight", f"{name}.conv.weight"):
            if key in self.released.state:
                return self.released.state[key].shape[axis]
        raise CheckpointError(f"{self.source} lacks {name}.weight; it is no student of block-wise distillation")

    def _teacher(self) -> Converted:
        config = self.workspace.make(self.settings.teacher)
        classes = self.released.classes or 1
        teacher = make_teacher(config, classes)
        if self.released.int8:
            prepare(teacher.model)
        target = self._layout.teacher(config.name, self.released.int8)
        return Converted(teacher, target, CheckpointMeta(teacher=config.name, settings={"num_classes": classes}))
