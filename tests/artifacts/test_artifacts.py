import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceevo.artifacts import (
    Layout,
    StageResult,
    atomic_path,
    cache_folder,
    file_hash,
    fingerprint,
    read_json,
    write_json,
    write_text,
)
from spaceevo.artifacts.identity import differences
from spaceevo.errors import CheckpointError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_an_atomic_write_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_text(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as temporary:
        temporary.write_text("new, unfini")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("text")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "text"


def test_broken_json_says_which_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text('{"stage": "cost"')
    with pytest.raises(CheckpointError, match=r"result\.json is not valid JSON"):
        read_json(path)


@given(value=plain)
def test_json_round_trip(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@given(tree=st.dictionaries(st.text(), plain, min_size=2))
def test_fingerprints_ignore_order_and_see_values(tree: dict[str, object]) -> None:
    assert fingerprint(tree) == fingerprint(dict(reversed(tree.items())))
    key = next(iter(tree))
    assert fingerprint(tree) != fingerprint({**tree, key: [tree[key]]})
    assert fingerprint(tree) != fingerprint({k: v for k, v in tree.items() if k != key})


def test_file_hash_is_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert hashlib.sha256(content).hexdigest().startswith(file_hash(tmp_path / "a"))
    (tmp_path / "b").write_bytes(content[:-1])
    assert file_hash(tmp_path / "a") != file_hash(tmp_path / "b")


@pytest.fixture
def result(tmp_path: Path) -> StageResult:
    write_text(tmp_path / "out.csv", "1")
    return StageResult(
        stage="cost",
        fingerprint="abc",
        seed=7,
        figures={"latency_ms": 3.5, "int8_top1": 71.25},
        inputs={"table.json": "0123"},
        outputs={"table": str(tmp_path / "out.csv")},
        versions={"torch": "2"},
        seconds=1.5,
    )


def test_a_result_round_trips(result: StageResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    assert StageResult.load(tmp_path) == replace(result, folder=str(tmp_path))


def test_figures_are_flat_keys(result: StageResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["latency_ms"], record["int8_top1"], record["stage"], record["seed"]) == (3.5, 71.25, "cost", 7)
    assert record["inputs"] == {"table.json": "0123"}


def test_without_a_result_there_is_none(tmp_path: Path) -> None:
    assert StageResult.load(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "does not list its figures"),
        ("{}", "does not list its figures"),
        ('{"figures": ["top1"]}', "does not list its figures"),
        ('{"figures": [], "schema": 0}', r"has schema 0; allowed: 1…2"),
        ('{"figures": [], "schema": 99}', r"has schema 99; allowed: 1…2; make it again, or upgrade spaceevo"),
        ('{"figures": [], "stage": "cost"}', "fingerprint: Field required"),
        ('{"figures": [], "stage": 1, "fingerprint": "a", "seed": null}', "stage: Input should be a valid string"),
    ],
)
def test_foreign_results_say_what_is_wrong(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"result\.json.*{words}"):
        StageResult.load(tmp_path)


def test_results_of_the_first_version_are_read(result: StageResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    record = json.loads((tmp_path / "result.json").read_text())
    for name in ("settings", "device", "made", "schema", "checksum", "checksums"):
        del record[name]
    (tmp_path / "result.json").write_text(json.dumps(record))
    found = StageResult.load(tmp_path)
    assert found is not None
    assert (found.figures, found.settings, found.made) == (result.figures, {}, "")


PUBLISHED = Layout(Path(), "published")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            PUBLISHED.teacher("efficientnet_b5", False),
            "block_kd/teacher_checkpoint/efficientnet_b5/checkpoint.pth",
        ),
        (PUBLISHED.teacher("efficientnet_b5", True), "block_kd/teacher_checkpoint/efficientnet_b5/lsq.pth"),
        (PUBLISHED.block("mobilew", "stage3", 5, False), "block_kd/mobilew/stage3_5/checkpoint.pth"),
        (PUBLISHED.block("mobilew", "stage3", 5, True), "block_kd/mobilew/stage3_5/lsq.pth"),
        (PUBLISHED.space_choice("onnxw"), "block_kd/search/onnxw/best.json"),
        (
            PUBLISHED.supernet("mobilew-122222-155400", False),
            "supernet_training/mobilew-122222-155400-align0/checkpoint.pth",
        ),
        (
            PUBLISHED.supernet("mobilew-122222-155400", True),
            "supernet_training/mobilew-122222-155400-align0/lsq.pth",
        ),
        (Layout(Path()).subnet_search("onnxw-151122-023231"), "search_subnet/onnxw-151122-023231"),
    ],
)
def test_layout_is_the_published_one(path: Path, expected: str) -> None:
    assert path == Path(expected)


def test_everything_cached_lies_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path))
    assert cache_folder("lut") == tmp_path / "lut"
    monkeypatch.setenv("SPACEEVO_CACHE", "")
    assert cache_folder("lut").is_absolute()
    monkeypatch.delenv("SPACEEVO_CACHE")
    assert cache_folder("lut") == Path.home() / ".cache" / "spaceevo" / "lut"


def test_nothing_of_one_scheme_replaces_something_of_another() -> None:
    """But what all schemes share: fp32 weights, the chosen space, teachers."""
    off, deploy, published = (Layout(Path(), quant) for quant in ("off", "deploy", "published"))
    for first, second in ((off, deploy), (deploy, published), (off, published)):
        assert first.subnet_search("digits-012-000") != second.subnet_search("digits-012-000")
        assert first.supernet("digits-012-000", False) == second.supernet("digits-012-000", False)
    assert deploy.supernet("digits-012-000", True) != published.supernet("digits-012-000", True)
    assert deploy.block("digits", "stage1", 0, True) != published.block("digits", "stage1", 0, True)
    assert deploy.finetuned("digits-012-000", "d1", "pets", "f00", True) != published.finetuned(
        "digits-012-000", "d1", "pets", "f00", True
    )
    assert deploy.teacher("resnet10", True) == published.teacher("resnet10", True)


def test_what_differs_is_told_shortly() -> None:
    assert differences({"epochs": 1, "space": None}, {"epochs": 2, "space": ""}) == "epochs 1 → 2, space null → nothing"
    listed = {"platforms.a.name": "ort_cpu"}  # in place of an empty group
    assert differences({"platforms": {}}, listed) == "platforms.a.name nothing → ort_cpu"
    many = dict.fromkeys("abcde", 1)
    assert differences(many, {}) == "a 1 → nothing, b 1 → nothing, c 1 → nothing and 2 more"
