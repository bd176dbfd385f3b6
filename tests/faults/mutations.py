"""Damages valid files, by a seed: bits, bytes and lengths of any; keys, values and cells of JSON, YAML and tables."""

import copy
import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

BIG, DEEP = "<number of 5,000 digits>", "<200,000 brackets>"
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e39, 1e-320, -0.5, 2**63, 10**30, math.nan, math.inf, -math.inf, "", "1", "x" * 10_000,
    "../..", "\ud800", "\0", "${oc.env:HOME}", [], {}, [[]], {"_target_": "os.system"}, ["a", 1], BIG, DEEP,
)  # fmt: skip
"""Values that no reader waits for."""
CELLS = ("", "nan", "inf", "-1", "1e39", "1e999", "9" * 5_000, "x" * 10_000, "None", "0", "1x1", "\0", "é", "'", "#")
Damage = Callable[[bytes, Random], bytes]


def damaged_bytes(content: bytes, rng: Random) -> bytes:
    """Flip, cut, insert, repeat or replace some bytes."""
    data = bytearray(content)
    place = rng.randrange(len(data) + 1)
    length = min(len(data) - place, 1 << rng.randrange(10))
    noise = rng.randbytes(length or 8)
    match rng.randrange(8):
        case 0 | 1:
            for _ in range(1 << rng.randrange(4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            del data[place:]
        case 3:
            del data[place : place + length]
        case 4:
            data[place:place] = noise
        case 5:
            data[place : place + length] = noise[:length]
        case 6:
            data[place:place] = data[place : place + length] * rng.randrange(1, 50)
        case _:
            data = bytearray(rng.choice([b"", b"\0" * 100, rng.randbytes(500), b"[" * 200_000, b"{" * 9_000]))
    return bytes(data)


def damaged_json(content: bytes, rng: Random) -> bytes:
    """Replace, rename, add or take away one to three values of a JSON text; now and then damage its bytes."""
    if rng.random() < 0.2:
        return damaged_bytes(content, rng)
    tree = json.loads(content)
    for _ in range(rng.randrange(1, 4)):
        tree = _changed(tree, rng)
    text = json.dumps(tree)
    text = text.replace(json.dumps(BIG), "9" * 5_000).replace(json.dumps(DEEP), "[" * 200_000 + "]" * 200_000)
    return text.encode()


def _changed(tree: Any, rng: Random) -> Any:
    places = list(_places(tree))
    if not places:
        return copy.deepcopy(rng.choice(ODD))
    holder, key = rng.choice(places)
    match rng.randrange(4):
        case 0 if isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        case 1:
            del holder[key]
        case _:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    return [(tree, key) for key in keys] + [place for key in keys for place in _places(tree[key])]


def damaged_table(content: bytes, rng: Random) -> bytes:
    """Replace a cell of comma-separated lines, or repeat, drop or tear one; now and then damage the bytes."""
    if rng.random() < 0.3:
        return damaged_bytes(content, rng)
    lines = content.decode().splitlines()
    number = rng.randrange(len(lines))
    cells = lines[number].split(",")
    cells[rng.randrange(len(cells))] = rng.choice(CELLS)
    lines[number] = ",".join(cells if rng.random() < 0.8 else cells[: rng.randrange(len(cells))])
    return "\n".join(lines).encode(errors="surrogatepass")
