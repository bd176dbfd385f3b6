"""Plain values of bounded size and depth."""

import json
from pathlib import Path

import pytest

from spaceevo.artifacts import parse_json, read_yaml
from spaceevo.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 200_000, "nested too deep; allowed: 50 levels"),
        ("[" * 51 + "]" * 51, "nested too deep; allowed: 50 levels"),
        ('{"a":' * 51 + "1" + "}" * 51, "nested too deep"),
        (f'{{"a": {"9" * 5_000}}}', "a number of 5000 digits; allowed: 100"),
        ('["\\ud800"]', "surrogates not allowed"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
        ("{", "Expecting"),
    ],
)
def test_what_nothing_could_write_is_no_json(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_what_is_usual_is_read() -> None:
    value = {"a": [1, 2.5, None, True, "ä", {"b": [10**30, -1]}], "c": float("inf")}
    assert parse_json(json.dumps(value)) == value
    assert parse_json(b"[" * 50 + b"]" * 50)


def test_aliases_are_taken_while_they_are_few(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, y: 3}\nc: *a\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": [1, 2]}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": [1, 2]}}
    path.write_text("")
    assert read_yaml(path) is None
    with pytest.raises(ConfigError, match="none.yaml is not a readable YAML file"):
        read_yaml(tmp_path / "none.yaml")
