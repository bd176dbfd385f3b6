"""Readers of what jobs leave for others, each with a valid file: checkpoints, tables, records, descriptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import nn

from spaceevo.artifacts import Front, SpaceChoice, StageResult, read_json, read_yaml
from spaceevo.errors import SpaceEvoError
from spaceevo.jobs.trust import require_data
from spaceevo.latency.roofline import Correction, Roofline
from spaceevo.latency.table import LatencyTable
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_checkpoint
from spaceevo.quant.program_file import load_program, save_program
from spaceevo.runtimes.litert.runtime import LiteRt
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.search.evolution import SearchState
from spaceevo.search.lut import LutRow, _checked_hash, read_lut_file, write_lut_file
from spaceevo.space.description import conf_files, parse_description, parse_space, superspace
from spaceevo.space.encoding import SubnetSpec, parse_substage
from spaceevo.space.listing import read_list
from spaceevo.space.spec import BlockSpec
from spaceevo.stages.fitness import _line
from spaceevo.stages.fitness import _read as read_evaluations
from spaceevo.stages.job import value_input
from spaceevo.stages.lut_files import LutFile
from tests.faults.mutations import Damage, damaged_bytes, damaged_json, damaged_table

SPACE = "digits-012-110"
DIGITS = superspace("digits")
SUBNET = str(parse_space(SPACE).smallest)
PROGRAM = random_block_program(BlockSpec("MobileNetV3Res", 8, 16, 3, 2, 1, "hswish"), 5)


class Reader(NamedTuple):
    """Says how a file is written, damaged and read."""

    file: str  # its name
    write: Callable[[Path], object]
    damage: Damage
    read: Callable[[Path], object]


def _result(path: Path) -> None:
    settings, figures = {"seed": 0, "data.root": "x"}, {"top1": 91.5, "rows": [{"name": "a", "ms": 1.0}]}
    StageResult("cost", "0123", 0, figures, settings, {"images": "abc"}, {"table": "x.csv"}).save(path.parent)


def _front(path: Path) -> None:
    row = {"platform": "a", "subnet": SUBNET, "asked_ms": "1.0", "latency_ms": 1.0, "measured_ms": None}
    row |= {"held_out_top1": 90.0, "top1": 89.0, "mmacs": 1.0, "mparams": 0.1, "file": "0"}
    limits = {"a": [1.0]}
    content = {"space": SPACE, "chosen": SUBNET, "front": [row], "latency_constraints_ms": [1.0], "limits_ms": limits}
    _json({**content, "chosen_by_limit": {"a": {"1.0": SUBNET}}, "schema": 2})(path)


def _json(value: object) -> Callable[[Path], object]:

    return lambda path: path.write_text(json.dumps(value))


def _evaluations(path: Path) -> None:
    path.write_text(f"{_line(SubnetSpec.parse(SUBNET), [3, 4])}\n")


def _made(path: Path) -> None:
    """Read the file as the record of a table, and as a table in the making."""
    table = LutFile(path.parent / "tables" / path.name, "a", value_input({}))
    for file in (table.made, table.unfinished, table.path):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.read_bytes())
    table.is_current()
    table.begin([])
    _checked_hash(table.path, "")


def _state(path: Path) -> object:
    return SearchState.from_json(dict(read_json(path)), parse_space)


def _table(path: Path) -> None:
    model = Roofline({"ResNet relu": {"constant": 0.01, "weights": 0.1}})
    LatencyTable({"a": 1.0, "b": 2.0}, {"machine": "m"}, {"a": 3}, model, Correction(1.1, 0.06)).save(path)


def _weights(zipped: bool) -> Callable[[Path], object]:
    content = {"state_dict": nn.Linear(3, 2).state_dict(), "meta": CheckpointMeta(quant="off").to_plain()}
    return lambda path: torch.save(content, path, _use_new_zipfile_serialization=zipped)


def _looked_into(runtime: OnnxRuntime | LiteRt) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        content = path.read_bytes()
        for look in (runtime.metadata, runtime.op_counts, runtime.float_ops):
            look(content)

    return read


def _superspace(path: Path) -> object:
    require_data(path, "superspace")
    return parse_description(read_yaml(path), source="it")


def _encoding(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    for parse in (SubnetSpec.parse, parse_space, parse_substage):
        with suppress(SpaceEvoError):
            parse(text)
    SubnetSpec.parse(text)


READERS = {
    "result": Reader("result.json", _result, damaged_json, lambda path: StageResult.load(path.parent)),
    "choice": Reader("best.json", SpaceChoice(SPACE, (1.0,), 0.5, 0.4, 0.3).write, damaged_json, SpaceChoice.read),
    "front": Reader("front.json", _front, damaged_json, Front.read),
    "search": Reader(
        "search.json",
        _json(SearchState(Random(0), [parse_space(SPACE)], [parse_space(SPACE)], {parse_space(SPACE): 0.5}).to_json()),
        damaged_json,
        _state,
    ),
    "evaluations": Reader("e.jsonl", _evaluations, damaged_json, read_evaluations),
    "record of a look-up table": Reader(
        "stage1_0_0.csv",
        lambda path: path.write_text('{"origin": "a", "latencies": {}, "table": "b"}'),
        damaged_json,
        _made,
    ),
    "latency table": Reader("table.json", _table, damaged_json, LatencyTable.load),
    "look-up table": Reader(
        "stage1_0_0.csv",
        lambda path: write_lut_file(path, [LutRow("3#16#2_5#24#3", 8, 16, 0.5, 1.0, 0.1, 2.0)] * 5),
        damaged_table,
        read_lut_file,
    ),
    "list of subnets": Reader(
        "input.csv",
        lambda path: path.write_text(
            "superspace,space,subnet\n" + f"digits,{SPACE},max\ndigits,{SPACE},{SUBNET}\n" * 3
        ),
        damaged_table,
        read_list,
    ),
    "program": Reader("p.safetensors", lambda path: save_program(path, PROGRAM), damaged_bytes, load_program),
    "checkpoint": Reader("a.pth", _weights(True), damaged_bytes, lambda path: read_checkpoint(path, "it")),
    "older checkpoint": Reader("a.pth", _weights(False), damaged_bytes, lambda path: read_checkpoint(path, "it")),
    "own checkpoint": Reader(
        "b.pth",
        lambda path: save_checkpoint(path, nn.Linear(3, 2), CheckpointMeta(quant="off")),
        damaged_bytes,
        lambda path: read_checkpoint(path, "it"),
    ),
    "superspace": Reader(
        "s.yaml",
        lambda path: path.write_bytes(conf_files("superspace")["digits"].read_bytes()),
        damaged_bytes,
        _superspace,
    ),
    "superspace in JSON": Reader(
        "s.yaml",
        lambda path: _json(read_yaml(conf_files("superspace")["digits"]))(path),
        damaged_json,
        _superspace,
    ),
    "ONNX": Reader(
        "a.onnx",
        lambda path: path.write_bytes(OnnxRuntime().write(PROGRAM)),
        damaged_bytes,
        _looked_into(OnnxRuntime()),
    ),
    "TFLite": Reader(
        "a.tflite", lambda path: path.write_bytes(LiteRt().write(PROGRAM)), damaged_bytes, _looked_into(LiteRt())
    ),
    "encoding": Reader("e.txt", lambda path: path.write_text(SUBNET), damaged_bytes, _encoding),
}
