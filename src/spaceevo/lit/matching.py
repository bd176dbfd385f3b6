"""Do images fit a trained network? Classes are matched by name, what images go through setting by setting."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from unicodedata import normalize

from spaceevo.artifacts import Plain
from spaceevo.collectives.launcher import is_first
from spaceevo.errors import ConfigError, choices
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.space.superspace import Superspace
from spaceevo.terminal import console

RECALIBRATED = "batch norm is recalibrated on images of these alone; with all classes in train top-1 may be higher"
TRAINING = frozenset({"crop_scale", "crop_ratio", "flip", "auto_augment"})
"""Settings of `data.transform` that no image of evaluation goes through."""
TOLD = 4  # Settings that differ, of which a line tells


def evaluation_settings(data: ImageFolderDataModule) -> dict[str, Plain]:
    """Return the settings of `data.transform` that decide what a network sees in evaluation, as plain values."""
    settings = {name: value for name, value in asdict(data.transform).items() if name not in TRAINING}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def match_images(
    data: ImageFolderDataModule, meta: CheckpointMeta, what: str, outputs: int, *, in_part: bool = True
) -> tuple[str, ...]:
    """Check that images fit a trained network and label them as its outputs; return the names of its classes.

    A network that does not say which classes it knows takes as many as it has outputs, in the images' order. What is
    taken for what is said in a line.

    Args:
        data: the images; from now on their labels are the network's outputs.
        meta: what is known of the network.
        what: its name in messages.
        outputs: the number of its outputs.
        in_part: whether images of some of its classes fit too.

    Raises:
        ConfigError: the images have classes that the network does not know, or go through something else.
    """
    check_transform(data, meta, what)
    if fault := _misfit(meta.classes, data.classes, outputs, in_part):
        remedy = "give it these by +stage=finetune" if in_part else "train fp32 weights on these (quant=off)"
        raise ConfigError(f"{what} {fault} of data.root {data.root}; set that to images of its classes, or {remedy}")
    known = meta.classes or data.classes
    output_of = {normalize("NFC", name): output for output, name in enumerate(known)}
    labels = tuple(output_of[normalize("NFC", name)] for name in data.classes)
    if labels == data.outputs:  # they fit another precision of the same network, and all has been said
        return known
    data.label_as(labels)
    note = ""
    if len(labels) < len(known):
        note = f"evaluates on {len(labels)} of the network's {len(known)} classes; {RECALIBRATED}"
    if not meta.classes:
        note = f"class names unknown: the outputs of {what} are taken in the order of the images' classes"
    if note and is_first():
        console.print(note)
    return known


def _misfit(known: Sequence[str], given: Sequence[str], outputs: int, in_part: bool) -> str:
    """Why a network does not fit the classes `given`; nothing where it does."""
    if not known:
        unnamed = f"has {outputs} outputs, whose classes it does not name, and not the {len(given)} classes"
        return "" if len(given) == outputs else unnamed
    if len(known) > outputs:
        return f"has {outputs} outputs, too few for the {len(given)} classes"
    there, here = ({normalize("NFC", name) for name in side} for side in (known, given))
    if here - there:
        return f"knows {len(known)} classes ({_listed(known)}), and not {_listed(here - there)}"
    if there - here and not in_part:
        return f"goes on training on all its {len(known)} classes, and misses {_listed(there - here)} among those"
    return ""


def _listed(names: Iterable[str]) -> str:
    return choices((name if len(name) <= 24 else f"{name[:23]}…" for name in sorted(names)), limit=5)


def check_transform(data: ImageFolderDataModule, meta: CheckpointMeta, what: str) -> None:
    """Check that images go through what they went through when a network was trained, as far as its file says.

    Raises:
        ConfigError: they do not; names the settings, and what to set.
    """
    differing = _differing(data, meta)
    if differing:
        told = ", ".join(f"data.transform.{name} is {_text(here)}" for name, (here, _) in differing.items())
        trained = " ".join(f"data.transform.{name}={_text(there)}" for name, (_, there) in differing.items())
        raise ConfigError(f"{told}; {what} was trained with {trained}: set that, or train anew")


def tell_transform(data: ImageFolderDataModule, meta: CheckpointMeta, what: str) -> None:
    """Say in a line which images a teacher was trained on, where it is shown others."""
    differing = _differing(data, meta)
    if differing and is_first():
        told = ", ".join(f"{name}={_text(there)}, not {_text(here)}" for name, (here, there) in differing.items())
        console.print(f"{what} was trained with data.transform.{told}; its features may teach less")


def check_shape(data: ImageFolderDataModule, superspace: Superspace, resolution: int) -> None:
    """Check that images have the channels that a superspace's networks take, and are not smaller than a resolution.

    Raises:
        ConfigError: they have or are.
    """
    transform, channels = data.transform, superspace.input_channels
    if channels not in (1, 3):
        raise ConfigError(
            f"superspace {superspace.name}: input_channels = {channels}; allowed, since images have them: 1, 3"
        )
    if transform.channels != channels:
        raise ConfigError(
            f"data.transform.channels is {transform.channels}; allowed: {channels}, since superspace {superspace.name} "
            f"has input_channels: {channels}; set it, and as many numbers in data.transform.mean and std"
        )
    if transform.size < resolution:
        raise ConfigError(
            f"data.transform.size is {transform.size}; allowed: at least {resolution}, the largest resolution of the "
            "network; set data.transform.size, or the superspace's resolutions"
        )


def _differing(data: ImageFolderDataModule, meta: CheckpointMeta) -> dict[str, tuple[Plain, Plain]]:
    """The first settings that differ, here and there; those of which one side does not know are left out."""
    here = evaluation_settings(data)
    pairs = {name: (here[name], there) for name, there in meta.transform.items() if here.get(name, there) != there}
    return dict(list(pairs.items())[:TOLD])


def _text(value: Plain) -> str:
    """A value as an override has it."""
    return json.dumps(value, separators=(",", ":")).replace('"', "")
