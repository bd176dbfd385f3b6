"""YAML description → validated `Superspace`; the descriptions live in `conf/superspace`."""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from spaceevo.artifacts import Layout, SpaceChoice, read_yaml
from spaceevo.errors import ConfigError, EncodingError, MissingArtifactError, choices, nearest
from spaceevo.space.blocks import block_types
from spaceevo.space.encoding import parse_indices
from spaceevo.space.spec import ACTIVATIONS
from spaceevo.space.superspace import Candidate, SpaceMember, StageTemplate, Superspace

CONF_VARIABLE = "SPACEEVO_CONF"
"""Environment variable naming one more folder with a `superspace/` or `model/` group of descriptions."""


def conf_folder() -> Path:
    """Find the folder of the shipped Hydra configs: inside the installed package, or beside `src` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "conf"
    return packed if packed.is_dir() else package.parents[1] / "conf"


def conf_files(group: str) -> dict[str, Path]:
    """List the files of a config group by name: shipped ones and those of the folder in `SPACEEVO_CONF`."""
    folders = [conf_folder()]
    if extra := os.environ.get(CONF_VARIABLE):
        folders.append(Path(extra))
    return {file.stem: file for folder in folders for file in sorted((folder / group).glob("*.yaml"))}


def superspaces() -> list[str]:
    """List the names of all superspaces, shipped ones and those of the folder in `SPACEEVO_CONF`."""
    return sorted(conf_files("superspace"))


@lru_cache(maxsize=32)
def _load(file: Path, modified_ns: int) -> Superspace:
    return parse_description(read_yaml(file), source=str(file))


def superspace(name: str) -> Superspace:
    """Load a superspace by name."""
    files = conf_files("superspace")
    if name not in files:
        raise ConfigError(f"unknown superspace '{name}'; allowed: {choices(sorted(files))}")
    return _load(files[name], files[name].stat().st_mtime_ns)


def parse_space(text: str, within: Superspace | None = None, remedy: str = "") -> SpaceMember:
    """Read a member's encoding: `mobilew-122222-155400`; `_` may stand for the second `-`, no windows means all 0.

    `-align1` at the end: all blocks of a stage share their choices; `-align0` is the same as nothing. `within` is the
    superspace it must belong to, whose name may then be left out, as search logs do; `remedy` is what to do where it
    belongs to another, if not to set the superspace.

    Raises:
        EncodingError: malformed, of another superspace, or with an index out of range.
    """
    pattern = r"((?P<name>[A-Za-z]\w*?)-)?(?P<blocks>[0-9.]+)([-_](?P<windows>[0-9.]+))?(-align(?P<align>[01]))?"
    match = re.fullmatch(pattern, text.strip(), re.ASCII)
    if match is None or (match["name"] is None and within is None):
        raise EncodingError(f"space '{text}' is not of the form <superspace>-<block indices>-<window indices>[-align1]")
    if within is not None and match["name"] not in (None, within.name):
        remedy = remedy or f"set superspace={match['name']}, or another space or model"
        raise EncodingError(f"space '{text}' is not of superspace {within.name}; {remedy}")
    space = within or superspace(match["name"])
    blocks = parse_indices(match["blocks"], f"space '{text}': block indices")
    windows = parse_indices(match["windows"], f"space '{text}': window indices") if match["windows"] else None
    try:
        return space.member(blocks, windows or (0,) * len(blocks), align=match["align"] == "1")
    except ConfigError as error:
        raise EncodingError(f"space '{text}': {error}") from None


def found_space(layout: Layout, within: Superspace, text: str | None, command: str) -> SpaceMember:
    """Find the member that `text` encodes or, without a text, the best one of the last space search.

    Raises:
        MissingArtifactError: neither is there; names `command`, which searches.
    """
    path = layout.space_choice(within.name)
    if text is None and not path.exists():
        raise MissingArtifactError("a space (space=…, or the best one found)", path, command)
    return parse_space(SpaceChoice.read(path, command).space if text is None else text, within=within)


NAME, NAME_RULE = r"[A-Za-z]\w{0,99}", "letters, digits and '_', a letter first"
SHOWN_CHARACTERS, SHOWN_FAULTS = 60, 5
LEAST_RATIO = 0.01  # of expansion; below it every width rounds to the same few channels
MOST = {"widths": 2**14, "depths": 100, "kernels": 99, "block": 2**13, "supernet": 2**13, "expands": 100}
"""Greatest numbers that a list may hold; what exceeds them no memory holds, or no image has."""


class _Faults(list[str]):
    """Collects every fault of a description, so that a user mends them in one go."""

    def add(self, where: str, field: str, value: object, allowed: str) -> None:
        try:
            text = repr(value)
        except ValueError as error:  # Python writes no numbers of thousands of digits
            text = f"({error})"
        short = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
        self.append(f"{where}: {field} = {short}; allowed: {allowed}")

    def add_unknown(self, where: str, given: Mapping[str, object], known: tuple[str, ...]) -> None:
        """Name the keys that nothing reads, each with the known one most like it."""
        for key in sorted(map(str, given.keys() - set(known))):
            self.append(f"{where}: {key} is not a setting; allowed: {nearest(key, known)}")

    def line(self) -> str:
        """The first ones, and the number of the others."""
        left = len(self) - SHOWN_FAULTS
        return " | ".join([*self[:SHOWN_FAULTS], *([f"and {left} more"] if left > 0 else [])])


def parse_description(description: object, source: str = "") -> Superspace:
    """Turn a description (the content of a `conf/superspace` file) into a superspace.

    Raises:
        ConfigError: lists every fault with stage, field, value and what is allowed.
    """
    faults = _Faults()
    if not isinstance(description, Mapping):
        allowed = "a mapping with name, resolutions, candidates, stages"
        raise ConfigError(f"superspace {source}: description: content = {description!r}; allowed: {allowed}")
    keys = ("name", "resolutions", "candidates", "stages", "input_channels")
    own = {key: value for key, value in description.items() if key != "defaults"}  # that one is Hydra's
    faults.add_unknown("description", own, keys)
    name = description.get("name")
    if not isinstance(name, str) or re.fullmatch(NAME, name) is None:
        faults.add("description", "name", name, NAME_RULE)
    given = description.get("resolutions")
    resolutions = given if isinstance(given, Mapping) else {}
    faults.add_unknown("resolutions", resolutions, ("block", "supernet"))
    channels = description.get("input_channels", 3)
    if type(channels) is not int or not 1 <= channels <= 1000:
        faults.add("description", "input_channels", channels, "a whole number from 1 to 1000")
    result = Superspace(
        name=str(name),
        stages=_stages(description.get("stages"), faults),
        candidates=_candidates(description.get("candidates"), faults),
        block_resolutions=_integers(resolutions.get("block"), "resolutions", "block", faults),
        supernet_resolutions=_integers(resolutions.get("supernet"), "resolutions", "supernet", faults),
        input_channels=channels if type(channels) is int else 3,
    )
    if not faults and not result.searched:
        faults.add("stages", "searched stages", 0, "at least one stage without a fixed block")
    if not faults and ((last := result.stages[-1]).block is None or last.block.type != "Logits"):
        faults.add(last.name, "block", last.block, "the last stage is of type Logits")
    if faults:
        raise ConfigError(f"superspace {source}: {faults.line()}")
    return result


def _candidates(value: object, faults: _Faults) -> tuple[Candidate, ...]:
    if not isinstance(value, list) or not value:
        faults.add("candidates", "candidates", value, "a list of block types")
        return ()
    return tuple(_candidate(item, f"candidate {index}", faults) for index, item in enumerate(value))


def _candidate(item: object, where: str, faults: _Faults) -> Candidate:
    fields: Mapping[str, object] = item if isinstance(item, Mapping) else {}
    faults.add_unknown(where, fields, ("type", "kernels", "expands", "act"))
    types = block_types()
    kind = str(fields.get("type"))
    if kind not in types:
        faults.add(where, "type", fields.get("type"), choices(sorted(types), limit=99))
        return Candidate(kind, (1,), (None,), "none")
    act = next((known for known in ACTIVATIONS if known == fields.get("act", "none")), None)
    if act is None:
        faults.add(where, "act", fields["act"], choices(ACTIVATIONS))
    kernels = _integers(fields.get("kernels", [1]), where, "kernels", faults)
    if any(kernel % 2 == 0 for kernel in kernels):
        faults.add(where, "kernels", list(kernels), "odd sizes")
    expands: tuple[float | None, ...] = (None,)
    if types[kind].has_expand:
        expands = _ratios(fields.get("expands"), where, faults)
    elif "expands" in fields:
        faults.add(where, "expands", fields["expands"], f"none, {kind} has no expand ratio")
    return Candidate(kind, kernels, expands, act or "none")


def _ratios(value: object, where: str, faults: _Faults) -> tuple[float | None, ...]:
    ratios = value if isinstance(value, list) else []
    if not ratios or not all(
        type(ratio) in (int, float) and LEAST_RATIO <= ratio <= MOST["expands"] for ratio in ratios
    ):
        faults.add(where, "expands", value, f"a list of ratios from {LEAST_RATIO} to {MOST['expands']}")
        return (1.0,)
    return tuple(ratios)


def _stages(value: object, faults: _Faults) -> tuple[StageTemplate, ...]:
    if not isinstance(value, Mapping) or not value:
        faults.add("stages", "stages", value, "a mapping of stage names to stages")
        return ()
    for name in value:
        if re.fullmatch(NAME, str(name)) is None:
            faults.add("stages", "name of a stage", name, NAME_RULE)
    return tuple(_stage(str(name), item, faults) for name, item in value.items())


def _stage(name: str, item: object, faults: _Faults) -> StageTemplate:
    fields: Mapping[str, object] = item if isinstance(item, Mapping) else {}
    faults.add_unknown(name, fields, ("stride", "widths", "window", "depths", "block"))
    widths = _integers(fields.get("widths"), name, "widths", faults)
    depths = _integers(fields.get("depths", [1]), name, "depths", faults)
    stride, window = fields.get("stride", 1), fields.get("window", len(widths))
    if type(stride) is not int or stride not in (1, 2):
        faults.add(name, "stride", stride, "1, 2")
        stride = 1
    if type(window) is not int or not 1 <= window <= len(widths):
        faults.add(name, "window", window, f"1…{len(widths)}, the number of widths")
        window = len(widths)
    block = _candidate(fields["block"], name, faults) if "block" in fields else None
    if block is not None and window != len(widths):
        faults.add(name, "window", window, "none, the stage has a fixed block and is not searched")
    return StageTemplate(name, stride, widths, depths, window, block)


def _integers(value: object, where: str, field: str, faults: _Faults) -> tuple[int, ...]:
    """A list of ascending positive integers, written out or as `{min: 16, max: 32, step: 8}` (both ends included)."""
    numbers: list[object] = []
    if isinstance(value, Mapping) and value.keys() <= {"min", "max", "step"} and {"min", "max"} <= value.keys():
        low, high, step = value["min"], value["max"], value.get("step", 1)
        if all(type(end) is int for end in (low, high, step)) and step > 0 and high <= MOST[field]:
            numbers = [*range(low, high + 1, step)]
    elif isinstance(value, list):
        numbers = value
    whole = [n for n in numbers if type(n) is int and 0 < n <= MOST[field]]
    if not whole or numbers != sorted(set(whole)):
        allowed = f"ascending positive whole numbers, at most {MOST[field]}: a list, or {{min, max, step}}"
        faults.add(where, field, value, allowed)
        return (8,)
    return tuple(whole)
