"""What every training stage tells its user at the end."""

import pytest
from hydra import compose, initialize_config_dir

from spaceevo.run import _next_command
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
