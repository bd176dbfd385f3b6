"""Job block_lut: loss and latency of sampled sub-stages of every stage, block type and width window."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from pydantic import FiniteFloat
from rich.progress import Progress, TaskID

from spaceevo.artifacts import Component, Neutral, file_hash, fingerprint
from spaceevo.errors import ConfigError, MissingArtifactError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.losses import VarianceOf
from spaceevo.nn.memory import channels_last
from spaceevo.nn.student import BlockStudent
from spaceevo.platforms.base import Platform
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.search.lut import LutKey, LutRow, lut_file_name, lut_keys
from spaceevo.space.cost import blocks_cost
from spaceevo.space.encoding import format_substage
from spaceevo.space.placement import place
from spaceevo.space.selection import parse_blocks, parse_windows
from spaceevo.space.superspace import Superspace
from spaceevo.stages.features import TeacherFeatures, TensorStore
from spaceevo.stages.job import Input, Job, Made, Outcome, file_input, images_input, platform_input
from spaceevo.stages.lut_files import LutFile, Sampled, first_batches, sample_rows, substage_loss
from spaceevo.stages.selection import read_superspace
from spaceevo.stages.settings import Count, Numbers, Quant, Seed, Texts
from spaceevo.teacher import Teacher, TeacherConfig, load_teacher
from spaceevo.terminal import progress

PARTS = ("block", "window")
"""Settings that say which of the tables are made, not what is in them."""


@dataclass(frozen=True)
class BlockLutRecipe:
    """Says how much is tried."""

    samples: Count  # rows of each table
    calibration_batches: Count  # batches of images for the batch norm of each sub-stage
    evaluation_batches: Count  # batches of images for its loss
    evaluation_batch_size: Count  # images in each of the latter
    # MiB of the teacher's features kept in memory
    cache_mib: Annotated[FiniteFloat, Ge(0), Neutral("says where features lie, not which")]
    variance_of: VarianceOf  # whose variance the loss is relative to


@dataclass(frozen=True)
class BlockLutSettings:
    """Says which tables are made, and from what."""

    superspace: Mapping[str, Any]  # description of the superspace
    data: Component[ImageFolderDataModule]  # the images
    teacher: Component[TeacherConfig]  # the teacher
    quant: Quant  # scheme of the INT8 students, or `off`
    platform: Component[Platform]  # the platform that latencies come from
    seed: Seed  # decides what is sampled
    block: Texts  # candidate blocks, e.g. `stage1_0`; `stage1` for all of a stage, or `all`
    window: Numbers  # width windows; None for all
    recipe: BlockLutRecipe  # how much is tried
    threads: Count | None  # threads of torch; None leaves them to it


class BlockLutJob(Job[BlockLutSettings]):
    """Writes one CSV per stage, block type and window; files from which nothing differs are kept.

    Each file is made on its own: jobs for different blocks or windows may run at the same time into one folder.
    """

    name = "block_lut"
    main_figure = "rows"
    data = Made[ImageFolderDataModule]()
    teacher = Made[TeacherConfig]()
    platform = Made[Platform]()

    @cached_property
    def superspace(self) -> Superspace:
        """The superspace."""
        return read_superspace(self.settings.superspace)

    @property
    def int8(self) -> bool:
        """Whether students are quantised."""
        return self.settings.quant != "off"

    @cached_property
    def keys(self) -> list[LutKey]:
        """The tables asked for.

        Raises:
            ConfigError: a name is unknown, or no stage asked for has such a window.
        """
        superspace, settings = self.superspace, self.settings
        blocks = {
            f"{stage}_{index}"
            for stage, index in parse_blocks(superspace, "all" if settings.block is None else settings.block)
        }
        windows = parse_windows(superspace, settings.window)
        found = [key for key in lut_keys(superspace) if block_name(superspace, key) in blocks and key.window in windows]
        if not found:
            raise ConfigError(f"window = {settings.window}: no stage of block = {settings.block} has it")
        return found

    @cached_property
    def students(self) -> dict[str, Path]:
        """Checkpoints of the candidate blocks asked for, by their names."""
        layout, name = self.workspace.layout, self.superspace.name
        keys = {block_name(self.superspace, key): key for key in self.keys}
        return {
            block: layout.block(name, self.superspace.searched[key.stage].name, key.block, self.int8)
            for block, key in keys.items()
        }

    def inputs(self) -> Mapping[str, Input]:
        """Return images, latencies and weights, and the tables themselves: one that is not as it was made is due."""
        paths = [self.workspace.lut / lut_file_name(self.superspace, key) for key in self.keys]

        def tables(_: object) -> str:
            return fingerprint([file_hash(path) if path.is_file() else "" for path in paths])

        return {
            "images": images_input(self.data),
            "platform": platform_input(self.platform),
            "teacher": file_input(self.workspace.layout.teacher(self.teacher.name, self.int8)),
            **{name: file_input(path) for name, path in self.students.items()},
            "tables": Input(tables, grows=True),
        }

    def work(self) -> Outcome:
        """Make the tables that are missing or out of date.

        Raises:
            MissingArtifactError: a student has not been distilled.
        """
        command = self.workspace.commands("block_kd", f"quant={self.settings.quant}", without=("window",))
        for name, path in self.students.items():
            if not path.is_file():
                raise MissingArtifactError(f"block {name}", path, command)
        files = self._files()
        for file in files.values() if self.workspace.force else ():
            file.forget()
        due = {key: file for key, file in files.items() if not file.is_current()}
        if due:
            self._make(due)
        rows = len(files) * self.settings.recipe.samples
        figures = {"files": len(files), "rows": rows, "files_made": len(due)}
        following = self.workspace.commands("space_search", without=PARTS)
        return Outcome(figures, {"lut": self.workspace.lut}, following, str(self.workspace.device))

    def _files(self) -> dict[LutKey, LutFile]:
        """The tables asked for, each with what decides it."""
        inputs = self.inputs()
        shared = {name: inputs[name].state(None) for name in ("images", "teacher")}
        deciding = {name: value for name, value in self.identity.items() if name.partition(".")[0] not in PARTS}
        files = {}
        for key in self.keys:
            file = lut_file_name(self.superspace, key)
            student = inputs[block_name(self.superspace, key)].state(None)
            origin = fingerprint([deciding, shared, student, file])
            files[key] = LutFile(self.workspace.lut / file, origin, inputs["platform"])
        return files

    def _make(self, due: Mapping[LutKey, LutFile]) -> None:
        scratch = self.workspace.lut / ".features" / fingerprint([file.origin for file in due.values()])
        try:
            with progress() as bar:
                builder = _LutBuilder(self, list(due), scratch, bar)
                task = bar.add_task("block LUT", total=len(due) * self.settings.recipe.samples)
                for key, file in due.items():
                    bar.update(task, description=f"block LUT {file.path.name}")
                    builder.fill(key, file, bar, task)
                    file.finish()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def block_name(superspace: Superspace, key: LutKey) -> str:
    """Return the name of a table's candidate block, e.g. `stage1_0`."""
    return f"{superspace.searched[key.stage].name}_{key.block}"


