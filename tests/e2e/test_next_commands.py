"""Every command that a job says comes next, run as printed by a shell, until none is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch

from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.quantizer import DEPLOY, PUBLISHED
from spaceevo.space.description import parse_space
from spaceevo.space.published import published_model
from tests.e2e.conftest import DIGITS, SPACE
from tests.nn.published import published, trained

pytestmark = pytest.mark.slow
NEXT = "Next: "
CHAIN = "teacher teacher block_kd block_kd block_lut space_search supernet supernet subnet_search export benchmark"
TO_THE_END = CHAIN.split()[4:]
FEW = "[{type: MobileNetV3Res, kernels: [3, 5], expands: [2, 3], act: hswish}, {type: ResNetRes, expands: [0.5, 1]}]"
SMALL = ["superspace=digits", "debug=fast"]
FOUND = ["subnet_search", "export", "benchmark"]


def follow(folder: Path, *words: str) -> list[str]:
    """Run a command, then what each says comes next; return the jobs that ran, `quant=` of each behind a colon."""
    command, ran = " ".join(["python -m spaceevo", *words]), []
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    while command:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env={**os.environ, "PATH": path, "SPACEEVO_CACHE": str(folder / "cache")},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        ran.append(command)
        print(command)
        assert done.returncode == 0, "\n".join([*ran, done.stdout[-1500:], done.stderr])
        following = [line.removeprefix(NEXT) for line in done.stdout.splitlines() if line.startswith(NEXT)]
        command = "".join(following)
        assert len(ran) < 15, ran
    return [word.removeprefix("+stage=") for each in ran for word in each.split() if word.startswith("+stage=")]


def once(ran: list[str]) -> list[str]:
    """The jobs in their order: a supernet is trained in fp32 first where that is not there yet."""
    return list(dict.fromkeys(ran))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole chain was followed from its first command."""
    folder = tmp_path_factory.mktemp("chain")
    assert follow(folder, "+stage=teacher", *SMALL) == CHAIN.split()
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(copytree(whole, tmp_path / "copy"))


def test_the_chain_under_the_published_scheme(folder: Path) -> None:
    ran = follow(folder, "+stage=block_kd", "quant=published", *SMALL)
    assert once(ran) == ["block_kd", *once(TO_THE_END)]
    assert follow(folder, "+stage=supernet", "quant=published", *SMALL) == ["supernet", *FOUND]
    assert follow(folder, "+stage=evaluate", "quant=published", *SMALL) == ["evaluate", *FOUND]
    assert follow(folder, "+stage=finetune", "quant=published", *SMALL) == ["finetune", *FOUND[1:]]


def test_the_chain_in_fp32(folder: Path) -> None:
    assert once(follow(folder, "+stage=block_lut", "quant=off", *SMALL)) == once(TO_THE_END)
    assert follow(folder, "+stage=evaluate", "quant=off", *SMALL) == ["evaluate", *FOUND]
    assert follow(folder, "+stage=finetune", "quant=off", *SMALL) == ["finetune", *FOUND[1:]]


def test_what_stands_beside_the_chain(folder: Path) -> None:
    assert follow(folder, "+stage=evaluate", "subnet=[max,min]", *SMALL) == ["evaluate", *FOUND]
    assert follow(folder, "+stage=evaluate", "weights=random", f"space={SPACE}", *SMALL) == ["evaluate", *FOUND]
    assert follow(folder, "+stage=finetune", *SMALL, "subnet=min") == ["finetune", *FOUND[1:]]
    assert once(follow(folder, "+stage=profile", *SMALL)) == ["profile", *once(TO_THE_END)]
    assert follow(folder, "+stage=cost", *SMALL) == ["cost"]
    assert follow(folder, "+stage=predict_latency", *SMALL) == ["predict_latency"]


def test_profile_as_the_first_command(tmp_path: Path) -> None:
    assert follow(tmp_path, "+stage=profile", *SMALL) == ["profile"]


@pytest.mark.parametrize("platform", ["vnni", "pixel4"])
def test_published_tables(tmp_path: Path, tables: Path, platform: str) -> None:
    given = [f"platform={platform}", f"source={tables}", *SMALL]
    ran = follow(tmp_path, "+stage=fit_latency", *given)
    assert ran == ["fit_latency", *TO_THE_END[1:]]


@pytest.mark.parametrize("form", ["'format=[onnx,tflite]' quant=published", "quant=off"])
def test_released_networks(tmp_path: Path, form: str) -> None:
    is_int8 = "published" in form
    supernet = trained_supernet(int8=is_int8)
    torch.save({"state_dict": published(supernet), "epoch": 50}, tmp_path / "released.pth")
    given = [form, "checkpoint=released.pth", f"space={SPACE}", *SMALL]
    for first in ("evaluate", "subnet_search"):
        assert follow(tmp_path, f"+stage={first}", *given)[-3:] == FOUND
    for first in ("export", "finetune"):
        assert follow(tmp_path, f"+stage={first}", "subnet=min", *given)[-2:] == FOUND[1:]
    assert follow(tmp_path, "+stage=convert", *given) == ["convert", "evaluate", *FOUND]


def trained_supernet(*, int8: bool, space: str = SPACE, pixels: int = 32) -> Supernet:
    """A supernet with statistics and quantisers of images."""
    supernet = Supernet(parse_space(space), "published")
    set_quant(supernet, int8)
    for spec in (supernet.member.largest, supernet.member.smallest):
        supernet.activate(spec)
        supernet(torch.randn(4, 3, pixels, pixels))
    return supernet.eval()


@pytest.mark.parametrize("int8", [True, False])
def test_a_released_block(folder: Path, int8: bool) -> None:
    student = trained(BlockStudent(DIGITS.stage_space("stage2", 1), (32, 64), PUBLISHED if int8 else DEPLOY), int8)
    path = folder / "stage2_1" / "lsq.pth"
    path.parent.mkdir()
    torch.save({"model": published(student), "epoch": 4}, path)
    ran = follow(folder, "+stage=convert", f"checkpoint={path.relative_to(folder)}", *SMALL)
    assert once(ran) == ["convert", *once(TO_THE_END)]


def test_without_weights_at_full_size(tmp_path: Path) -> None:
    given = ["model=SEQnet@vnni-A0", "weights=random", "'format=[onnx,tflite]'", "debug=fast"]
    assert follow(tmp_path, "+stage=export", *given) == ["export", "benchmark"]


def test_a_released_network_at_full_size_on_other_images(tmp_path: Path, images: Path) -> None:
    model = published_model("SEQnet@vnni-A0")
    supernet = trained_supernet(int8=True, space=str(model.member), pixels=160)
    torch.save({"state_dict": published(supernet), "epoch": 50}, tmp_path / "lsq.pth")
    given = [
        f"model={model.name}",
        "checkpoint=lsq.pth",
        "quant=published",
        f"data.root={images}",
        "data.num_workers=0",
    ]
    ran = follow(tmp_path, "+stage=finetune", *given, "'format=[onnx,tflite]'", "debug=fast")
    assert ran == ["finetune", "export", "benchmark"]
