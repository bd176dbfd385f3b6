"""Lists of subnets: what is read, and where a fault stands."""

from pathlib import Path

import pytest

from spaceevo.errors import EncodingError
from spaceevo.space.description import parse_space
from spaceevo.space.listing import Listed, read_list


def listing(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "input.csv"
    path.write_text("\n".join(lines))
    return path


def test_heading_comments_and_short_spaces(tmp_path: Path) -> None:
    member = parse_space("digits-222-110")
    lines = (
        "superspace,space,subnet",
        "# two of one space",
        f"digits,{member},{member.largest}",
        "",
        "digits, 222-110 ,min",
    )
    assert read_list(listing(tmp_path, *lines)) == [Listed(member, member.largest), Listed(member, member.smallest)]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("digits,222-110", "line 2: 2 columns; allowed: 3"),
        ("digit,222-110,min", r"line 2, column 1 \(superspace\): unknown superspace 'digit'"),
        ("digits,922-110,min", r"line 2, column 2 \(space\): "),
        ("digits,mobilew-122222-155400,min", r"column 2 \(space\): .*not of superspace digits"),
        ("digits,mobilew-122222-155400,min", "of superspace digits; columns 1 and 2 disagree, mend one$"),
        ("digits,222-110,largest", r"line 2, column 3 \(subnet\): .*; allowed too: max, min$"),
        ('digits,"222-110,min', "line 2: unexpected end of data; quote whole cells"),
        ('digits,"222"-110,min', "line 2: .* expected after .*; quote whole cells"),
        ("digits,222\0-110,min", r"line 2(, column 2 \(space\))?: "),
        ('digits,"999,222-110",min', r"line 2, column 2 \(space\): space '999,222-110' "),
        ("digits,222-110,d1#1#1#1#1_k3#3#3#3#3_w8#8#80#32#40_e0#0#0.5#0.5#0.5_r24", r"column 3 \(subnet\): .*80"),
    ],
)
def test_a_bad_line_is_told_with_its_column(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(EncodingError, match=told) as raised:
        read_list(listing(tmp_path, "digits,222-110,max", line))
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


def test_a_list_as_spreadsheets_save_it(tmp_path: Path) -> None:
    member = parse_space("digits-222-110")
    path = tmp_path / "input.csv"
    lines = (
        '"superspace","space","subnet"',
        '"# two, of one",,',
        '"digits", "222-110","max"',
        ",,",
        "digits,222-110,min",
    )
    path.write_text("\r\n".join(lines), encoding="utf-8-sig")
    listed = read_list(path)
    assert listed == [Listed(member, member.largest), Listed(member, member.smallest)]
    assert [one.name for one in listed] == ["max", "min"]


def test_a_list_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(EncodingError, match="lists no subnet"):
        read_list(listing(tmp_path, "superspace,space,subnet"))
    with pytest.raises(EncodingError, match="No such file"):
        read_list(tmp_path / "none.csv")
