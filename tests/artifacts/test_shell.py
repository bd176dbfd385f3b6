"""Commands that are printed can be copied: the shell and Hydra read in them what was meant."""

import shlex
import string

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from spaceevo.artifacts.shell import UNQUOTED, command_line, quoted

ENDS = ["/a b/c", " /a", "/a ", "/a\\", "/a'b", '/a"b', "/a'\"b", "/a\\'b", "/q<b>x", "/ü", "a\\:b", ""]
WITHIN = [f"/x{letter}y" for letter in string.printable]


def test_hydra_reads_a_quoted_text_as_it_was() -> None:
    texts = [*ENDS, *WITHIN]
    words = [f"a={quoted(text)}" for text in texts]
    assert [override.value() for override in OverridesParser.create().parse_overrides(words)] == texts
    assert shlex.split(command_line(words)) == words


def test_what_needs_no_quotes_has_none() -> None:
    assert [quoted(f"/x{letter}y") for letter in UNQUOTED] == [f"/x{letter}y" for letter in UNQUOTED]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("space='1_0'", "\"space='1_0'\""),
        ("a=$x'", """'a=$x'"'"''"""),
        ("seed=1", "seed=1"),
        ("block=[a,b]", "'block=[a,b]'"),
    ],
)
def test_words_stand_in_the_quotes_that_a_person_would_take(word: str, told: str) -> None:
    assert command_line([word]) == told
