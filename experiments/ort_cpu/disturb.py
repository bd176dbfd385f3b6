"""Keeps a core busy in bursts of .3 s on average, as other programs on a core's twin do.

taskset -c 0 python experiments/ort_cpu/disturb.py SECONDS SHARE    # SHARE: of the time, .6 say
"""

import sys
import time
from random import Random

import numpy as np

BURST_S = 0.3


def main() -> None:
    """Work and sleep by turns."""
    seconds, share = map(float, sys.argv[1:])
    rng, factor = Random(0), np.random.default_rng(0).random((300, 300))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rest = time.monotonic() + rng.expovariate(1 / BURST_S)
        while time.monotonic() < rest:
            factor @ factor
        time.sleep(rng.expovariate(share / (1 - share) / BURST_S))


if __name__ == "__main__":
    main()
