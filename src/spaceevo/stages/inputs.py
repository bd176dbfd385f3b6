"""States of what jobs read that is no single file: images, and the table of a platform."""

from __future__ import annotations

from spaceevo.artifacts import Plain
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.platforms.base import Platform
from spaceevo.stages.job import Input


def images_input(data: ImageFolderDataModule) -> Input:
    """Return the images as an input: their names, labels, splits and content, wherever they lie."""
    return Input(lambda _: data.content_hash)


def platform_input(platform: Platform) -> Input:
    """Return a platform's latency table as an input; blocks measured since then leave a result current."""

    def state(known: Plain) -> Plain:
        return platform.table_state(known.get("entries") if isinstance(known, dict) else None)

    return Input(state, grows=True)
