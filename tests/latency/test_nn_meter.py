import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest
import yaml

import spaceevo
from spaceevo.errors import ConfigError, TableError
from spaceevo.latency.kernels import Kernel, fit_kernels, kernels_of
from spaceevo.latency.nn_meter import blocks_ms, take_over, write_package
from spaceevo.latency.roofline import block_work
from spaceevo.space.blocks import block_types
from spaceevo.space.operators import sample_member, sample_subnet
from spaceevo.space.placement import PlacedBlock, block_key, subnet_blocks
from spaceevo.space.spec import BlockSpec


def blocks_of(superspace: str, networks: int, seed: int = 0) -> dict[str, PlacedBlock]:
    space, rng = spaceevo.superspace(superspace), Random(seed)
    members = [sample_member(space, rng) for _ in range(networks)]
    placed = [block for member in members for block in subnet_blocks(member, sample_subnet(member, rng))]
    return {block_key(*block): block for block in placed}


def test_kernels_of_a_block_with_squeeze_and_hswish() -> None:
    found = kernels_of(BlockSpec("MobileNetV3Res", 16, 24, 5, 3, 2, "hswish"), 28)
    assert found == (
        Kernel("conv-bn-relu", (28, 16, 48, 1, 1, 17 * 48 * 28**2 / 1e6, 17 * 48 / 1e6)),
        Kernel("hswish", (28, 48)),
        Kernel("dwconv-bn-relu", (28, 48, 48, 5, 2, 26 * 48 * 14**2 / 1e6, 26 * 48 / 1e6)),
        Kernel("hswish", (14, 48)),
        Kernel("se", (14, 48)),
        Kernel("conv-bn-relu", (14, 48, 24, 1, 1, 49 * 24 * 14**2 / 1e6, 49 * 24 / 1e6)),
        Kernel("conv-bn-relu", (28, 16, 24, 1, 2, 17 * 24 * 14**2 / 1e6, 17 * 24 / 1e6)),
        Kernel("add", (14, 24, 24)),
    )


def test_kernels_of_resnets_stacks_and_heads() -> None:
    names = [kernel.name for kernel in kernels_of(BlockSpec("ResNetSE", 32, 32, 3, 1.0, 1, "relu"), 7)]
    assert names == ["conv-bn-relu", "conv-bn-relu", "resnet-se", "conv-bn-relu", "addrelu"]
    assert kernels_of(BlockSpec("ResNetSE", 64, 32, 3, 1.0, 1, "relu"), 7)[2] == Kernel("resnet-se", (7, 32, 16))
    stack = kernels_of(BlockSpec("MobileNetV2K3Res", 8, 8, 7, 6, 2, "relu6"), 9)
    assert [k.features[:5] for k in stack if k.name == "dwconv-bn-relu"] == [
        (9, 48, 48, 3, 2),
        (5, 48, 48, 3, 1),
        (5, 48, 48, 3, 1),
    ]
    head = kernels_of(BlockSpec("FeatureMix", 96, 128, 1, None, 1, "swish"), 7)
    assert [kernel.name for kernel in head] == ["global-avgpool", "conv-bn-relu", "swish"]
    (fc,) = kernels_of(BlockSpec("Logits", 128, 10, 1, None, 1, "none"), 1)
    assert fc == Kernel("fc", (128, 10, 257 * 10 / 2e6, 257 * 10 / 1e6))


@pytest.mark.parametrize("name", block_types())
def test_every_block_type_has_kernels(name: str) -> None:
    expand = 2 if block_types()[name].has_expand else None
    assert kernels_of(BlockSpec(name, 8, 16, 3, expand, 1, "relu"), 7)


def test_fitted_kernels_give_back_what_is_a_sum_of_kernels() -> None:
    blocks = blocks_of("onnxw", 20)
    truth = [
        sum(0.002 + (0.003 * kernel.features[5] if "conv" in kernel.name else 0.0) for kernel in kernels_of(*block))
        for block in blocks.values()
    ]
    found = fit_kernels(list(blocks.values()), truth)
    assert list(blocks_ms(found, blocks, "mine").values()) == pytest.approx(truth, rel=1e-3)


def test_a_kernel_without_predictor_is_an_error() -> None:
    blocks = blocks_of("onnxw", 6)
    kernels = fit_kernels(list(blocks.values()), [1.0] * len(blocks))
    del kernels["swish"]
    with pytest.raises(TableError, match=r"package mine has no predictor of kernel swish, which FusedMBConvResBlock_"):
        blocks_ms(kernels, blocks, "mine")


