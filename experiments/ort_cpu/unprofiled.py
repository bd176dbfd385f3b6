"""Tells how far predictions of a platform that was never profiled are off, as sums of blocks and corrected.

    python experiments/ort_cpu/unprofiled.py [platform] [superspace] [networks] [seed]

The platform's table is made anew in a temporary folder: its blocks, and the whole networks that correct them, are
measured as on first use; then random networks of other spaces, of which it knows nothing but their blocks.
"""

import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from spaceevo.latency.accuracy import PredictionError
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.measuring import WHOLE_NETWORKS, MeasuringPlatform
from spaceevo.runtimes.random_program import random_program
from spaceevo.space.description import superspace
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import subnet_blocks

RUNTIMES = {"ort_cpu": "onnxruntime", "openvino_cpu": "openvino", "tflite_cpu": "litert"}


def main() -> None:
    """Measure, predict, compare."""
    given = sys.argv[1:]
    name, space, count, seed = [*given, *["ort_cpu", "onnxw", "24", "1"][len(given) :]]
    with TemporaryDirectory() as cache:
        platform = MeasuringPlatform(name, RUNTIMES[name], space, cache, table=str(Path(cache) / "table.json"))
        corrected_by = sample_networks(superspace(space), Random(0), WHOLE_NETWORKS)
        unseen = sample_networks(superspace(space), Random(int(seed)), int(count), besides=corrected_by.values())
        placed = {text: subnet_blocks(*network) for text, network in unseen.items()}
        platform.ready(superspace(space))
        platform.ensure(block for blocks in placed.values() for block in blocks)
        measured = platform.measured_ms({text: random_program(blocks) for text, blocks in placed.items()})
        corrected = [platform.predictor.blocks_ms(blocks) for blocks in placed.values()]
        alone = BlockLatency(LatencyTable(platform.predictor.table.entries))
        sums = [alone.blocks_ms(blocks) for blocks in placed.values()]
        print(platform.machine, platform.predictor.table.correction, platform.predictor.table.provenance)
        for what, predicted in (("sums of blocks", sums), ("corrected", corrected)):
            mean = sum(ms / measured[text] - 1 for text, ms in zip(placed, predicted, strict=True)) / len(placed)
            error = PredictionError.of(predicted, [measured[text] for text in placed])
            print(f"{name}, {space}: {what}: mean bias {100 * mean:+.1f} %, {error}", flush=True)


if __name__ == "__main__":
    main()
