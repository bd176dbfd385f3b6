"""What every training stage is given, and tells its user at the end."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from spaceevo.run import _next_command, make_trainer

from spaceevo.errors import ConfigError
from spaceevo.lit.module import Trainer
from spaceevo.space.description import conf_folder

TRAINING = [f.stem for f in sorted((conf_folder() / "stage").glob("*.yaml")) if "  train:" in f.read_text()]


def test_training_stages_are_found() -> None:
    assert {"teacher", "block_kd", "supernet", "finetune"} == set(TRAINING)


@pytest.mark.parametrize("quant", ["off", "deploy", "published"])
@pytest.mark.parametrize("stage", TRAINING)
def test_the_next_command_is_a_stage_of_the_same_space(stage: str, quant: str) -> None:
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        config = compose("config", [f"+stage={stage}", f"quant={quant}", "superspace=digits", "space=digits-000-000"])
    if stage == "finetune":
        assert not _next_command(config)
        return
    words = _next_command(config).split()
    assert words[:3] == ["python", "-m", "spaceevo"]
    assert (conf_folder() / "stage" / f"{words[3].removeprefix('+stage=')}.yaml").is_file()
    assert "superspace=digits" in words
    assert words[-1] == "space=digits-000-000"


def trainer_of(folder: Path, *overrides: str) -> Trainer:
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        config = compose("config", ["+stage=teacher", "superspace=digits", "trainer.accelerator=cpu", *overrides])
    made: Trainer = make_trainer(config, folder, 1, [])
    return made


@pytest.mark.parametrize(("asked", "given"), [("32-true", "32-true"), ("bf16-mixed", "bf16-mixed"), ("32", "32-true")])
def test_precisions_that_a_processor_has(tmp_path: Path, asked: str, given: str) -> None:
    assert trainer_of(tmp_path, f"trainer.precision={asked}").precision == given


@pytest.mark.parametrize("precision", ["16-mixed", "16", "16-true", "bf16-true", "64-true"])
def test_other_precisions_are_refused(tmp_path: Path, precision: str) -> None:
    expected = (
        rf"^trainer\.precision = {precision} on device cpu; allowed: 32-true, bf16-mixed; set trainer\.precision$"
    )
    with pytest.raises(ConfigError, match=expected):
        trainer_of(tmp_path, f"trainer.precision={precision}")


def test_processes_that_would_each_train_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"^torchrun started 2 processes, the trainer is set for 1; add trainer=ddp"):
        trainer_of(tmp_path)


def test_devices_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^trainer: .*; set trainer\.\*$"):
        trainer_of(tmp_path, "trainer.accelerator=cuda", "trainer.devices=99")
