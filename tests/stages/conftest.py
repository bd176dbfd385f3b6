"""Jobs run in this process, on a composed configuration, in a small world of their own."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from spaceevo.artifacts import Layout, StageResult
from spaceevo.artifacts.progress import JobProgress
from spaceevo.jobs.runner import run
from spaceevo.latency.table import LatencyTable
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.search.lut import LutRow, lut_file_name, lut_keys, write_lut_file
from spaceevo.space.cost import blocks_cost
from spaceevo.space.description import conf_folder, superspace
from spaceevo.space.placement import block_key
from spaceevo.space.walk import output_hw
from spaceevo.teacher import make_teacher
from tests.composing import composed

Compose = Callable[..., DictConfig]
RunStage = Callable[..., StageResult]
MadeAnew = Callable[[DictConfig], bool]
DIGITS = superspace("digits")
MEMBER = DIGITS.member((0, 1, 2), (0, 0, 0))
SPACE = str(MEMBER)
CLASSES = ("a", "b", "c")


@pytest.fixture
def compose(tmp_path: Path) -> Iterator[Compose]:
    """Compose the shipped configuration with `+stage=…` and overrides; outputs go to a folder of the job's name."""

    def make(stage: str, *overrides: str) -> DictConfig:
        folders = [f"paths.root={tmp_path / 'runs'}", f"paths.output={tmp_path / 'runs' / stage}"]
        config = composed([*folders, *overrides, f"+stage={stage}"])
        OmegaConf.resolve(config.paths)
        return config

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        yield make


@pytest.fixture
def run_stage(compose: Compose) -> RunStage:
    """Run a job; return its result."""

    def execute(stage: str, *overrides: str) -> StageResult:
        return run(compose(stage, *overrides))

    return execute


def work_of(folder: Path) -> dict[str, tuple[float, int]]:
    """How often each kind of work was told to be done before it began, and how often it was."""
    progress = JobProgress.read(folder / "progress.json")
    assert {one.kind for one in progress.spent} <= {*progress.amounts}
    done = {one.kind: one.times for one in progress.spent}
    return {kind: (amount.times, done.get(kind, 0)) for kind, amount in progress.amounts.items()}


@dataclass(frozen=True)
class World:
    """All that the jobs of a search read.

    Attributes:
        images: folder of the images, three classes of noise.
        table: latencies of all blocks of superspace digits, MMACs as ms.
        layout: checkpoints of teacher, students and supernet, fp32 and random.
        lut: look-up tables of random figures.
    """

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def table(self) -> Path:
        return self.root / "table.json"

    @property
    def layout(self) -> Layout:
        return Layout(self.root / "checkpoints")

    @property
    def lut(self) -> Path:
        return self.root / "lut"

    @property
    def settings(self) -> list[str]:
        """What every job is told."""
        return [
            "superspace=digits",
            "quant=off",
            "platform=vnni",
            f"platform.table={self.table}",
            f"paths.checkpoints={self.layout.root}",
            f"data.root={self.images}",
            "data.prepare=null",
            "data.holdout=6",
            "data.calibration_batches=1",
            "data.calibration_batch_size=8",
        ]

    def change_image(self) -> None:
        """Turn one test image upside down."""
        self._change(next(iter(sorted((self.images / "val").rglob("*.png")))))

    def _change(self, path: Path) -> None:
        with Image.open(path) as image:
            turned = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        turned.save(path)

    def scale_table(self, factor: float, entries: int | None = None) -> None:
        """Multiply the latency of the first so many blocks, or of all."""
        table = LatencyTable.load(self.table)
        for key in list(table.entries)[:entries]:
            table.entries[key] *= factor
        table.save(self.table)

    def move_images(self) -> list[str]:
        """Copy the images to another folder; return the setting that says so."""
        target = self.root / "moved"
        shutil.copytree(self.images, target)
        for path in target.rglob("*.png"):
            os.utime(path, (1e9, 1e9))
        return [f"data.root={target}"]


