"""Stage block_lut: loss and latency of sampled sub-stages of every stage, block type and width window."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from spaceevo.artifacts import file_hash, fingerprint, write_text
from spaceevo.errors import ConfigError
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.losses import VarianceOf, noise_to_signal
from spaceevo.nn.memory import channels_last
from spaceevo.nn.student import BlockStudent
from spaceevo.quant.prepare import quantizers
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.search.lut import LutKey, LutRow, lut_file_name, lut_keys, write_lut_file
from spaceevo.space.cost import blocks_cost
from spaceevo.space.encoding import format_substage
from spaceevo.space.operators import sample_substage
from spaceevo.space.placement import place
from spaceevo.space.selection import parse_blocks, parse_windows
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import StageSpace, Superspace
from spaceevo.stages.base import Context, Outcome, StageCallback
from spaceevo.stages.features import Features, TeacherFeatures, TensorStore
from spaceevo.teacher import Teacher, load_teacher
from spaceevo.terminal import progress


class Drawn(NamedTuple):
    """A sub-stage with the input it is tried on."""

    blocks: tuple[BlockChoice, ...]
    cin: int
    resolution: int


def draw_rows(space: StageSpace, resolutions: Sequence[int], count: int, seed: str) -> list[Drawn]:
    """Sub-stages drawn from a stage and window; they depend on `seed` alone."""
    rng = Random(seed)
    return [
        Drawn(sample_substage(space, rng), rng.choice(space.cins), rng.choice(list(resolutions))) for _ in range(count)
    ]


@torch.no_grad()
def substage_loss(
    student: BlockStudent, blocks: Sequence[BlockChoice], cin: int, features: Features, variance_of: VarianceOf
) -> float:
    """NSR of one sub-stage, batch norm recalibrated first.

    Quantisers that training never reached are set by the sub-stage at hand and forgotten, so that the loss does not
    depend on which sub-stages came before.
    """
    untrained = [quantizer for quantizer in quantizers(student).values() if not quantizer.initialized]
    student.activate(blocks, cin)
    device = next(student.parameters()).device
    recalibrate(student, features.calibration, lambda x: student(x.to(device)))
    total = torch.zeros((), device=device)
    for source, output, variance in features.evaluation:
        estimate = student(source.to(device))
        total += noise_to_signal(estimate, output.to(device), variance_of, variance.to(device))
    for quantizer in untrained:
        quantizer.forget()
    return float(total) / len(features.evaluation)


class UnfinishedTable:
    """The finished rows of a table that is being made, a line each, so that a killed run goes on at the next row.

    Args:
        path: the file; a line at its top says from which settings and inputs the rows come.
        mark: that line; a file with another one is begun anew.
    """

    def __init__(self, path: Path, mark: str) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []  # the last may be torn
        self.rows = [LutRow.parse(line) for line in lines[1:]] if lines and lines[0] == mark else []
        write_text(path, "".join(f"{line}\n" for line in (mark, *self.rows)))

    def append(self, row: LutRow) -> None:
        """Keep a row, rounded as the file has it."""
        row = LutRow.parse(str(row))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{row}\n")
        self.rows.append(row)


class BlockLutStage(StageCallback):
    """Writes one CSV per stage, block type and window; files whose settings and weights are unchanged are kept.

    Each file is made on its own: jobs for different blocks or windows may run at the same time into one folder.
    """

    name = "block_lut"
    main_figure = "rows"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The teacher and the students asked for."""
        files = {"teacher": context.layout.teacher(context.teacher.name, context.int8)}
        for stage, block in parse_blocks(context.superspace, context.plain["block"]):
            files[f"{stage}_{block}"] = context.layout.block(context.superspace.name, stage, block, context.int8)
        return files

    def work(self, context: Context) -> Outcome:
        """Make the missing files."""
        keys, paths = asked_keys(context), self.inputs(context)
        command = context.command("block_kd", f"quant={context.config.quant.name}")
        for name, path in paths.items():
            if name != "teacher":
                read_checkpoint(path, f"block {name}", f"{command} block={name}")
        hashes = {name: file_hash(path) if path.exists() else "library" for name, path in paths.items()}
        settings = {
            name: context.plain[name] for name in ("superspace", "data", "teacher", "quant", "platform", "seed")
        }
        recipe = {name: value for name, value in context.recipe.items() if name != "cache_mib"}
        due: dict[LutKey, str] = {}
        for key in keys:
            file, block = lut_file_name(context.superspace, key), block_name(context.superspace, key)
            mark = fingerprint([settings, recipe, hashes["teacher"], hashes[block], file])
            made = context.lut_folder / ".made" / file
            if not (context.lut_folder / file).exists() or not made.exists() or made.read_text() != mark:
                due[key] = mark
        if due:
            _make_tables(context, due)
        figures = {"files": len(keys), "rows": len(keys) * int(context.recipe["samples"]), "files_made": len(due)}
        return Outcome(figures, {"lut": context.lut_folder}, context.command("space_search"))


def block_name(superspace: Superspace, key: LutKey) -> str:
    """Name of a table's candidate block, e.g. `stage1_0`."""
    return f"{superspace.searched[key.stage].name}_{key.block}"


