import pytest

from spaceevo.__main__ import _quoted

TEXT = "d1#2_k3#3#5_w16#24#24_e0#3.0#6.0_r160"


@pytest.mark.parametrize(
    ("typed", "passed_on"),
    [
        (f"subnet={TEXT}", f"subnet='{TEXT}'"),
        (f"subnet=[{TEXT},max, d1_k3_w8_e0_r32]", f"subnet=['{TEXT}',max, 'd1_k3_w8_e0_r32']"),
        (f"subnet={TEXT},{TEXT}", f"subnet='{TEXT}','{TEXT}'"),
        (f"subnet='{TEXT}'", f"subnet='{TEXT}'"),
        (f'subnet=["{TEXT}"]', f'subnet=["{TEXT}"]'),
        ("subnet=[SEQnet@vnni-A0,min]", "subnet=[SEQnet@vnni-A0,min]"),
        ("space=digits-012-010", "space=digits-012-010"),
        ("space=111111_000000", "space='111111_000000'"),
        ("space=[111111_000000,mobilew-122222-155400]", "space=['111111_000000',mobilew-122222-155400]"),
        ("space=012_010,000_000", "space='012_010','000_000'"),
        ("space='012_010'", "space='012_010'"),
        ("space=digits-012_010-align1", "space=digits-012_010-align1"),
        ("+stage=cost", "+stage=cost"),
    ],
)
def test_encodings_may_be_typed_as_they_are_printed(typed: str, passed_on: str) -> None:
    assert _quoted(typed) == passed_on
