"""Predicts the bytes that blocks and a network's ends take: of files, and of a microcontroller's memory."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from spaceevo.quant.program import Op
from spaceevo.runtimes.hollow_program import NamedBlock, hollow_program
from spaceevo.runtimes.random_program import empty_program
from spaceevo.runtimes.registry import runtime_named
from spaceevo.runtimes.tflm.memory import arena_parts, flash_bytes, part_bytes
from spaceevo.space.spec import BlockSpec

KB = 1e3
ENDS_BYTES = 1_500  # Of a file: its metadata but for the names of classes, and what it holds to normalise images
NAMES_BYTES = 64  # Of an ONNX file: by so much at most the names of a block's neighbours are longer than when alone
BLOCK_NAME = "stage0.0"  # Of a block by itself; names of other places are about as long


@lru_cache(maxsize=1 << 16)
def onnx_kb(spec: BlockSpec, hw: int) -> float:
    """Compute what a block of an input `hw` high and wide adds to an INT8 ONNX file, in kB."""
    runtime = runtime_named("onnxruntime")
    alone, thin, left_out = hollow_program([NamedBlock(BLOCK_NAME, spec, hw)]), list[Op](), 0
    for op in alone.ops:  # written without most of the weights, whose bytes are known
        if (weights := op.weights) is not None:
            slim = replace(weights, weight=weights.weight[:, :1])
            left_out += weights.weight.size - slim.weight.size
            op = replace(op, weights=slim)
        thin.append(op)
    written = len(runtime.write(replace(alone, ops=thin))) - len(runtime.write(empty_program((spec.cin, hw, hw))))
    return (written + left_out + NAMES_BYTES) / KB


@lru_cache(maxsize=1 << 16)
def tflite_kb(spec: BlockSpec, hw: int) -> float:
    """Compute what it adds to a TFLite file, in kB."""
    alone = hollow_program([NamedBlock(BLOCK_NAME, spec, hw)])
    return (flash_bytes(alone) - flash_bytes(empty_program((spec.cin, hw, hw)))) / KB


@lru_cache(maxsize=1 << 16)
def memory_kb(spec: BlockSpec, hw: int) -> tuple[float, float]:
    """Compute the memory a block needs while it runs, and as long as the network is loaded, in kB."""
    planned, lasting = part_bytes(hollow_program([NamedBlock(BLOCK_NAME, spec, hw)]))
    return planned / KB, lasting / KB


def ends_memory_kb(channels: int, resolution: int) -> tuple[float, float]:
    """Compute the memory that images and logits need while they are converted, and as long as the network is loaded."""
    planned, lasting = arena_parts(empty_program((channels, resolution, resolution)))
    return planned / KB, lasting / KB


def ends_file_kb(channels: int, resolution: int, classes: Sequence[str]) -> tuple[float, float]:
    """Compute the kB of an ONNX and of a TFLite file besides its blocks."""
    empty = empty_program((channels, resolution, resolution))
    texts = ENDS_BYTES + sum(len(name.encode()) + len('"", ') for name in classes)
    return (len(runtime_named("onnxruntime").write(empty)) + texts) / KB, (flash_bytes(empty) + texts) / KB
