"""What jobs leave behind: files, where they lie, what they say, and what decides them."""

from spaceevo.artifacts.files import (
    Plain,
    atomic_path,
    cache_folder,
    file_hash,
    fingerprint,
    read_json,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)
from spaceevo.artifacts.identity import Component, Leaf, Neutral, differences, identity, leaves
from spaceevo.artifacts.layout import Layout
from spaceevo.artifacts.records import (
    FRONT_FILE,
    RESULT_FILE,
    Front,
    FrontSubnet,
    SpaceChoice,
    StageResult,
    parse_record,
)

__all__ = [
    "FRONT_FILE",
    "RESULT_FILE",
    "Component",
    "Front",
    "FrontSubnet",
    "Layout",
    "Leaf",
    "Neutral",
    "Plain",
    "SpaceChoice",
    "StageResult",
    "atomic_path",
    "cache_folder",
    "differences",
    "file_hash",
    "fingerprint",
    "identity",
    "leaves",
    "parse_record",
    "read_json",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_text",
]
