"""Stage convert: a released checkpoint as one of ours, where the other stages look for it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from torch import nn

from spaceevo.errors import CheckpointError, ConfigError, MissingArtifactError
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_released
from spaceevo.nn.released import Released, load_parsed
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import prepare
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.stages.base import Context, Outcome, StageCallback
from spaceevo.teacher import make_teacher


class ConvertStage(StageCallback):
    """Writes the supernet, block or teacher of a released file under our names; what it is, its names say."""

    name = "convert"
    main_figure = "tensors"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The released file."""
        return {"released": _source(context)}

    def work(self, context: Context) -> Outcome:
        """Read, rename, write."""
        path = _source(context)
        if not path.is_file():
            raise MissingArtifactError("the released checkpoint", path, context.command("convert", "checkpoint=…"))
        released = read_released(path)
        make = {"supernet": _supernet, "block": _block, "teacher": _teacher}[released.kind]
        network, target, meta = make(context, released, path)
        loaded = load_parsed(network, released, path)
        meta = replace(meta, quant="published" if released.int8 else "off", epochs=loaded.epochs)
        save_checkpoint(target, network, meta)
        figures = {
            "kind": released.kind,
            "precision": "int8" if released.int8 else "fp32",
            "tensors": len(released.state) - len(loaded.unused),
            "unused_tensors": len(loaded.unused),
            "quantised_layers": loaded.quantised,
            "epochs": loaded.epochs,
        }
        quant = f"quant={meta.quant}"
        following = {
            "supernet": context.command("evaluate", f"space={meta.space}", quant),
            "block": context.command("block_lut", quant),
            "teacher": context.command("block_kd", quant),
        }
        return Outcome(figures, {"checkpoint": target}, following[released.kind])


def _source(context: Context) -> Path:
    if not context.plain["checkpoint"]:
        raise ConfigError("checkpoint is not set; set checkpoint=<a released .pth file>")
    return Path(context.plain["checkpoint"])


Made = tuple[nn.Module, Path, CheckpointMeta]


def _scheme(released: Released) -> str:
    """fp32 networks of ours carry the quantisers of `deploy`, switched off."""
    return "published" if released.int8 else "deploy"


def _supernet(context: Context, released: Released, path: Path) -> Made:
    member = context.member
    target = context.layout.supernet(str(member), released.int8)
    return Supernet(member, _scheme(released)), target, CheckpointMeta(space=str(member))


def _block(context: Context, released: Released, path: Path) -> Made:
    """A student; which one, `block` says or, as in the published layout, the file's folder."""
    asked = context.plain["block"] if context.plain["block"] != "all" else path.resolve().parent.name
    match = re.fullmatch(r"(\w+)_(\d+)", str(asked))
    if match is None:
        raise ConfigError(f"block = {asked!r} does not say which block {path} is; set it, e.g. block=stage1_0")
    space, index = context.superspace.stage_space(match[1], int(match[2])), int(match[2])
    channels = _projected(released, "in_proj", 1, path), _projected(released, "out_proj", 0, path)
    target = context.layout.block(context.superspace.name, match[1], index, released.int8)
    return BlockStudent(space, channels, quant_scheme(_scheme(released))), target, CheckpointMeta(block=str(asked))


def _projected(released: Released, name: str, axis: int, path: Path) -> int:
    """Channels on the teacher's side of a projection."""
    for key in (f"{name}.weight", f"{name}.conv.weight"):
        if key in released.state:
            return released.state[key].shape[axis]
    raise CheckpointError(f"{path} lacks {name}.weight; it is no student of block-wise distillation")


def _teacher(context: Context, released: Released, path: Path) -> Made:
    classes = released.state["_fc.weight"].shape[0] if "_fc.weight" in released.state else 1
    teacher = make_teacher(context.teacher, classes)
    if released.int8:
        prepare(teacher.model)
    target = context.layout.teacher(context.teacher.name, released.int8)
    return teacher, target, CheckpointMeta(teacher=context.teacher.name, settings={"num_classes": classes})
