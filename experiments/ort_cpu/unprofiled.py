"""Tells how far predictions of a platform that was never profiled are off, as sums of blocks and corrected.

    python experiments/ort_cpu/unprofiled.py [platform] [superspace] [networks] [seed]

The platform's table is made anew in a temporary folder, its correction as on first use. What it predicts of random
networks of other spaces is held against them: they and their blocks are measured mixed, in some rounds of which the
least counts, so that the ratios hold on a busy machine too.
"""

import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from spaceevo.latency.accuracy import PredictionError
from spaceevo.latency.table import LatencyTable
from spaceevo.latency.whole import WholeNetworks
from spaceevo.platforms.measuring import WHOLE_NETWORKS, MeasuringPlatform
from spaceevo.space.description import superspace
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import block_key, subnet_blocks

RUNTIMES = {"ort_cpu": "onnxruntime", "openvino_cpu": "openvino", "tflite_cpu": "litert"}
ROUNDS = 4


def main() -> None:
    """Measure, predict, compare."""
    given = sys.argv[1:]
    name, space, count, seed = [*given, *["ort_cpu", "onnxw", "24", "1"][len(given) :]]
    with TemporaryDirectory() as cache:
        platform = MeasuringPlatform(name, RUNTIMES[name], space, cache, table=str(Path(cache) / "table.json"))
        known = sample_networks(superspace(space), Random(0), WHOLE_NETWORKS)
        unseen = sample_networks(superspace(space), Random(int(seed)), int(count), besides=known.values())
        placed = {text: subnet_blocks(*network) for text, network in unseen.items()}
        platform.ready(superspace(space))
        blocks = {block_key(*block): block for row in placed.values() for block in row}
        rounds = [platform.together_ms(blocks, placed) for _ in range(ROUNDS)]
    found = {text: min(each[text] for each in rounds) for text in rounds[0]}
    measured = [found[text] for text in placed]
    whole = WholeNetworks.of(LatencyTable({key: found[key] for key in blocks}), list(placed.values()), measured)
    scale, ms_per_mparam = platform.predictor.table.correction.scale, platform.predictor.table.correction.ms_per_mparam
    corrected = [scale * ms + ms_per_mparam * mparams for ms, mparams, _ in zip(*whole, strict=True)]
    print(platform.machine, platform.predictor.table.correction)
    for what, predicted in (("sums of blocks", whole.sums_ms), ("corrected", corrected)):
        mean = sum(ms / true - 1 for ms, true in zip(predicted, measured, strict=True)) / len(placed)
        print(f"{name}, {space}: {what}: mean bias {100 * mean:+.1f} %, {PredictionError.of(predicted, measured)}")


if __name__ == "__main__":
    main()
