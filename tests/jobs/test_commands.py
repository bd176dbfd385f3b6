"""The command that a job says comes next: what a shell makes of it gives the next job the same images."""

from __future__ import annotations

import shlex
import shutil
from itertools import cycle
from pathlib import Path

import hydra
import pytest
from hydra.conf import ConfigSourceInfo
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from spaceevo.jobs.runner import commands, make_job
from spaceevo.space.description import conf_folder
from tests.jobs.conftest import Compose, RunJob

TRAINING = ("teacher", "block_kd", "supernet", "finetune")
GIVEN = [
    ["superspace=digits"],
    ["superspace=digits", "data.root='/images of \"mine\"/it\\'s'"],
    ["superspace=digits", "data=imagefolder", "data.root=/big images", "data.holdout=0.1"],
    ["superspace=mobilew", "data.transform.size=64", "data.transform.resize=72", "+data.transform.extra=null"],
    ["superspace=digits", "data=cifar10", "data.root=x"],
    ["superspace=digits", "block=[stage1_0,stage2]", "data.split_seed=3"],
    ["experiment=digits", "debug=fast", "seed=4"],
]


def parse(command: str) -> tuple[list[str], list[str]]:
    """Hydra's options and the overrides of a command, as the program gets them from a shell."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "spaceevo"]
    options = words[3:5] if words[3] == "--config-dir" else []
    return options, words[3 + len(options) :]


def data_of(config: DictConfig) -> object:
    return OmegaConf.to_container(config.data, resolve=True)


FOLLOWING = [("block_lut", []), ("supernet", ["quant=deploy", "space=x-1", "checkpoint=/a b/c.pth"])]
FOLLOWED = [
    pytest.param(job, given, *then, marks=() if (n + m) % 2 == 0 else pytest.mark.slow)
    for n, (job, given) in enumerate(zip(cycle(TRAINING), GIVEN, strict=False))
    for m, then in enumerate(FOLLOWING)
]


@pytest.mark.parametrize(("job", "given", "following", "changes"), FOLLOWED)
def test_the_next_command_reads_the_same_images(
    compose: Compose, job: str, given: list[str], following: str, changes: list[str]
) -> None:
    config = compose(f"+stage={job}", *given, "paths.root=runs of mine")
    options, words = parse(commands(config)(following, *changes))
    assert options == []
    assert words[0] == f"+stage={following}"
    found = compose(*words)
    assert found.stage.name == following
    assert data_of(found) == data_of(config)
    assert (found.superspace.name, found.seed) == (config.superspace.name, config.seed)
    assert found.paths.root == "runs of mine"
    for change in changes:
        key, _, value = change.partition("=")
        assert str(OmegaConf.select(found, "quant.name" if key == "quant" else key)) == value


def test_what_concerns_one_run_is_not_repeated(compose: Compose) -> None:
    config = compose("+stage=teacher", "superspace=digits", "force=true", "seed=2")
    _, words = parse(commands(config)("teacher", "quant=deploy"))
    assert [text for text in words if "paths.root" not in text] == [
        "+stage=teacher",
        "superspace=digits",
        "seed=2",
        "quant=deploy",
    ]
    _, words = parse(commands(config)("block_kd", without=("seed",)))
    assert "seed=2" not in words


def test_folders_of_configs_are_repeated(tmp_path: Path) -> None:
    extra = tmp_path / "my conf"
    (extra / "data").mkdir(parents=True)
    text = (conf_folder() / "data/digits.yaml").read_text()
    (extra / "data/mine.yaml").write_text(text.replace("data/digits", "somewhere"))
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        config = hydra.compose(
            "config",
            ["+stage=teacher", "superspace=digits", f"hydra.searchpath=[file://{extra}]", "data=mine"],
            return_hydra_config=True,
        )
    OmegaConf.set_readonly(config.hydra, False)
    config.hydra.runtime.config_sources.append(ConfigSourceInfo(str(extra), "file", "command-line"))
    options, words = parse(commands(config)("block_kd"))
    assert options == ["--config-dir", str(extra)]
    assert "data=mine" in words


def test_a_skipped_job_shows_its_figures_and_what_comes_next(
    tiny: RunJob, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tiny("teacher")
    shown = capsys.readouterr().out
    table, _, following = shown.partition("┌")[2].partition("Next: ")
    shutil.copytree(images, tmp_path / "moved")
    again = tiny("teacher", f"data.root={tmp_path / 'moved'}")
    told = capsys.readouterr().out
    assert again.figures == first.figures
    assert "unchanged, skipped" in told
    assert table.partition("└")[0] in told
    assert told.partition("Next: ")[2] == following.replace(str(images), str(tmp_path / "moved"))
    assert "+stage=teacher" in following


EXPERIMENTS = [f"{space}/{name}" for space in ("mobilew", "onnxw") for name in ("teacher", "block_kd", "supernet")]
EXPERIMENTS += [f"{name}_int8" for name in EXPERIMENTS if not name.endswith("teacher")]


QUICK = ("mobilew/block_kd", "onnxw/supernet_int8")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in EXPERIMENTS]
)
def test_commands_after_an_experiment_name_the_next_one_or_spell_it(compose: Compose, name: str) -> None:
    config = compose(f"experiment={name}", "data.root=/some images", "seed=3")
    written = commands(config)
    following: list[tuple[str, tuple[str, ...]]] = [("teacher", ()), ("block_lut", ()), ("supernet", ("quant=off",))]
    following += [("block_kd", ("quant=deploy",)), ("block_kd", ("quant=off",))]
    for job, changes in following:
        _, words = parse(written(job, *changes))
        found = compose(*words)
        assert found.stage.name == job
        assert found.superspace.name == config.superspace.name
        assert (found.data.root, found.seed) == ("/some images", 3)
        assert not any(text.startswith("experiment=") for text in words[1:])
        if changes:
            assert found.quant.name == changes[0].partition("=")[2]
        if words[0].startswith("+stage="):
            assert data_of(found) == data_of(config)
        if job in TRAINING:
            make_job(found)  # its settings are those of no other job


def test_the_published_recipes_lead_to_each_other(compose: Compose) -> None:
    def after(name: str, *call: str) -> list[str]:
        _, words = parse(commands(compose(f"experiment={name}"))(*call))
        return [text for text in words if "paths.root" not in text]

    assert after("onnxw/block_kd", "block_kd", "quant=deploy") == ["experiment=onnxw/block_kd_int8"]
    assert after("onnxw/supernet", "supernet", "space=onnxw-1", "quant=deploy") == [
        "experiment=onnxw/supernet_int8",
        "space=onnxw-1",
    ]
    assert after("onnxw/block_kd_int8", "block_lut") == [
        "+stage=block_lut",
        "superspace=onnxw",
        "quant=deploy",
        "data.batch_size=32",
        "data.holdout=50000",
        "data.transform.auto_augment=false",
        "data.transform.reading=published",
    ]
