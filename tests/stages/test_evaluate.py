"""From a checkpoint file to top-1: released and converted, on a folder, on tars, and in several processes."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

import spaceevo
from spaceevo.errors import CheckpointError, ConfigError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.digits import write_digits
from spaceevo.lit.tars import TRAIN_TAR, VAL_TAR
from spaceevo.lit.transforms import ImageTransform
from spaceevo.nn.evaluate import calibrate_subnet, subnet_top1
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from tests.nn.published import published
from tests.stages.conftest import MEMBER, RunStage, World

SPACE = "digits-012-010"
BATCHES = {"eval_batch_size": 32, "holdout": 5, "calibration_batches": 4, "calibration_batch_size": 30}
SETTINGS = ["superspace=digits", "data.prepare=null", *(f"data.{name}={value}" for name, value in BATCHES.items())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, ten of each to train on and twelve to test on."""
    root = tmp_path_factory.mktemp("digits") / "folder"
    write_digits(root)
    for part, kept in (("train", 10), ("val", 12)):
        for label in (root / part).iterdir():
            for path in sorted(label.iterdir())[kept:]:
                path.unlink()
    return root


@pytest.fixture(scope="module")
def tars(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tars")
    for part, name in (("train", TRAIN_TAR), ("val", VAL_TAR)):
        with tarfile.open(root / name, "w") as tar:
            for path in sorted((folder / part).rglob("*.png")):
                tar.add(path, path.relative_to(folder))
    return root


def digits(folder: Path) -> ImageFolderDataModule:
    """The images as the stage has them."""
    transform = ImageTransform(size=32, resize=32, mean=(0.31,) * 3, std=(0.35,) * 3)
    return ImageFolderDataModule(root=folder, transform=transform, **dict[str, Any](BATCHES))


@pytest.fixture(scope="module")
def supernet(folder: Path) -> Supernet:
    """INT8 under the published scheme: quantisers of the largest and the smallest subnet have started."""
    torch.manual_seed(2)
    network = Supernet(spaceevo.parse_space(SPACE), "published").eval()
    images = digits(folder).calibration_images()
    for spec in (network.member.largest, network.member.smallest):
        set_quant(network, False)
        calibrate_subnet(network, spec, images)
        set_quant(network, True)
        with torch.no_grad():
            network(images[0])
    return network


@pytest.fixture(scope="module")
def released(supernet: Supernet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("released") / "lsq.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in published(supernet).items()}, "epoch": 50}, path)
    return path


def expected(supernet: Supernet, folder: Path, int8: bool) -> list[float]:
    """Top-1 computed here, without the stage."""
    data = digits(folder)
    set_quant(supernet, int8)
    specs = (supernet.member.largest, supernet.member.smallest)
    return [subnet_top1(supernet, spec, data.calibration_images(), data.test()) for spec in specs]


@pytest.mark.parametrize("quant", [pytest.param("published", marks=pytest.mark.slow), "off"])
def test_a_released_checkpoint_on_a_folder_and_on_tars(
    run_stage: RunStage, supernet: Supernet, released: Path, folder: Path, tars: Path, quant: str
) -> None:
    given = [*SETTINGS, f"space={SPACE}", f"checkpoint={released}", f"quant={quant}"]
    results = [run_stage("evaluate", *given, f"data.root={root}").figures for root in (folder, tars)]
    top1 = [row["top1"] for row in results[0]["subnets"]]
    assert top1 == pytest.approx(expected(supernet, folder, int8=quant == "published"), rel=1e-12)
    assert results[0]["subnets"] == results[1]["subnets"]
    assert results[0]["images"] == 120
    assert len(set(top1)) == 2
    assert results[0]["top1"] == top1[0]


def test_listed_subnets_of_a_converted_checkpoint(
    run_stage: RunStage, supernet: Supernet, released: Path, folder: Path, tmp_path: Path
) -> None:
    given = [*SETTINGS, f"space={SPACE}", f"data.root={folder}", "quant=published"]
    converted = run_stage("convert", *given, f"checkpoint={released}")
    assert converted.figures["kind"] == "supernet"
    assert converted.figures["precision"] == "int8"
    assert converted.figures["epochs"] == 50
    path = tmp_path / "runs/checkpoints/supernet_training" / f"{SPACE}-align0" / "lsq.pth"
    assert converted.outputs["checkpoint"] == str(path)
    assert {"state_dict", "meta"} == torch.load(path, weights_only=True).keys()
    found = run_stage("evaluate", *given, "subnet=[min,max]").figures
    top1 = [row["top1"] for row in found["subnets"]]
    assert top1 == pytest.approx(expected(supernet, folder, int8=True)[::-1], rel=1e-12)
    assert [row["name"] for row in found["subnets"]] == ["min", "max"]


def test_random_weights_are_those_of_the_seed(run_stage: RunStage, folder: Path) -> None:
    given = [*SETTINGS, f"space={SPACE}", f"data.root={folder}", "weights=random", "subnet=min"]
    first, second, third = (run_stage("evaluate", *given, f"seed={seed}").figures["top1"] for seed in (1, 2, 1))
    assert first == third != second


def test_folded_evaluation_is_that_of_the_deployed_network(run_stage: RunStage, int8_world: World) -> None:
    given = [*int8_world.settings, "quant=deploy", f"space={MEMBER}"]
    plain, folded = (run_stage("evaluate", *given, f"recipe.evaluate.folded={on}").figures for on in (False, True))
    assert (plain["folded"], folded["folded"]) == (False, True)
    assert [row["subnet"] for row in folded["subnets"]] == [str(MEMBER.largest), str(MEMBER.smallest)]
    assert folded["top1"] == pytest.approx(plain["top1"], abs=100 / folded["images"])


def test_how_images_are_cut_changes_no_figure(run_stage: RunStage, int8_world: World) -> None:
    """Whatever the batches of evaluation and of calibration, as long as the images are the same."""
    given = [*int8_world.settings, "quant=deploy", f"space={MEMBER}", "subnet=[max,min]"]
    found = []
    for cut, calibration in ((256, "1 8"), (1, "8 1"), (7, "2 4")):
        batches, size = calibration.split()
        cuts = [f"data.eval_batch_size={cut}", f"data.calibration_batches={batches}"]
        found.append(run_stage("evaluate", *given, *cuts, f"data.calibration_batch_size={size}").figures["subnets"])
    assert all(rows == found[0] for rows in found[1:])


def test_weights_that_are_no_numbers_are_named_with_their_file(run_stage: RunStage, int8_world: World) -> None:
    path = int8_world.layout.supernet(str(MEMBER), True)
    content = torch.load(path)
    name = next(key for key in content["state_dict"] if key.endswith("running_var"))
    content["state_dict"][name][1] = float("nan")
    torch.save(content, path)
    for stage in ("evaluate", "export", "subnet_search"):
        asked = "latency_constraint=5" if stage == "subnet_search" else "subnet=min"
        with pytest.raises(
            CheckpointError, match=f"{path}: {name} is nan or infinite in 1 of .*; make it again with: "
        ):
            run_stage(stage, *int8_world.settings, "quant=deploy", f"space={MEMBER}", asked)


def test_overflow_is_named_with_the_weights_file(run_stage: RunStage, int8_world: World) -> None:
    """Weights may be finite and overflow all the same."""
    path = int8_world.layout.supernet(str(MEMBER), False)
    content = torch.load(path)
    for name, value in content["state_dict"].items():
        if ".stage3." in name and name.endswith("norm.weight"):
            value *= 1e38
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"{path}: recalibrated batch norm: stages\.stage3\..* nan or infinite"):
        run_stage("evaluate", *int8_world.settings, f"space={MEMBER}", "subnet=max")


def test_a_released_supernet_is_found_under_its_name(run_stage: RunStage, folder: Path, tmp_path: Path) -> None:
    """In the published folder: `supernet_training/<published name>/`."""
    place = tmp_path / "released" / "supernet_training" / "spaceevo@vnni"
    place.mkdir(parents=True)
    (place / "lsq.pth").write_bytes(b"")
    given = [f"paths.checkpoints={tmp_path / 'released'}", f"data.root={folder}", "quant=published"]
    with pytest.raises(CheckpointError, match=f"checkpoint {place}/lsq.pth is truncated"):
        run_stage("evaluate", "model=SEQnet@vnni-A0", *given)


def test_faults(run_stage: RunStage, released: Path, folder: Path, tmp_path: Path) -> None:
    given = [*SETTINGS, f"data.root={folder}", f"checkpoint={released}"]
    with pytest.raises(ConfigError, match="was trained under quant=published, not deploy; use quant=published"):
        run_stage("evaluate", *given, f"space={SPACE}")
    with pytest.raises(CheckpointError, match="belongs to another network: stages.stage"):
        run_stage("evaluate", *given, "space=digits-000-000", "quant=published")
    with pytest.raises(ConfigError, match="weights = none; allowed: trained, random"):
        run_stage("evaluate", *given, f"space={SPACE}", "weights=none")
    with pytest.raises(CheckpointError, match="checkpoint = absent.pth does not exist; set it"):
        run_stage("evaluate", *SETTINGS, f"data.root={folder}", f"space={SPACE}", "checkpoint=absent.pth")
    with pytest.raises(
        ConfigError,
        match=r"random supernet digits-012-010 has 4 outputs, too few for the 10 classes of data.root .*; set that",
    ):
        few = "superspace.stages.logits.widths=[4]"
        run_stage("evaluate", *SETTINGS, f"data.root={folder}", f"space={SPACE}", "weights=random", few)
    run_stage("convert", *given, f"space={SPACE}", "quant=published")
    path = tmp_path / "runs/checkpoints/supernet_training" / f"{SPACE}-align0" / "lsq.pth"
    with pytest.raises(CheckpointError, match=f"is of space {SPACE}, not digits-000-000; set space={SPACE}"):
        run_stage("evaluate", *given[:-1], "space=digits-000-000", "quant=published", f"checkpoint={path}")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_give_the_figures_of_one(
    run_stage: RunStage, released: Path, folder: Path, tmp_path: Path, processes: int
) -> None:
    given = [*SETTINGS, f"space={SPACE}", f"checkpoint={released}", f"data.root={folder}", "quant=published"]
    alone = run_stage("evaluate", *given).figures
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    together = tmp_path / "together"
    command = [*torchrun, "-m", "spaceevo", "+stage=evaluate", *given, f"paths.root={together}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for told in ("result: ", "unchanged, skipped"):  # a second time all skip it, and one says so
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(told) == 1
    found = json.loads((together / "evaluate_published" / "result.json").read_text())
    assert found["processes"] == processes
    assert found["subnets"] == alone["subnets"]
