"""What another machine answers is data: what no agent of ours would send is refused in a line."""

from __future__ import annotations

import pytest

from spaceevo.errors import ConfigError
from spaceevo.platforms.answers import Described, Lack, Timings, read_answer

MACHINE = b'{"node": "pi", "machine": "Cortex-A76", "instructions": "asimd", "version": "1.32.0", "core": 3}'


def test_answers_of_an_agent_are_read() -> None:
    assert read_answer(MACHINE, "pi") == Described("pi", "Cortex-A76", "asimd", "1.32.0", 3)
    assert read_answer(b'{"error": "core", "found": "0, 1"}', "pi") == Lack("core", "0, 1")
    assert read_answer(b'{"timings": {"block 0": [0.5, 1.25, true]}}', "pi") == Timings({"block 0": (0.5, 1.25, True)})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not JSON",
        b"[" * 100_000,
        b"[1]",
        b"{}",
        b'{"timings": {"block 0": [-1.0, 1.0, true]}}',
        b'{"timings": {"block 0": [NaN, 1.0, true]}}',
        b'{"timings": {"block 0": [1e999, 1.0, true]}}',
        b'{"timings": {"block 0": ["fast", 1.0, true]}}',
        b'{"timings": {"block 0": [1.0]}}',
        b'{"error": "model"}',
        MACHINE.replace(b"pi", b"\\u001b[2Jpi"),
        MACHINE.replace(b"pi", b"x" * 5_000),
        MACHINE.replace(b"3}", b"-1}"),
    ],
)
def test_what_no_agent_sends_is_told(text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^platform.host = pi: its answer is none \(.*\); look at which") as caught:
        read_answer(text, "pi")
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
