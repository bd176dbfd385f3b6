from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spaceevo.errors import CheckpointError, MissingArtifactError
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import load_state, read_checkpoint
from spaceevo.quant.prepare import prepare, quantizers

WHAT, COMMAND = "supernet", "spaceevo +stage=supernet"


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "checkpoint.pth"


def test_round_trip(file: Path) -> None:
    source, target = model(), model()
    meta = CheckpointMeta(space="digits-012-010", classes=("a", "b"), figures={"top1": 71.5}, settings={"lr": 0.1})
    save_checkpoint(file, source, meta)
    checkpoint = read_checkpoint(file, WHAT, COMMAND)
    assert checkpoint.meta == meta
    load_state(target, checkpoint.state, file)
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())
    assert not any(value.requires_grad for value in checkpoint.state.values())


def test_a_missing_file_names_what_makes_it(file: Path) -> None:
    with pytest.raises(MissingArtifactError) as caught:
        read_checkpoint(file, WHAT, COMMAND)
    assert str(file) in str(caught.value)
    assert COMMAND in str(caught.value)


@pytest.mark.parametrize("length", [0, 10, 500])
def test_a_truncated_file_is_refused(file: Path, length: int) -> None:
    save_checkpoint(file, model(), CheckpointMeta())
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(file, WHAT, COMMAND)
    assert str(file) in str(caught.value)
    assert COMMAND in str(caught.value)
    assert "\n" not in str(caught.value)


class Executed:
    """Runs code when it is unpickled by an unsafe reader."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weights": {}}, "in no known format"),
        ([1, 2], "holds a list"),
        ({"state_dict": {}, "meta": Executed()}, r"holds code \(builtins.print\)"),
        ({"state_dict": {"weight": "text"}, "meta": {}}, "its state_dict holds more than tensors"),
        ({"state_dict": {}, "meta": [1]}, "its record is a list"),
        ({"state_dict": {}, "meta": {"classes": 5}}, "its record is malformed"),
        ({"state_dict": {}, "meta": {"classes": [1, 2]}}, r"its record is malformed \(classes = \[1, 2\]; it must be"),
        ({"state_dict": {}, "meta": {"quant": {"a": 1}}}, "its record is malformed [(]quant = {'a': 1}; it must be"),
        ({"state_dict": {}, "meta": {"schema": 2}}, "schema 2; this version reads 0…1; update spaceevo"),
    ],
)
def test_a_foreign_file_is_refused_in_a_line_and_not_executed(
    file: Path, content: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.mkdir()
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=rf"^{WHAT}: [^\n]*{words}[^\n]*; make it again with: [^\n]*$"):
        read_checkpoint(file, WHAT, COMMAND)
    assert "executed" not in capsys.readouterr().out


def test_files_of_version_0_1_0_are_read(file: Path) -> None:
    file.parent.mkdir()
    meta = {"block": "stage1_0", "quant": "deploy", "variance_of": "teacher", "lr": None, "superspace": "mobilew"}
    torch.save({"state_dict": model().state_dict(), "meta": {**meta, "fingerprint": "1f", "figures": {"nsr": 1}}}, file)
    read = read_checkpoint(file, WHAT, COMMAND).meta
    assert (read.block, read.quant, read.fingerprint, read.figures, read.int8) == (
        *("stage1_0", "deploy", "1f", {"nsr": 1}),
        True,
    )
    assert read.settings == {"variance_of": "teacher", "lr": None, "superspace": "mobilew"}
    assert CheckpointMeta.from_plain(read.to_plain()) == read


def test_fp32_weights_leave_quantisers_as_they_are(file: Path) -> None:
    source, target = prepare(model()), prepare(model())
    for module, scale in ((source, 3.0), (target, 5.0)):
        for quantizer in quantizers(module).values():
            quantizer.set_scale(torch.tensor(scale))
            quantizer.turn(True)
    save_checkpoint(file, source, CheckpointMeta(quant="published"))
    read = read_checkpoint(file, WHAT, COMMAND)
    read.load_into(target, int8=False)
    name = "0.parametrizations.weight.original"
    assert torch.equal(target.get_parameter(name), source.get_parameter(name))
    assert {(quantizer.scale.item(), quantizer.is_on) for quantizer in quantizers(target).values()} == {(5.0, False)}
    read.load_into(target, int8=True)
    assert {(quantizer.scale.item(), quantizer.is_on) for quantizer in quantizers(target).values()} == {(3.0, True)}
    del read.state["0.bias"]
    for int8 in (True, False):
        with pytest.raises(CheckpointError, match=r"belongs to another network: 0.bias is missing"):
            read.load_into(target, int8=int8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"0.weight": torch.zeros(4, 5, 1, 1)}, "0.weight (4, 5, 1, 1) here (4, 3, 1, 1)"),
        ({"2.weight": torch.zeros(1)}, "2.weight is not in this network"),
        ({"0.bias": None}, "0.bias is missing"),
    ],
)
def test_weights_of_another_network_are_refused(change: dict[str, Tensor | None], words: str) -> None:
    target = model()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {name: value + 1 for name, value in {**target.state_dict(), **change}.items() if value is not None}
    with pytest.raises(CheckpointError) as caught:
        load_state(target, state, Path("a.pth"))
    assert words in str(caught.value)
    assert "a.pth belongs to another network" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_part_may_be_loaded() -> None:
    target = model()
    bias = target.state_dict()["0.bias"].clone()
    load_state(target, {"0.weight": torch.ones(4, 3, 1, 1)}, Path("a.pth"), strict=False)
    assert torch.all(target.state_dict()["0.weight"] == 1)
    assert torch.equal(target.state_dict()["0.bias"], bias)
