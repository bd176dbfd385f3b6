"""Job block_lut: loss and latency of sampled sub-stages of every stage, block type and width window."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from rich.progress import Progress, TaskID

from spaceevo.artifacts import Component, Neutral, Plain, file_hash, fingerprint, sole_worker, values
from spaceevo.artifacts.work import Amount, Extent, Scale
from spaceevo.errors import ConfigError, choices
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.matching import check_shape, check_transform, tell_transform
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.losses import VarianceOf
from spaceevo.nn.memory import channels_last
from spaceevo.nn.student import BlockStudent
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import BLOCKS, MeasuringPlatform
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.search.lut import LutKey, LutRow, lut_file_name, lut_keys, lut_record
from spaceevo.space.cost import blocks_cost
from spaceevo.space.encoding import format_substage
from spaceevo.space.placement import PlacedBlock
from spaceevo.space.selection import parse_blocks, parse_windows
from spaceevo.stages.features import FEATURES, TeacherFeatures, TensorStore
from spaceevo.stages.job import Input, Made, Outcome, file_input, images_input, platform_input
from spaceevo.stages.lut_files import LutFile, Sampled, first_batches, placed_rows, substage_loss
from spaceevo.stages.selection import SuperspaceJob
from spaceevo.stages.settings import Blocks, Count, NetworkSettings, Numbers
from spaceevo.teacher import TeacherConfig, load_teacher, tap_channels, teacher_taps
from spaceevo.terminal import console, doing, progress

ROWS = "rows"  # A kind of work
FIRST_ROWS = 5000  # Of all tables, whose blocks are counted, and measured together; further rows add few
PARTS = ("block", "window")  # Settings that say which of the tables are made, not what is in them


@dataclass(frozen=True)
class BlockLutRecipe:
    """Says how much is tried."""

    samples: Count  # rows of each table
    calibration_batches: Count  # batches of images for the batch norm of each sub-stage
    evaluation_batches: Count  # batches of images for its loss
    evaluation_batch_size: Count  # images in each of the latter
    # MiB of the teacher's features kept in memory
    cache_mib: Annotated[values.Amount, Neutral("says where features lie, not which")]
    variance_of: VarianceOf  # whose variance the loss is relative to


@dataclass(frozen=True, kw_only=True)
class BlockLutSettings(NetworkSettings):
    """Says which tables are made, and from what."""

    teacher: Component[TeacherConfig]
    platform: Component[Platform]  # where latencies come from
    block: Blocks | None  # candidate blocks, e.g. `stage1_0`; `stage1` for all of a stage, or `all`
    window: Numbers  # width windows; None for all
    recipe: BlockLutRecipe  # how much is tried


class BlockLutJob(SuperspaceJob[BlockLutSettings]):
    """Writes one CSV per stage, block type and window; files from which nothing differs are kept.

    Each file is made on its own: jobs for different blocks or windows may run at the same time into one folder.
    """

    name = "block_lut"
    main_figure = "rows"
    data = Made[ImageFolderDataModule]()
    teacher = Made[TeacherConfig]()
    platform = Made[Platform]()

    def check(self) -> None:
        """Tell also names of blocks and windows that the superspace does not have."""
        super().check()
        _ = self.blocks

    @property
    def int8(self) -> bool:
        """Whether students are quantised."""
        return self.settings.int8

    @cached_property
    def _named(self) -> dict[LutKey, str]:
        """Names of the candidate blocks by all tables of the superspace."""
        searched = self.superspace.searched
        return {key: f"{searched[key.stage].name}_{key.block}" for key in lut_keys(self.superspace)}

    @cached_property
    def blocks(self) -> dict[LutKey, str]:
        """The tables asked for, each with the name of its candidate block, e.g. `stage1_0`.

        Raises:
            ConfigError: a name is unknown, or no stage asked for has such a window.
        """
        superspace, block, window = self.superspace, self.settings.block, self.settings.window
        asked = {f"{stage}_{index}" for stage, index in parse_blocks(superspace, "all" if block is None else block)}
        windows = parse_windows(superspace, window)
        found = {key: name for key, name in self._named.items() if name in asked and key.window in windows}
        if not found:
            raise ConfigError(f"window = {window}: no stage of block = {block} has it")
        return found

    @cached_property
    def students(self) -> dict[str, Path]:
        """Checkpoints of the candidate blocks asked for, by their names."""
        layout, superspace = self.workspace.layout, self.superspace
        return {
            name: layout.block(superspace.name, superspace.searched[key.stage].name, key.block, self.int8)
            for key, name in self.blocks.items()
        }

    def inputs(self) -> Mapping[str, Input]:
        """Return images, latencies and weights, and the tables themselves: one that is not as it was made is due."""
        tables = [self.workspace.lut / lut_file_name(self.superspace, key) for key in self.blocks]
        paths = [*tables, *map(lut_record, tables)]

        def made(_: object) -> str:
            return fingerprint([file_hash(path) if path.is_file() else "" for path in paths])

        return {
            "images": images_input(self.data),
            "platform": platform_input(self.platform),
            "teacher": file_input(self.workspace.layout.teacher(self.teacher.name, self.int8)),
            **{name: file_input(path) for name, path in self.students.items()},
            "tables": Input(made, grows=True),
        }

    @property
    def block_names(self) -> Sequence[str]:
        """The blocks that have tables."""
        return [*self.blocks.values()]

    def amounts(self) -> Mapping[str, Amount]:
        """Return the images that the teacher sees at each resolution, the rows, and the blocks to measure."""
        recipe, data, rows = self.settings.recipe, self.data, len(self.blocks) * self.settings.recipe.samples
        batches = min(recipe.calibration_batches, data.calibration_batches)
        calibration = min(len(data.splits.train), batches * data.calibration_batch_size)
        held_out = min(len(data.splits.held_out), recipe.evaluation_batches * recipe.evaluation_batch_size)
        images = calibration + held_out
        times = len(self.superspace.block_resolutions)
        return {FEATURES: Amount(times, images), ROWS: Amount(rows, images), BLOCKS: Amount(self._unmeasured[-1])}

    def scales(self) -> Sequence[Scale]:
        """Return the rows of each table; most of the blocks to measure are in the first ones."""
        samples, amounts = self.settings.recipe.samples, {BLOCKS: self._unmeasured}
        return [Scale("recipe.samples", samples, (ROWS, BLOCKS), amounts=amounts, least=self._least_rows)]

    def reduced(self, extent: Extent) -> Mapping[str, Plain]:
        """Fill a few rows of each table, under a teacher that may be untrained."""
        return {"recipe.samples": extent.repeats, "teacher.weights": "random"}

    def sampled(self, key: LutKey, file: str, count: int) -> list[tuple[Sampled, list[PlacedBlock]]]:
        """Sample sub-stages of the table of a file, each with its blocks where they lie."""
        return placed_rows(self.superspace, key, count, f"{self.settings.seed}-{file}")

    @cached_property
    def _least_rows(self) -> int:
        """Count the rows after which every table has one of each input size, without which no space can be scored."""
        asked, least = self.settings.recipe.samples, 1
        for key in self.blocks:
            while least < asked and self._lacks_size(key, least):
                least += 1
        return least

    def _lacks_size(self, key: LutKey, count: int) -> bool:
        """Whether so many rows of a table have none of some input size."""
        stage, superspace = self.superspace.searched[key.stage].name, self.superspace
        sizes = {superspace.input_hw(stage, it) for it in superspace.block_resolutions}
        return bool(sizes - {row.hw for row, _ in self.sampled(key, lut_file_name(superspace, key), count)})

    @cached_property
    def _unmeasured(self) -> list[int]:
        """Count the blocks to be measured for 1, 2, … rows of each table, of at most so many."""
        if not isinstance(self.platform, MeasuringPlatform):
            return [0]
        count = min(self.settings.recipe.samples, max(1, FIRST_ROWS // len(self.blocks)))
        tables = [self.sampled(key, lut_file_name(self.superspace, key), count) for key in self.blocks]
        first, found, counts = self.platform.measured_first(self.superspace), set[str](), []
        for rows in zip(*tables, strict=True):
            found |= self.platform.unmeasured(block for _, placed in rows for block in placed) - first
            counts.append(len(found))
        return counts

    def work(self) -> Outcome:
        """Make the tables that are missing or out of date.

        Raises:
            MissingArtifactError: a student has not been distilled.
            ConfigError: one was, on images that went through something else.
        """
        command = self.workspace.commands("block_kd", f"quant={self.settings.quant}", without=("window",))
        check_shape(self.data, self.superspace, max(self.superspace.block_resolutions))
        for name, path in self.students.items():
            check_transform(self.data, read_checkpoint(path, f"block {name}", command).meta, str(path))
        files = self._files()
        for file in files.values() if self.workspace.force else ():
            file.forget()
        due = {key: file for key, file in files.items() if not file.is_current()}
        if due:
            self._tell_of_few_rows(due)
            self._ask_latencies(due)
            self._make(due)
        rows = len(files) * self.settings.recipe.samples
        figures = {"files": len(files), "rows": rows, "files_made": len(due)}
        return Outcome(figures, {"lut": self.workspace.lut}, self._next(), str(self.workspace.device), growing=("lut",))

    def _next(self) -> str:
        """Search where every table is there; else make the others, blocks without weights first."""
        commands, layout, superspace = self.workspace.commands, self.workspace.layout, self.superspace
        left = {
            name: layout.block(superspace.name, superspace.searched[key.stage].name, key.block, self.int8)
            for key, name in self._named.items()
            if not (self.workspace.lut / lut_file_name(superspace, key)).is_file()
        }
        if untrained := [name for name, path in left.items() if not path.is_file()]:
            return commands("block_kd", f"block=[{','.join(untrained)}]", without=("window",))
        return commands("block_lut" if left else "space_search", without=PARTS)

    def _files(self) -> dict[LutKey, LutFile]:
        """The tables asked for, each with what decides it."""
        inputs = self.inputs()
        shared = {name: inputs[name].state(None) for name in ("images", "teacher")}
        deciding = {name: value for name, value in self.identity.items() if name.partition(".")[0] not in PARTS}
        files = {}
        for key, name in self.blocks.items():
            file = lut_file_name(self.superspace, key)
            origin = fingerprint([deciding, shared, inputs[name].state(None), file])
            files[key] = LutFile(self.workspace.lut / file, origin, inputs["platform"])
        return files

    def _tell_of_few_rows(self, due: Mapping[LutKey, LutFile]) -> None:
        """Say which tables the space search will refuse, before they are made."""
        samples = self.settings.recipe.samples
        if few := [file.path.name for key, file in due.items() if self._lacks_size(key, samples)]:
            console.print(
                f"block_lut: recipe.block_lut.samples = {samples} rows a table are too few to score spaces by: "
                f"{choices(few, limit=3)} will have none of some resolution; sample more"
            )

    def _ask_latencies(self, due: Mapping[LutKey, LutFile]) -> None:
        """Let the platform say what it does not know, or measure it, before the teacher works.

        Blocks of all tables are measured together: in small numbers each would wait for a still moment.
        """
        self.platform.ready(self.superspace)
        count = min(self.settings.recipe.samples, max(1, FIRST_ROWS // len(due)))
        rows = [row for key, file in due.items() for row in self.sampled(key, file.path.name, count)]
        self.platform.rows_ms([placed for _, placed in rows])

    def _make(self, due: Mapping[LutKey, LutFile]) -> None:
        scratch = self.workspace.lut / ".features" / fingerprint([file.origin for file in due.values()])
        try:
            with progress() as bar:
                builder = _LutBuilder(self, list(due), scratch, bar)
                task = bar.add_task("block LUT", total=len(due) * self.settings.recipe.samples)
                # the first type of every stage, then the next: rows of one stage take longer than those of another, and
                # those done foretell the others
                for key, file in sorted(due.items(), key=lambda table: (table[0].block, table[0].stage)):
                    bar.update(task, description=f"block LUT {file.path.name}")
                    with sole_worker(file.unfinished.with_suffix(".lock"), console.print):
                        if not file.is_current():  # another process may have made it meanwhile
                            builder.fill(key, file, bar, task)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


class _LutBuilder:
    """Evaluates sub-stages on the teacher's features, which are computed once a batch and resolution for all stages."""

    def __init__(self, job: BlockLutJob, keys: Sequence[LutKey], scratch: Path, bar: Progress) -> None:
        self.job = job
        self.recipe = job.settings.recipe
        self.student: tuple[str, BlockStudent] | None = None
        command = job.workspace.commands("teacher", f"quant={job.settings.quant}", without=PARTS)
        layout, classes, channels = job.workspace.layout, job.data.num_classes, job.superspace.input_channels
        teacher = load_teacher(job.teacher, layout, classes, job.int8, command, channels)
        tell_transform(job.data, teacher.meta, f"teacher {job.teacher.name}")
        stages = dict.fromkeys(job.superspace.searched[key.stage].name for key in keys)
        self.taps = {stage: teacher_taps(job.superspace, stage) for stage in stages}
        self.channels = tap_channels(teacher, job.superspace, stages)
        calibration = job.data.calibration_images()[: self.recipe.calibration_batches]
        size, count = self.recipe.evaluation_batch_size, self.recipe.evaluation_batches
        evaluation = first_batches(job.data.held_out(), size, count)
        resolutions = job.superspace.block_resolutions
        task = bar.add_task("teacher's features", total=len(resolutions) * (len(calibration) + len(evaluation)))
        self.features = TeacherFeatures(
            teacher,
            self.taps,
            resolutions,
            calibration,
            evaluation,
            TensorStore(scratch, self.recipe.cache_mib),
            job.workspace.device,
            step=lambda: bar.update(task, advance=1),
        )

    def fill(self, key: LutKey, file: LutFile, bar: Progress, task: TaskID) -> None:
        """Add the rows that a table lacks."""
        recipe, stage = self.recipe, self.job.superspace.searched[key.stage].name
        rows = self.job.sampled(key, file.path.name, self.recipe.samples)
        tried, placed = [one for one, _ in rows], [blocks for _, blocks in rows]
        latencies_ms = self.job.platform.rows_ms(placed)
        student = self._load(stage, key)
        done = file.begin(tried)
        bar.update(task, advance=done)
        for one, blocks, latency_ms in list(zip(tried, placed, latencies_ms, strict=True))[done:]:
            features = self.features.of(stage, one.resolution)
            with doing(ROWS):
                loss = substage_loss(student, one.blocks, one.cin, features, recipe.variance_of)
            cost = blocks_cost([spec for spec, _ in blocks], one.hw)
            substage = format_substage(one.blocks)
            file.append(LutRow(substage, one.cin, one.hw, loss, cost.mmacs, cost.mparams, latency_ms))
            bar.update(task, advance=1)
        file.finish(tried)

    def _load(self, stage: str, key: LutKey) -> BlockStudent:
        """A candidate block's student; the windows of a block share it."""
        job, name = self.job, self.job.blocks[key]
        if self.student is None or self.student[0] != name:
            source, target = (self.channels[tap] for tap in self.taps[stage])
            scheme = quant_scheme(job.settings.quant if job.int8 else "deploy")
            student = BlockStudent(job.superspace.stage_space(stage, key.block), (source, target), scheme)
            read_checkpoint(job.students[name], f"block {name}").load_into(student, int8=job.int8)
            self.student = name, channels_last(student).to(job.workspace.device).eval()
        return self.student[1]
