"""Stage block_lut: loss and latency of sampled sub-stages of every stage, block type and width window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from spaceevo.artifacts import fingerprint, read_json, write_json
from spaceevo.latency.blocks import place
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.checkpoint import load_state, read_checkpoint
from spaceevo.nn.losses import noise_to_signal
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import resize
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.search.lut import LutKey, LutRow, lut_file_name, lut_keys, write_lut_file
from spaceevo.space.cost import blocks_cost
from spaceevo.space.encoding import format_substage
from spaceevo.space.operators import sample_substage
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import StageSpace
from spaceevo.stages.base import Context, Outcome, StageCallback
from spaceevo.teacher import Teacher, load_teacher

MANIFEST = "manifest.json"


class Drawn(NamedTuple):
    """A sub-stage with the input it is tried on."""

    blocks: tuple[BlockChoice, ...]
    cin: int
    resolution: int


class Features(NamedTuple):
    """The teacher's features of a stage: batches of its input, and of input and output."""

    calibration: list[Tensor]
    evaluation: list[tuple[Tensor, Tensor]]


def draw_rows(space: StageSpace, resolutions: Sequence[int], count: int, seed: str) -> list[Drawn]:
    """Sub-stages drawn from a stage and window; they depend on `seed` alone."""
    rng = Random(seed)
    return [
        Drawn(sample_substage(space, rng), rng.choice(space.cins), rng.choice(list(resolutions))) for _ in range(count)
    ]


class BlockLutStage(StageCallback):
    """Writes one CSV per stage, block type and window; files whose settings and weights are unchanged are kept."""

    name = "block_lut"
    main_figure = "rows"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The INT8 teacher and students."""
        files = {"teacher": context.layout.teacher(context.teacher.name, context.int8)}
        for stage, block in _blocks(context):
            files[f"{stage}_{block}"] = context.layout.block(context.superspace.name, stage, block, context.int8)
        return files

    def work(self, context: Context) -> Outcome:
        """Make the missing files."""
        from spaceevo.artifacts import file_hash

        quant = f"quant={context.config.quant.name}"
        command = context.command("block_kd", quant)
        paths = self.inputs(context)
        for name, path in paths.items():
            if name != "teacher":
                read_checkpoint(path, f"block {name}", f"{command} block={name}")
        builder = _LutBuilder(context)
        hashes = {name: file_hash(path) if path.exists() else "library" for name, path in paths.items()}
        manifest_path = context.lut_folder / MANIFEST
        manifest = read_json(manifest_path) if manifest_path.exists() else {}
        keys = list(lut_keys(context.superspace))
        with Progress() as progress:
            task = progress.add_task("block LUT", total=len(keys))
            for key in keys:
                stage, file = context.superspace.searched[key.stage].name, lut_file_name(context.superspace, key)
                settings = {
                    name: context.plain[name] for name in ("superspace", "data", "teacher", "quant", "platform", "seed")
                }
                expected = fingerprint(
                    [settings, context.recipe, hashes["teacher"], hashes[f"{stage}_{key.block}"], file]
                )
                if manifest.get(file) != expected or not (context.lut_folder / file).exists():
                    write_lut_file(context.lut_folder / file, builder.rows(key, progress, task))
                    manifest[file] = expected
                    write_json(manifest_path, manifest)
                progress.update(task, advance=1, description=f"block LUT {file}")
        figures = {"files": len(keys), "rows": len(keys) * int(context.recipe["samples"])}
        return Outcome(figures, {"lut": context.lut_folder}, context.command("space_search"))


def _blocks(context: Context) -> Iterator[tuple[str, int]]:
    for stage in context.superspace.searched:
        for block in range(len(context.superspace.candidates)):
            yield stage.name, block


class _LutBuilder:
    """Evaluates sub-stages; the teacher's features are computed once a stage and resolution."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.superspace = context.superspace
        self.teacher: Teacher = load_teacher(
            context.teacher,
            context.layout,
            context.data.num_classes,
            context.int8,
            context.command("teacher", f"quant={context.config.quant.name}"),
        )
        self.features: dict[int, Features] = {}
        self.stage = ""
        self.student: tuple[tuple[str, int], BlockStudent] | None = None

    def rows(self, key: LutKey, progress: Progress, task: TaskID) -> list[LutRow]:
        """All rows of one file."""
        stage, recipe = self.superspace.searched[key.stage].name, self.context.recipe
        space = self.superspace.stage_space(stage, key.block, key.window)
        seed = f"{self.context.seed}-{lut_file_name(self.superspace, key)}"
        drawn = draw_rows(space, self.superspace.block_resolutions, int(recipe["samples"]), seed)
        placed = [place(space.specs(d.blocks, d.cin), self.superspace.input_hw(stage, d.resolution)) for d in drawn]
        self.context.platform.ensure(block for blocks in placed for block in blocks)
        self._load(stage, key.block)
        rows = []
        for draw, blocks in zip(drawn, placed, strict=True):
            cost, hw = blocks_cost([spec for spec, _ in blocks], blocks[0][1]), blocks[0][1]
            loss, latency = self._loss(draw), self.context.platform.predictor.blocks_ms(blocks)
            rows.append(LutRow(format_substage(draw.blocks), draw.cin, hw, loss, cost.mmacs, cost.mparams, latency))
        return rows

    def _load(self, stage: str, block: int) -> None:
        if stage != self.stage:
            self.stage, self.features = stage, self._teacher_features(stage)
        if self.student is not None and self.student[0] == (stage, block):
            return
        context = self.context
        path = context.layout.block(self.superspace.name, stage, block, context.int8)
        scheme = quant_scheme(context.config.quant.name if context.int8 else "deploy")
        channels = self.teacher.channels(*self._taps(stage))
        student = BlockStudent(self.superspace.stage_space(stage, block), (channels[0], channels[1]), scheme)
        load_state(student, read_checkpoint(path, f"block {stage}_{block}", "").state, path, strict=context.int8)
        set_quant(student, context.int8)
        self.student = (stage, block), student.eval()

    def _taps(self, stage: str) -> tuple[str, str]:
        names = [template.name for template in self.superspace.stages]
        return names[names.index(stage) - 1], stage

    def _teacher_features(self, stage: str) -> dict[int, Features]:
        recipe, data = self.context.recipe, self.context.data
        calibration = data.calibration_images()[: int(recipe["calibration_batches"])]
        evaluation = [images for images, _ in data.held_out()]
        size = int(recipe["evaluation_batch_size"])
        evaluation = [part for images in evaluation for part in images.split(size)][: int(recipe["evaluation_batches"])]
        found = {}
        for resolution in self.superspace.block_resolutions:
            pairs = [self.teacher.features(resize(images, resolution), *self._taps(stage)) for images in evaluation]
            inputs = [self.teacher.features(resize(i, resolution), self._taps(stage)[0])[0] for i in calibration]
            found[resolution] = Features(inputs, [(pair[0], pair[1]) for pair in pairs])
        return found

    @torch.no_grad()
    def _loss(self, draw: Drawn) -> float:
        assert self.student is not None
        student, features = self.student[1], self.features[draw.resolution]
        student.activate(draw.blocks, draw.cin)
        recalibrate(student, features.calibration, student)
        variance_of = self.context.recipe["variance_of"]
        losses = [float(noise_to_signal(student(x), y, variance_of)) for x, y in features.evaluation]
        return sum(losses) / len(losses)