def test_what_the_user_registered_is_taken_over_as_it_stands_now(tmp_path: Path) -> None:
    users, ours = tmp_path / "users.yaml", tmp_path / "ours.yaml"
    shipped = {"name": "cortex", "version": 1.0, "download": "https://example.org"}
    mine, other = {"name": "mine", "version": 1.0, "package_location": "a"}, {"name": "other", "version": 1.0}

    def listed(theirs: list[dict[str, object]] | None) -> list[dict[str, object]]:
        if theirs is not None:
            users.write_text(yaml.safe_dump(theirs))
        take_over(users, ours)
        return [{key: each[key] for key in each if key != "taken_from"} for each in yaml.safe_load(ours.read_text())]

    ours.write_text(yaml.safe_dump([shipped, other]))
    assert listed(None) == [shipped, other]  # the user never used nn-Meter
    assert listed([{**shipped, "version": 2.0}, mine]) == [shipped, other, mine]
    moved = {**mine, "package_location": "b"}
    assert listed([moved, {**other, "version": 3.0}]) == [shipped, moved, {**other, "version": 3.0}]
    assert listed([]) == [shipped]  # unregistered
    take_over(ours, ours)
    assert yaml.safe_load(ours.read_text()) == [shipped]


@pytest.mark.parametrize("text", ["[unclosed", "just words", "- {version: 1}", "- 5"])
def test_settings_of_nn_meter_that_cannot_be_read_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "users.yaml").write_text(text)
    (tmp_path / "ours.yaml").write_text("[]")
    with pytest.raises(ConfigError, match=r"settings .*users.yaml are no list of predictors.*mend or remove"):
        take_over(tmp_path / "users.yaml", tmp_path / "ours.yaml")


@pytest.mark.slow
def test_what_nn_meters_own_command_registered_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("nn_meter") is None:
        pytest.skip("nn-meter is not installed (extra nn-meter)")
    blocks = blocks_of("digits", 6)
    kernels = fit_kernels(list(blocks.values()), [1e-3 * sum(block_work(*block).values()) for block in blocks.values()])
    meta = write_package(tmp_path / "package", "theirs", kernels)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    register = [str(Path(sys.executable).with_name("nn-meter")), "register", "--predictor", str(meta)]
    (tmp_path / "home").mkdir()
    first = "import nn_meter; nn_meter.list_latency_predictors()"  # without its settings nn-Meter registers nothing
    subprocess.run([sys.executable, "-c", first], check=True, capture_output=True)
    subprocess.run(register, check=True, capture_output=True)
    place = [f"superspace=digits platform=nn_meter platform.predictor=theirs paths.root={tmp_path / 'runs'}"]
    command = [sys.executable, "-m", "spaceevo", "+stage=predict_latency", *place[0].split()]
    given = ["space=digits-012-000", "subnet=[max]", "recipe.predict_latency.random_subnets=0"]
    environment = {**os.environ, "SPACEEVO_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([*command, *given], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "latency" in done.stdout


@pytest.mark.slow
def test_a_registered_package_gives_our_latencies(tmp_path: Path) -> None:
    if find_spec("nn_meter") is None:  # importing it here would make it write into the user's home
        pytest.skip("nn-meter is not installed (extra nn-meter)")
    from spaceevo.platforms.nn_meter import NnMeter

    home = os.environ["HOME"]
    blocks = blocks_of("onnxw", 30) | blocks_of("mobilew", 30)
    latency = [1e-3 * sum(block_work(*block).values()) for block in blocks.values()]
    kernels = fit_kernels(list(blocks.values()), latency)
    meta = write_package(tmp_path / "package", "ours", kernels)
    platform = NnMeter("nn_meter", str(tmp_path / "state"), package=str(meta))
    assert os.environ["HOME"] == home
    assert not (Path(home) / ".nn_meter").exists()
    assert (tmp_path / "state" / ".nn_meter" / "config" / "predictors.yaml").exists()
    for key, expected in blocks_ms(kernels, blocks, "ours").items():
        assert platform.blocks_ms([blocks[key]]) == pytest.approx(expected, rel=0.01), key
    member = spaceevo.parse_space("onnxw-012345-000000")
    placed = subnet_blocks(member, member.largest)
    by_key = blocks_ms(kernels, {block_key(*block): block for block in placed}, "ours")
    expected = sum(by_key[block_key(*block)] for block in placed)
    assert platform.subnet_ms(member, member.largest) == pytest.approx(expected, rel=0.01)
    assert platform.fixed_ms(member.superspace).keys() == {160, 192, 224}
    state = platform.table_state()
    assert NnMeter("nn_meter", str(tmp_path / "state"), predictor="ours").table_state(state["entries"]) == state
    slower = fit_kernels(list(blocks.values()), [3 * ms for ms in latency])
    other = write_package(tmp_path / "slower", "slower", slower)
    assert NnMeter("nn_meter", str(tmp_path / "state"), package=str(other)).table_state() != state
    with pytest.raises(ConfigError, match="predictor = other is not registered with nn-Meter; registered: .*ours"):
        NnMeter("nn_meter", str(tmp_path / "state"), predictor="other")
    with pytest.raises(ConfigError, match="needs platform.predictor"):
        NnMeter("nn_meter", str(tmp_path / "state"))
    broken = yaml.safe_load(meta.read_text()) | {"name": "broken", "package_location": str(tmp_path / "absent")}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(ConfigError, match="broken cannot be loaded"):
        NnMeter("nn_meter", str(tmp_path / "state"), package=str(tmp_path / "broken.yaml"))
