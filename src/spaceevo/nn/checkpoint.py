"""Our checkpoints: a file of tensors and plain values, and the record of what its weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import nn

from spaceevo.artifacts import Plain, atomic_path, seal
from spaceevo.errors import CheckpointError, shortened
from spaceevo.nn.finite import check_weights

SCHEMA = 1  # Version of the record; files of version 0.1.0 of the package have none and count as 0
TEXTS = ("space", "subnet", "block", "teacher", "quant", "data", "fingerprint", "version")
"""Fields of the record that are texts."""


@dataclass(frozen=True)
class CheckpointMeta:
    """Says what the weights of a checkpoint are; fields that do not apply are empty."""

    space: str = ""  # encoding of the space whose supernet, or whose subnet, this is
    subnet: str = ""  # encoding of the subnet
    block: str = ""  # name of the candidate block, e.g. `stage1_0`
    teacher: str = ""  # name of the teacher
    classes: tuple[str, ...] = ()  # names of the classes, by label
    # what images go through in evaluation, as `data.transform` has it
    transform: Mapping[str, Plain] = field(default_factory=dict)
    quant: str = ""  # scheme that the weights were trained under, e.g. `deploy`; `off` for fp32
    data: str = ""  # name of the images it was finetuned on
    epochs: int | None = None  # finished epochs, of released weights
    fingerprint: str = ""  # hash of the settings and inputs that it was trained with
    figures: Mapping[str, float] = field(default_factory=dict)  # what training measured, with the unit in the name
    # other settings of the training by name, e.g. `lr`; for people
    settings: Mapping[str, object] = field(default_factory=dict)
    version: str = ""
    schema: int = SCHEMA

    @property
    def int8(self) -> bool:
        """Whether the weights were trained with quantisers on."""
        return self.quant not in ("", "off")

    def to_plain(self) -> dict[str, object]:
        """Write the record as plain values, as the file keeps it; empty fields are left out."""
        record = {name: value for name, value in asdict(self).items() if value not in ("", (), None, {})}
        return record | ({"classes": list(self.classes)} if self.classes else {})

    @classmethod
    def from_plain(cls, record: object) -> CheckpointMeta:
        """Read what `to_plain` wrote, now or in version 0.1.0; values without a field of their own become settings."""
        if not isinstance(record, Mapping):
            raise CheckpointError(f"its record is a {type(record).__name__}; expected a mapping of plain values")
        schema = record.get("schema", 0)
        if not isinstance(schema, int) or schema > SCHEMA:
            raise CheckpointError(f"its record has schema {schema!r}; this version reads 0…{SCHEMA}; update spaceevo")
        texts = {name: record.get(name) or "" for name in TEXTS}
        classes = record.get("classes") or ()
        wrong = [name for name, text in texts.items() if not isinstance(text, str)]
        if not (isinstance(classes, list | tuple) and all(isinstance(each, str) for each in classes)):
            wrong.append("classes")
        if wrong:
            told = shortened(repr(record[wrong[0]]), 80)
            raise CheckpointError(f"its record is malformed ({wrong[0]} = {told}; it must be of texts)")
        known = {each.name for each in fields(cls)}
        settings = {str(name): value for name, value in record.items() if name not in known}
        try:
            return cls(
                **texts,
                classes=tuple(classes),
                transform=dict(record.get("transform") or {}),
                epochs=record.get("epochs"),
                figures=dict(record.get("figures") or {}),
                settings={**(record.get("settings") or {}), **settings},
                schema=SCHEMA,
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"its record is malformed ({error})") from None


def save_checkpoint(path: Path, module: nn.Module, meta: CheckpointMeta) -> None:
    """Write a module's weights and what they are, atomically; a CheckpointError where some are no numbers."""
    check_weights(module.state_dict(), f"{path} is not written")
    state = {key: value.detach().cpu() for key, value in module.state_dict().items()}
    with atomic_path(path) as temporary:
        write_sealed(temporary, {"state_dict": state, "meta": meta.to_plain()})


def write_sealed(path: Path, content: object) -> None:
    """Write what torch can save, and a checksum; equal contents give equal files, whatever they are called."""
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        # torch's writer puts a fault of its own in place of the full disk's
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None
    seal(path)
