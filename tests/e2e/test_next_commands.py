"""Every command that a job says comes next, run as printed by a shell, until none is left."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import copytree
from typing import NamedTuple

import pytest
import torch

from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.quantizer import PUBLISHED
from spaceevo.space.description import parse_space
from spaceevo.space.published import published_model
from tests.e2e.conftest import DIGITS, SPACE
from tests.faults.children import Child
from tests.nn.published import published, trained

pytestmark = pytest.mark.slow
NEXT = "Next: "
CHAIN = "teacher teacher block_kd block_kd block_lut space_search supernet supernet subnet_search export benchmark"
TO_THE_END = CHAIN.split()[4:]
FEW = "[{type: MobileNetV3Res, kernels: [3, 5], expands: [2, 3], act: hswish}, {type: ResNetRes, expands: [0.5, 1]}]"
SMALL = ["superspace=digits", "debug=fast"]
FOUND = ["subnet_search", "export", "benchmark"]


class Place(NamedTuple):
    """A folder in which commands run."""

    path: Path
    following: dict[str, str]  # command that ran there → the one it printed, which is run there once

    def copy(self, path: Path) -> Place:
        """Copy the folder."""
        return Place(Path(copytree(self.path, path)), {**self.following})


def follow(place: Place, *words: str) -> list[str]:
    """Run a command, then what each says comes next; return the jobs that ran, in their order."""
    command, ran = " ".join(["python -m spaceevo", *words]), []
    while command:
        ran.append(command)
        if command not in place.following:
            place.following[command] = run(place.path, command)
        command = place.following[command]
        assert len(ran) < 15, ran
    return [word.removeprefix("+stage=") for each in ran for word in words_of(each) if word.startswith("+stage=")]


def run(folder: Path, command: str) -> str:
    """Run a command; return the one it says comes next, if any."""
    print(command, flush=True)
    child = Child(words_of(command), folder, folder / "told.txt", {"SPACEEVO_CACHE": str(folder / "cache")})
    assert child.wait(1200) == 0, f"{command}\n{child.text()[-3000:]}"
    return "".join(line.removeprefix(NEXT) for line in child.text().splitlines() if line.startswith(NEXT))


def words_of(command: str) -> list[str]:
    """What a shell makes of a command, after `python -m spaceevo`."""
    shell = ["bash", "-c", f"python() {{ printf '%s\\0' \"$@\"; }}; {command}"]
    module, name, *words = subprocess.check_output(shell, text=True).removesuffix("\0").split("\0")
    assert (module, name) == ("-m", "spaceevo"), command
    return words


def once(ran: list[str]) -> list[str]:
    """The jobs in their order: a supernet is trained in fp32 first where that is not there yet."""
    return list(dict.fromkeys(ran))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place in which the whole chain was followed from its first command."""
    place = Place(tmp_path_factory.mktemp("chain"), {})
    assert follow(place, "+stage=teacher", *SMALL) == CHAIN.split()
    return place


@pytest.fixture
def copy(whole: Place, tmp_path: Path) -> Place:
    """A copy of it."""
    return whole.copy(tmp_path / "copy")


@pytest.fixture
def empty(tmp_path: Path) -> Place:
    """A place in which nothing ran."""
    return Place(tmp_path, {})


def test_the_chain_under_the_published_scheme(copy: Place) -> None:
    ran = follow(copy, "+stage=block_kd", "quant=published", *SMALL)
    assert once(ran) == ["block_kd", *once(TO_THE_END)]
    assert follow(copy, "+stage=supernet", "quant=published", *SMALL) == ["supernet", *FOUND]
    assert follow(copy, "+stage=evaluate", "quant=published", *SMALL) == ["evaluate", *FOUND]
    assert follow(copy, "+stage=finetune", "quant=published", *SMALL) == ["finetune", *FOUND[1:]]


def test_the_chain_in_fp32(copy: Place) -> None:
    assert once(follow(copy, "+stage=block_lut", "quant=off", *SMALL)) == once(TO_THE_END)
    assert follow(copy, "+stage=evaluate", "quant=off", *SMALL) == ["evaluate", *FOUND]
    assert follow(copy, "+stage=finetune", "quant=off", *SMALL) == ["finetune", *FOUND[1:]]