class _LutBuilder:
    """Evaluates sub-stages on the teacher's features, which are computed once a batch and resolution for all stages."""

    def __init__(self, job: BlockLutJob, keys: Sequence[LutKey], scratch: Path, bar: Progress) -> None:
        self.job = job
        self.recipe = job.settings.recipe
        self.superspace = job.superspace
        self.device = job.workspace.device
        command = job.workspace.commands("teacher", f"quant={job.settings.quant}", without=PARTS)
        classes = job.data.num_classes
        teacher: Teacher = load_teacher(job.teacher, job.workspace.layout, classes, job.int8, command)
        names = [template.name for template in self.superspace.stages]
        stages = dict.fromkeys(self.superspace.searched[key.stage].name for key in keys)
        self.taps = {stage: (names[names.index(stage) - 1], stage) for stage in stages}
        every = sorted({name for pair in self.taps.values() for name in pair})
        self.channels = dict(zip(every, teacher.channels(*every), strict=True))
        self.features = self._teacher_features(teacher, scratch, bar)
        self.student: tuple[str, BlockStudent] | None = None

    def fill(self, key: LutKey, file: LutFile, bar: Progress, task: TaskID) -> None:
        """Add the rows that a table lacks."""
        stage = self.superspace.searched[key.stage].name
        space = self.superspace.stage_space(stage, key.block, key.window)
        hws = {
            resolution: self.superspace.input_hw(stage, resolution) for resolution in self.superspace.block_resolutions
        }
        seed = f"{self.job.settings.seed}-{file.path.name}"
        sampled = sample_rows(space, hws, self.recipe.samples, seed)
        placed = [place(space.specs(one.blocks, one.cin), one.hw) for one in sampled]
        latencies_ms = self.job.platform.rows_ms(placed)
        student = self._load(stage, key)
        done = file.begin(sampled)
        bar.update(task, advance=done)
        for one, blocks, latency_ms in list(zip(sampled, placed, latencies_ms, strict=True))[done:]:
            loss = self._loss(student, stage, one)
            cost = blocks_cost([spec for spec, _ in blocks], one.hw)
            substage = format_substage(one.blocks)
            file.append(LutRow(substage, one.cin, one.hw, loss, cost.mmacs, cost.mparams, latency_ms))
            bar.update(task, advance=1)

    def _loss(self, student: BlockStudent, stage: str, one: Sampled) -> float:
        features = self.features.of(stage, one.resolution)
        return substage_loss(student, one.blocks, one.cin, features, self.recipe.variance_of)

    def _load(self, stage: str, key: LutKey) -> BlockStudent:
        name = block_name(self.superspace, key)
        if self.student is None or self.student[0] != name:
            path = self.job.students[name]
            int8 = self.job.int8
            scheme = quant_scheme(self.job.settings.quant if int8 else "deploy")
            source, target = self.taps[stage]
            space = self.superspace.stage_space(stage, key.block)
            student = BlockStudent(space, (self.channels[source], self.channels[target]), scheme)
            read_checkpoint(path, f"block {name}").load_into(student, int8=int8)
            self.student = name, channels_last(student).to(self.device).eval()
        return self.student[1]

    def _teacher_features(self, teacher: Teacher, scratch: Path, bar: Progress) -> TeacherFeatures:
        recipe, data = self.recipe, self.job.data
        calibration = data.calibration_images()[: recipe.calibration_batches]
        evaluation = first_batches(data.held_out(), recipe.evaluation_batch_size, recipe.evaluation_batches)
        resolutions = self.superspace.block_resolutions
        task = bar.add_task("teacher's features", total=len(resolutions) * (len(calibration) + len(evaluation)))
        return TeacherFeatures(
            teacher,
            self.taps,
            resolutions,
            calibration,
            evaluation,
            TensorStore(scratch, recipe.cache_mib),
            self.device,
            step=lambda: bar.update(task, advance=1),
        )