def nudge(path: Path) -> None:
    """Change one weight of a checkpoint a little."""
    content = torch.load(path, weights_only=True)
    next(value for value in content["state_dict"].values() if value.is_floating_point()).view(-1)[0] += 0.5
    torch.save(content, path)


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world to copy."""
    world = World(tmp_path_factory.mktemp("world"))
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for name in CLASSES:
            (world.images / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (8, 8), np.uint8)
                Image.fromarray(pixels).save(world.images / part / name / f"{number}.png")
    LatencyTable(_all_blocks_ms()).save(world.table)
    _write_luts(world.lut)
    torch.manual_seed(0)
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        teacher = instantiate(hydra.compose("config", ["superspace=digits"]).teacher)
    save_checkpoint(
        world.layout.teacher(teacher.name, False), make_teacher(teacher, 3), CheckpointMeta(classes=CLASSES)
    )
    channels = {"stage1": (64, 32), "stage2": (32, 64), "stage3": (64, 96)}
    for stage, pair in channels.items():
        for index in range(len(DIGITS.candidates)):
            student = BlockStudent(DIGITS.stage_space(stage, index), pair, DEPLOY)
            save_checkpoint(world.layout.block("digits", stage, index, False), student, CheckpointMeta())
    supernet = Supernet(MEMBER)
    save_checkpoint(
        world.layout.supernet(SPACE, False), supernet, CheckpointMeta(space=SPACE, classes=CLASSES, quant="off")
    )
    return world


@pytest.fixture
def world(shared_world: World, tmp_path: Path) -> World:
    """A world of the test's own."""
    shutil.copytree(shared_world.root, tmp_path / "world")
    return World(tmp_path / "world")


@pytest.fixture(scope="session")
def shared_int8_world(shared_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with INT8 weights of the supernet under `deploy`, whose logits depend on the images; to copy."""
    world = World(tmp_path_factory.mktemp("int8") / "world")
    shutil.copytree(shared_world.root, world.root)
    torch.manual_seed(0)
    supernet = Supernet(MEMBER)
    for norm in (module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
    save_checkpoint(
        world.layout.supernet(SPACE, False), supernet, CheckpointMeta(space=SPACE, classes=CLASSES, quant="off")
    )
    set_quant(supernet, True)
    with torch.no_grad():
        for spec in (MEMBER.largest, MEMBER.smallest):
            supernet.activate(spec)
            supernet(torch.randn(16, 3, 24, 24))
    save_checkpoint(
        world.layout.supernet(SPACE, True), supernet, CheckpointMeta(space=SPACE, classes=CLASSES, quant="deploy")
    )
    return world


@pytest.fixture
def int8_world(shared_int8_world: World, world: World) -> World:
    """The test's world, with those weights."""
    shutil.copytree(shared_int8_world.root, world.root, dirs_exist_ok=True)
    return world


def _all_blocks_ms() -> dict[str, float]:
    """Latency in ms of every block that superspace digits can have anywhere: its MMACs, and a little."""
    found = {}
    for template in DIGITS.stages:
        indices = range(len(DIGITS.candidates)) if template.is_searched else [0]
        for space in (DIGITS.stage_space(template.name, index) for index in indices):
            for resolution in DIGITS.supernet_resolutions:
                hw = DIGITS.input_hw(template.name, resolution)
                for position in range(max(space.depths)):
                    specs = list(space.block_specs(position))
                    for spec in specs:
                        found[block_key(spec, hw)] = round(0.01 + blocks_cost([spec], hw).mmacs, 6)
                    hw = output_hw(specs[0], hw)
    return found


def _write_luts(folder: Path) -> None:
    """Random figures, another mean loss and latency in every file."""
    rng = np.random.default_rng(2)
    for key in lut_keys(DIGITS):
        sizes = [DIGITS.input_hw(DIGITS.searched[key.stage].name, r) for r in DIGITS.block_resolutions]
        loss, latency = rng.uniform(0.3, 0.6), rng.uniform(1.0, 3.0)
        figures = [(loss * rng.uniform(0.8, 1.2), latency * rng.uniform(0.5, 1.5)) for _ in range(40)]
        rows = [LutRow("3#16#2", 8, sizes[n % 2], x, 1, 1, y) for n, (x, y) in enumerate(figures)]
        write_lut_file(folder / lut_file_name(DIGITS, key), rows)


@pytest.fixture
def made_anew(capsys: pytest.CaptureFixture[str]) -> MadeAnew:
    """Run a job; tell whether it worked, or was skipped as unchanged."""

    def execute(config: DictConfig) -> bool:
        capsys.readouterr()
        run(config)
        return "unchanged, skipped" not in capsys.readouterr().out

    return execute