def asked_keys(context: Context) -> list[LutKey]:
    """The tables that `block` and `window` ask for.

    Raises:
        ConfigError: a name is unknown, or no stage asked for has such a window.
    """
    superspace = context.superspace
    blocks = {f"{stage}_{index}" for stage, index in parse_blocks(superspace, context.plain["block"])}
    windows = parse_windows(superspace, context.plain["window"])
    keys = [key for key in lut_keys(superspace) if block_name(superspace, key) in blocks and key.window in windows]
    if not keys:
        raise ConfigError(f"window = {context.plain['window']}: no stage of block = {context.plain['block']} has it")
    return keys


def _make_tables(context: Context, due: dict[LutKey, str]) -> None:
    folder, samples = context.lut_folder, int(context.recipe["samples"])
    scratch = folder / ".features" / fingerprint(list(due.values()))
    try:
        with progress() as bar:
            builder = _LutBuilder(context, list(due), scratch, bar)
            task = bar.add_task("block LUT", total=len(due) * samples)
            for key, mark in due.items():
                file = lut_file_name(context.superspace, key)
                bar.update(task, description=f"block LUT {file}")
                unfinished = UnfinishedTable(folder / ".unfinished" / file, mark)
                builder.fill(key, unfinished, bar, task)
                write_lut_file(folder / file, unfinished.rows)
                write_text(folder / ".made" / file, mark)
                unfinished.path.unlink()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _LutBuilder:
    """Evaluates sub-stages on the teacher's features, which are computed once a batch and resolution for all stages."""

    def __init__(self, context: Context, keys: Sequence[LutKey], scratch: Path, bar: Progress) -> None:
        self.context = context
        self.superspace = context.superspace
        self.device = context.device
        teacher: Teacher = load_teacher(
            context.teacher,
            context.layout,
            context.data.num_classes,
            context.int8,
            context.command("teacher", f"quant={context.config.quant.name}"),
        )
        names = [template.name for template in self.superspace.stages]
        stages = dict.fromkeys(self.superspace.searched[key.stage].name for key in keys)
        self.taps = {stage: (names[names.index(stage) - 1], stage) for stage in stages}
        every = sorted({name for pair in self.taps.values() for name in pair})
        self.channels = dict(zip(every, teacher.channels(*every), strict=True))
        self.features = self._teacher_features(teacher, scratch, bar)
        self.student: tuple[str, BlockStudent] | None = None

    def fill(self, key: LutKey, table: UnfinishedTable, bar: Progress, task: TaskID) -> None:
        """Add the rows that a table lacks."""
        stage, recipe = self.superspace.searched[key.stage].name, self.context.recipe
        space = self.superspace.stage_space(stage, key.block, key.window)
        seed = f"{self.context.seed}-{lut_file_name(self.superspace, key)}"
        drawn = draw_rows(space, self.superspace.block_resolutions, int(recipe["samples"]), seed)
        placed = [place(space.specs(d.blocks, d.cin), self.superspace.input_hw(stage, d.resolution)) for d in drawn]
        latencies = self.context.platform.rows_ms(placed)
        student, done = self._load(stage, key), len(table.rows)
        bar.update(task, advance=done)
        for draw, blocks, latency in list(zip(drawn, placed, latencies, strict=True))[done:]:
            features = self.features.of(stage, draw.resolution)
            loss = substage_loss(student, draw.blocks, draw.cin, features, recipe["variance_of"])
            cost, hw = blocks_cost([spec for spec, _ in blocks], blocks[0][1]), blocks[0][1]
            table.append(LutRow(format_substage(draw.blocks), draw.cin, hw, loss, cost.mmacs, cost.mparams, latency))
            bar.update(task, advance=1)

    def _load(self, stage: str, key: LutKey) -> BlockStudent:
        name, context = block_name(self.superspace, key), self.context
        if self.student is None or self.student[0] != name:
            path = context.layout.block(self.superspace.name, stage, key.block, context.int8)
            scheme = quant_scheme(context.config.quant.name if context.int8 else "deploy")
            source, target = self.taps[stage]
            space = self.superspace.stage_space(stage, key.block)
            student = BlockStudent(space, (self.channels[source], self.channels[target]), scheme)
            read_checkpoint(path, f"block {name}").load_into(student, int8=context.int8)
            self.student = name, channels_last(student).to(self.device).eval()
        return self.student[1]

    def _teacher_features(self, teacher: Teacher, scratch: Path, bar: Progress) -> TeacherFeatures:
        recipe, data, resolutions = self.context.recipe, self.context.data, self.superspace.block_resolutions
        calibration = data.calibration_images()[: int(recipe["calibration_batches"])]
        evaluation = first_batches(data.held_out(), int(recipe["evaluation_batch_size"]), recipe["evaluation_batches"])
        total = len(resolutions) * (len(calibration) + len(evaluation))
        task = bar.add_task("teacher's features", total=total)
        store = TensorStore(scratch, float(recipe["cache_mib"]))
        return TeacherFeatures(
            *(teacher, self.taps, resolutions, calibration, evaluation, store, self.device),
            step=lambda: bar.update(task, advance=1),
        )


def first_batches(batches: Iterable[tuple[Tensor, Tensor]], size: int, count: int) -> list[Tensor]:
    """The first `count` batches of `size` images `(N, 3, H, W)`; no more images than needed are loaded."""
    found: list[Tensor] = []
    for images, _ in batches:
        found.append(images)
        if sum(map(len, found)) >= size * count:
            break
    return list(torch.split(torch.cat(found)[: size * count], size))