def test_what_stands_beside_the_chain(copy: Place) -> None:
    assert follow(copy, "+stage=evaluate", "subnet=[max,min]", *SMALL) == ["evaluate", *FOUND]
    assert follow(copy, "+stage=evaluate", "weights=random", f"space={SPACE}", *SMALL) == ["evaluate", *FOUND]
    assert follow(copy, "+stage=finetune", *SMALL, "subnet=min") == ["finetune", *FOUND[1:]]
    assert once(follow(copy, "+stage=profile", *SMALL)) == ["profile", *once(TO_THE_END)]
    assert follow(copy, "+stage=cost", *SMALL) == ["cost"]
    assert follow(copy, "+stage=predict_latency", *SMALL) == ["predict_latency"]


def test_profile_as_the_first_command(empty: Place) -> None:
    assert follow(empty, "+stage=profile", *SMALL) == ["profile"]


@pytest.mark.parametrize("platform", ["vnni", "pixel4"])
def test_published_tables(empty: Place, tables: Path, platform: str) -> None:
    given = [f"platform={platform}", f"source={tables}", *SMALL]
    ran = follow(empty, "+stage=fit_latency", *given)
    assert ran == ["fit_latency", *TO_THE_END[1:]]


@pytest.mark.parametrize("form", ["'format=[onnx,tflite]' quant=published", "quant=off"])
def test_released_networks(empty: Place, form: str) -> None:
    is_int8 = "published" in form
    supernet = trained_supernet(int8=is_int8)
    torch.save({"state_dict": published(supernet), "epoch": 50}, empty.path / "released.pth")
    given = [form, "checkpoint=released.pth", f"space={SPACE}", *SMALL]
    for first in ("evaluate", "subnet_search"):
        assert follow(empty, f"+stage={first}", *given)[-3:] == FOUND
    for first in ("export", "finetune"):
        assert follow(empty, f"+stage={first}", "subnet=min", *given)[-2:] == FOUND[1:]
    assert follow(empty, "+stage=convert", *given) == ["convert", "evaluate", *FOUND]


def trained_supernet(*, int8: bool, space: str = SPACE, pixels: int = 32) -> Supernet:
    """A supernet with statistics and quantisers of images."""
    supernet = Supernet(parse_space(space), "published")
    set_quant(supernet, int8)
    for spec in (supernet.member.largest, supernet.member.smallest):
        supernet.activate(spec)
        supernet(torch.randn(4, 3, pixels, pixels))
    return supernet.eval()


@pytest.mark.parametrize("int8", [True, False])
def test_a_released_block(copy: Place, int8: bool) -> None:
    student = trained(BlockStudent(DIGITS.stage_space("stage2", 1), (32, 64), PUBLISHED), int8)
    path = copy.path / "stage2_1" / "lsq.pth"
    path.parent.mkdir()
    torch.save({"model": published(student), "epoch": 4}, path)
    copy.following.clear()  # the block is another now
    ran = follow(copy, "+stage=convert", f"checkpoint={path.relative_to(copy.path)}", *SMALL)
    others = ["block_kd"] if int8 else []  # no block was trained under `published` before
    assert once(ran) == ["convert", "block_lut", *others, *once(TO_THE_END)[1:]]


def test_without_weights_at_full_size(empty: Place) -> None:
    given = ["model=SEQnet@vnni-A0", "weights=random", "'format=[onnx,tflite]'", "debug=fast"]
    assert follow(empty, "+stage=export", *given) == ["export", "benchmark"]


@pytest.mark.parametrize("quant", ["published", "off"])
def test_a_released_network_at_full_size_on_other_images(empty: Place, images: Path, quant: str) -> None:
    model = published_model("SEQnet@vnni-A0")
    supernet = trained_supernet(int8=quant == "published", space=str(model.member), pixels=160)
    torch.save({"state_dict": published(supernet), "epoch": 50}, empty.path / "lsq.pth")
    given = [f"model={model.name}", "checkpoint=lsq.pth", f"quant={quant}", f"data.root={images}", "debug=fast"]
    ran = follow(empty, "+stage=finetune", *given, "data.num_workers=0", "'format=[onnx,tflite]'")
    assert ran == ["finetune", "export", "benchmark"]
