"""Which candidate blocks and width windows a command asks for."""

from collections.abc import Sequence

from spaceevo.errors import ConfigError, choices
from spaceevo.space.superspace import Superspace

BlockName = tuple[str, int]


def parse_blocks(superspace: Superspace, block: str | Sequence[str]) -> list[BlockName]:
    """Read `block=stage1_0`, a stage's name for all its candidates, a list of such, or `all`."""
    indices = range(len(superspace.candidates))
    stages = {stage.name: [(stage.name, index) for index in indices] for stage in superspace.searched}
    named = {f"{stage}_{index}": [(stage, index)] for blocks in stages.values() for stage, index in blocks}
    allowed = {"all": [one for blocks in stages.values() for one in blocks], **stages, **named}
    found: dict[BlockName, None] = {}
    for text in [block] if isinstance(block, str) else block:
        if str(text) not in allowed:
            raise ConfigError(
                f"unknown block '{text}' of superspace {superspace.name}; allowed: {choices(allowed, 60)}"
            )
        found |= dict.fromkeys(allowed[str(text)])
    return list(found)


def parse_windows(superspace: Superspace, window: int | Sequence[int] | None) -> set[int]:
    """Read `window=1`, a list of such, or none for all. A stage with fewer windows has no share in the higher ones."""
    most = max(stage.windows for stage in superspace.searched)
    asked = range(most) if window is None else [window] if isinstance(window, int) else window
    for value in asked:
        if not isinstance(value, int) or not 0 <= value < most:
            raise ConfigError(f"unknown window {value!r} of superspace {superspace.name}; allowed: 0…{most - 1}")
    return set(asked)
