"""An Android phone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date

from spaceevo.latency.adb import CLOCK, Phone
from spaceevo.latency.measure import Model, Timing
from spaceevo.latency.predictor import FixedLatency
from spaceevo.stages.platforms.tflite_cpu import TflitePlatform

RUNS_A_TIMING = 5


class Adb(TflitePlatform):
    """TFLite's `benchmark_model` on one core of a phone: INT8, batch 1.

    Args:
        name: name of the platform.
        superspace: name of the superspace.
        cache: folder of the tables.
        benchmark_model: path of `benchmark_model` on the phone.
        folder: a folder on the phone to work in.
        serial: which phone, as `adb devices` lists it; without, the only one.
        taskset: mask of the processors to run on, in hexadecimal.
        table: as every measuring platform's, like the next two.
        fixed_latency_ms: likewise.
        unknown_blocks: likewise.
    """

    packed_channels = 1

    def __init__(
        self,
        name: str,
        superspace: str,
        cache: str,
        benchmark_model: str,
        folder: str,
        serial: str | None = None,
        taskset: str | None = None,
        table: str | None = None,
        fixed_latency_ms: FixedLatency = None,
        unknown_blocks: str = "auto",
    ) -> None:
        self.phone = Phone(None if serial is None else str(serial), folder, benchmark_model, taskset)
        super().__init__(name, superspace, cache, table, fixed_latency_ms, unknown_blocks)

    def describe(self, name: str) -> dict[str, str]:
        """Phone, runtime, clock."""
        phone = self.phone
        return {
            "platform": name,
            "machine": f"{phone.property('ro.product.model')} {phone.serial}",
            "instructions": phone.property("ro.product.cpu.abi"),
            "runtime": "TFLite",
            "version": phone.benchmark_model,
            "threads": "1",
            "clock": CLOCK,
            "date": date.today().isoformat(),
        }

    def time_models(
        self, models: Mapping[str, Model], repeats: int, on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Timing]:
        """Time TFLite models one after the other; the phone repeats each."""
        found = dict[str, Timing]()
        for name in models:
            least, mean = self.phone.time_ms(models[name], RUNS_A_TIMING * repeats)
            found[name] = Timing(least, mean / least)
            if on_progress is not None:
                on_progress(len(found), len(models))
        return found
