"""A shared file runs nothing, a configuration makes what it may make, and names stay in their folders."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spaceevo.__main__ import main
from spaceevo.errors import ConfigError
from spaceevo.jobs.command_line import FULL_ERROR
from spaceevo.jobs.runner import job_type
from spaceevo.jobs.trust import check_folders, require_allowed, require_data, require_own
from spaceevo.space.description import CONF_VARIABLE, conf_files
from tests.jobs.conftest import Compose

PLAIN = conf_files("superspace")["digits"].read_text(encoding="utf-8")
EVIL = {
    "a place in the whole configuration": (f"# @package _global_\n{PLAIN}", "# @package _global_"),
    "another place": (f"{PLAIN}\n#   @package hydra.callbacks\n", "@package hydra.callbacks"),
    "an object": (f"{PLAIN}\nextra: {{_target_: os.system, command: touch TRACE}}", "'_target_'"),
    "an object deep inside": (PLAIN.replace("act: relu}", "act: {_target_: os.getcwd}}"), "'_target_'"),
    "arguments of an object": (f"{PLAIN}\n_args_: [1]", "'_args_'"),
    "a logging handler": (f"{PLAIN}\nextra: {{(): subprocess.Popen, args: [touch, TRACE]}}", "'()'"),
    "the environment": (PLAIN.replace("name: digits", "name: ${oc.env:HOME}"), "'${oc.env:HOME}'"),
    "another setting": (PLAIN.replace("[24, 32]", "${data.resolutions}"), "'${data.resolutions}'"),
    "defaults of Hydra": (PLAIN.replace("/data@_global_.data: digits", "/hydra/launcher: x"), "/hydra"),
    "defaults elsewhere": (PLAIN.replace("/data@_global_.data: digits", "/data@_global_.hydra: digits"), "hydra"),
    "defaults of a path": (PLAIN.replace("data: digits", "data: ../../digits"), "../../digits"),
    "a bomb": ("a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    ), "aliases repeat each other"),
    "itself": ("a: &a [*a]\n", "aliases repeat each other"),
    "depth": ("[" * 50_000, "nested too deep"),
    "a number of 5,000 digits": (f"{PLAIN}\nextra: {'9' * 5_000}", "not a readable YAML file"),
    "a Python object": (f"{PLAIN}\nextra: !!python/object/apply:os.system ['touch TRACE']", "not a readable YAML file"),
    "a torn line": (f"{PLAIN}\nextra: 'x", "not a readable YAML file"),
    "no mapping": ("- 1", "holds no mapping"),
    "a megabyte": ("#" * 10**6, "allowed: 100000"),
}  # fmt: skip


def planted(folder: Path, text: str, group: str = "superspace") -> list[str]:
    """Write a file of configuration; return the command line that finds it."""
    (folder / group).mkdir(parents=True)
    (folder / group / "evil.yaml").write_text(text.replace("TRACE", str(folder / "trace")), encoding="utf-8")
    return ["--config-dir", str(folder), "+stage=cost", f"{group}=evil"]


@pytest.mark.parametrize(("text", "words"), EVIL.values(), ids=EVIL)
def test_a_superspace_is_data(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["spaceevo", *planted(tmp_path / "conf", text)])
    monkeypatch.setenv(FULL_ERROR, "0")  # as at a command's start
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 1
    assert line.startswith("error: ")
    assert words in line
    assert "evil.yaml" in line
    assert len(line) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]
    assert [path.name for path in (tmp_path / "conf").iterdir()] == ["superspace"]


def test_what_is_shipped_is_data() -> None:
    for group in ("superspace", "model"):
        files = conf_files(group)
        assert len(files) > 5
        for file in files.values():
            require_data(file, group)


def test_a_folder_in_the_environment_or_in_a_search_path_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(tmp_path, EVIL["an object"][0])
    with pytest.raises(ConfigError, match="'_target_'"):
        check_folders([f"hydra.searchpath=[pkg://x,file://{tmp_path}]", "trust=true"])
    monkeypatch.setenv(CONF_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match="'_target_'"):
        check_folders([])


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("model", "# @package _global_\nspace: digits-012-000\nhydra: {callbacks: {x: 1}}"),
        ("model", "# @package _global_\nspace: digits-012-000\nmodel: {name: x, _target_: os.system}"),
        ("model", "# @package _global_\ndefaults:\n  - override /experiment: x\nspace: digits-012-000"),
    ],
)
def test_a_model_is_data(group: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{group} .*evil.yaml holds .*; a model is data, take it out$"):
        check_folders(planted(tmp_path, text, group))


@pytest.mark.parametrize("group", ["experiment", "teacher", "hydra/job_logging"])
@pytest.mark.parametrize("key", ["_target_", "()", "class"])
def test_other_files_make_what_is_allowed(group: str, key: str, tmp_path: Path) -> None:
    command = planted(tmp_path, f"x: {{y: [{{{key}: os.system}}]}}", group)
    with pytest.raises(
        ConfigError, match=r"evil.yaml.x.y.* = 'os.system'; allowed: what is in spaceevo.jobs, .*trust="
    ):
        check_folders(command)
    check_folders([*command, "trust=true"])


def test_what_hydra_would_make_is_looked_up_first(tmp_path: Path) -> None:
    text = (
        "# @package _global_\nhydra: {callbacks: {x: {_target_: spaceevo.jobs.trust.os.system, command: touch TRACE}}}"
    )
    with pytest.raises(ConfigError, match=r"hydra.callbacks.x._target_ = 'spaceevo.jobs.trust.os.system'; allowed"):
        check_folders(planted(tmp_path, text, "experiment"))


@pytest.fixture
def config(compose: Compose) -> DictConfig:
    return compose("+stage=cost", "superspace=digits")


def test_a_name_outside_is_refused_before_it_is_imported(config: DictConfig) -> None:
    for key, value in {
        "platform._target_": "os.system",
        "data.transform.extra": {"_target_": "subprocess.run"},
        "stage.job": "os.system",
        "recipe.x": [{"_target_": "builtins.eval"}],
        "data._target_": "${oc.env:HOME}",
    }.items():
        changed = copy.deepcopy(config)
        OmegaConf.update(changed, key, value, force_add=True)
        with pytest.raises(ConfigError, match=r"^[\w.]+ = '.*'; allowed: what is in .*; set trust=true if you trust"):
            require_allowed(changed)
        changed.trust = True
        require_allowed(changed)
    with pytest.raises(ConfigError, match="^trust = yes; allowed: true, false$"):
        config.trust = "yes"
        require_allowed(config)


@pytest.mark.parametrize(
    "target",
    [
        "spaceevo.jobs.runner.instantiate",
        "spaceevo.jobs.runner.resolve_name",
        "spaceevo.artifacts.shell.shlex.join",
        "spaceevo.jobs.tracking.find_spec",
        "hydra.utils.instantiate",
        "hydra.core.utils.run_job",
    ],
)
def test_a_name_that_is_only_imported_there_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="allowed: what is in"):
        require_own({"_target_": "spaceevo.teacher.TeacherConfig", "taps": {"x": [{"_target_": target}]}})


def test_a_look_up_gives_what_is_allowed() -> None:
    look_up = {"_target_": "hydra.utils.get_class", "path": "timm.models.resnet.BasicBlock"}
    require_own(look_up)
    with pytest.raises(ConfigError, match="path = 'subprocess.Popen'"):
        require_own({**look_up, "path": "subprocess.Popen"})


def refused(config: DictConfig, key: str, value: object) -> str:
    before = copy.deepcopy(OmegaConf.select(config, key))
    OmegaConf.update(config, key, value, force_add=True)
    with pytest.raises(ConfigError) as caught:
        job_type(config)
    OmegaConf.update(config, key, before, merge=False)
    return str(caught.value)


def test_a_name_stays_in_its_folder(config: DictConfig) -> None:
    for key in ("teacher.name", "platform.name", "superspace.name", "stage.name"):
        for name in ("../..", "a/b", "..", ".hidden", "", "x" * 300, "a\0b"):
            assert refused(config, key, name).startswith(f"{key} = {name[:80]!r}; allowed: a name of a folder")


def test_folders_are_named(config: DictConfig) -> None:
    for key, value, words in (
        ("superspace.stages", {"../..": {"widths": [8]}}, "superspace.stages.../.. = '../..'; allowed: a name"),
        ("platforms", {"a/b": {"name": "x"}}, "platforms.a/b = 'a/b'; allowed: a name"),
        ("stage.folder", "../../x", "stage.folder = '..'; allowed: a name"),
        ("stage.folder", "/x", "stage.folder = ''; allowed: a name"),
        ("paths.root", "", "paths.root = ''; allowed: a folder"),
        ("paths.root", "a\nb", "paths.root = 'a\\nb'; allowed: a folder without line breaks"),
        ("paths.lut", None, "paths.lut = None; allowed: a folder"),
    ):
        assert refused(config, key, value).startswith(words)
    assert job_type(config).name == "cost"


def test_nothing_is_written_before_names_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FULL_ERROR, "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["spaceevo", "+stage=cost", "superspace=digits", "stage.folder=../../../x"])
    with pytest.raises((SystemExit, HydraException, OmegaConfBaseException)) as caught:
        main()
    assert "stage.folder = '..'; allowed: a name of a folder" in f"{caught.value}{capsys.readouterr().err}"
    assert not list(tmp_path.iterdir())
