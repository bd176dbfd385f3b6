"""Reads lists of subnets, `superspace,space,subnet` a line, as the published tools take them."""

import csv
from pathlib import Path
from typing import NamedTuple

from spaceevo.artifacts.parsing import require_file
from spaceevo.errors import EncodingError, SpaceEvoError
from spaceevo.space.description import parse_space, superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember

HEADING = ("superspace", "space", "subnet")
MOST_BYTES = 1 << 20


class Listed(NamedTuple):
    """Holds one subnet of a list."""

    member: SpaceMember  # its space
    spec: SubnetSpec  # its encoding

    @property
    def name(self) -> str:
        """`max`, `min`, or the encoding of any other."""
        return {self.member.largest: "max", self.member.smallest: "min"}.get(self.spec, str(self.spec))


def read_list(path: Path) -> list[Listed]:
    """Read a list of subnets; a heading, empty lines and lines that begin with `#` are passed over.

    Cells may be quoted, and the file may begin with a byte order mark, as spreadsheets write them. A space may be
    written without its superspace's name, a subnet as `max` or `min`.

    Raises:
        EncodingError: a line is malformed; names the file, the line and the column, counted from 1.
    """
    try:
        require_file(path)
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EncodingError(f"models = {path}: {reason}; name a file of lines {','.join(HEADING)}") from None
    if len(text) > MOST_BYTES:
        raise EncodingError(f"models = {path} is larger than {MOST_BYTES} bytes; split it")
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path}, line {number}"
        cells = () if line.lstrip().startswith("#") else _cells(line, where)
        if any(cells) and cells != HEADING and not cells[0].startswith("#"):
            found.append(_listed(cells, where))
    if not found:
        raise EncodingError(f"models = {path} lists no subnet; write lines {','.join(HEADING)}")
    return found


def _cells(line: str, where: str) -> tuple[str, ...]:
    """Split one line, in which every quote that is opened is closed."""
    try:
        return tuple(cell.strip() for row in csv.reader([line], strict=True, skipinitialspace=True) for cell in row)
    except csv.Error as error:
        raise EncodingError(f"{where}: {error}; quote whole cells, or none") from None


def _listed(cells: tuple[str, ...], where: str) -> Listed:
    if len(cells) != len(HEADING):
        raise EncodingError(f"{where}: {len(cells)} columns; allowed: 3, {','.join(HEADING)}")
    column = 1
    try:
        within = superspace(cells[0])
        column = 2
        member = parse_space(cells[1], within, "columns 1 and 2 disagree, mend one")
        column = 3
        corners = {"max": member.largest, "min": member.smallest}
        spec = corners.get(cells[2]) or SubnetSpec.parse(cells[2], also="max, min")
        member.validate(spec)
    except SpaceEvoError as error:
        raise EncodingError(f"{where}, column {column} ({HEADING[column - 1]}): {error}") from None
    return Listed(member, spec)
