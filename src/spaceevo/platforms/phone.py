"""Measures on an Android phone, which is reached through `adb` and runs TFLite's `benchmark_model`."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from spaceevo.artifacts.values import Channels, Index, Name, Seed
from spaceevo.errors import ConfigError
from spaceevo.latency.predictor import FixedLatency
from spaceevo.platforms.base import WHERE
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.machine import provenance
from spaceevo.runtimes.timing import Timing

CLOCK = "benchmark_model, wall"
STATISTICS = re.compile(r"count=(\d+).*?\bmin=([\d.e+]+).*?\bavg=([\d.e+]+)")
TIMEOUT_S = 600
RUNS_A_TIMING = 5


class Phone:
    """Runs TFLite files on one core of a phone.

    Args:
        serial: the phone, as `adb devices` lists it; without, the only one.
        folder: a folder on the phone to work in.
        benchmark_model: path of TFLite's `benchmark_model` on the phone.
        taskset: mask of the processors to run on, in hexadecimal, e.g. `80` for the largest core of a Pixel 4.
    """

    def __init__(self, serial: str | None, folder: str, benchmark_model: str, taskset: str | None = None) -> None:
        if shutil.which("adb") is None:
            raise ConfigError(
                "platform=adb needs the program adb on PATH; install the Android platform tools, "
                "or take platform=tflite_cpu to measure on this machine"
            )
        self.folder = folder
        self.benchmark_model = benchmark_model
        self.taskset = taskset
        self.serial = self._choose(serial)

    def _choose(self, serial: str | None) -> str:
        lines = [line.split() for line in self._adb(["devices"]).splitlines()[1:] if line.strip()]
        states = {line[0]: line[1] for line in lines if len(line) >= 2}
        ready = [name for name, state in states.items() if state == "device"]
        listed = ", ".join(f"{name} ({state})" for name, state in states.items()) or "none"
        if serial is not None and serial not in ready:
            raise ConfigError(f"platform.serial = {serial} is not a phone that adb can use; adb lists: {listed}")
        if serial is None and len(ready) != 1:
            raise ConfigError(
                f"adb finds {len(ready)} usable phones, not one; it lists: {listed}; connect one and allow USB "
                "debugging, or set platform.serial"
            )
        return serial or ready[0]

    def _adb(self, arguments: Sequence[str]) -> str:
        try:
            done = subprocess.run(["adb", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            raise ConfigError(f"adb {' '.join(arguments)} took over {TIMEOUT_S} s; is the phone awake?") from None
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-300:]
            raise ConfigError(f"adb {' '.join(arguments)} failed: {said or f'exit code {done.returncode}'}")
        return done.stdout + done.stderr

    def shell(self, *command: str) -> str:
        """Run a command on the phone; return its output."""
        return self._adb(["-s", self.serial, "shell", *command])

    def provenance(self, runtime: Runtime) -> dict[str, str]:
        """Say phone, program and clock."""
        model, abi = (self.shell("getprop", f"ro.product.{name}").strip() for name in ("model", "cpu.abi"))
        return provenance(f"{model} {self.serial}", abi, "TFLite", self.benchmark_model, CLOCK)

    def time_models(self, runtime: Runtime, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        """Time TFLite files one after the other; the phone repeats each."""
        return {name: self.time(file, RUNS_A_TIMING * repeats) for name, file in models.items()}

    def time(self, file: bytes, runs: int) -> Timing:
        """Time a TFLite file on one thread; the dispersion is the mean's over the least."""
        remote = f"{self.folder}/spaceevo.tflite"
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "model.tflite"
            local.write_bytes(file)
            self._adb(["-s", self.serial, "push", str(local), remote])
        pinned = ["taskset", self.taskset] if self.taskset else []
        arguments = [f"--graph={remote}", "--num_threads=1", f"--num_runs={runs}", "--warmup_runs=3"]
        said = self.shell(*pinned, self.benchmark_model, *arguments)
        found = STATISTICS.findall(said)
        if not found:
            tail = " ".join(said.split())[-300:]
            raise ConfigError(f"{self.benchmark_model} on {self.serial} printed no timings: {tail}")
        least_us, mean_us = map(float, found[-1][1:])  # the first are the warm-up's
        return Timing(least_us / 1e3, mean_us / least_us)


class AndroidPhone(MeasuringPlatform):
    """Measures INT8 TFLite files on one core of a phone, batch 1; settings are `Phone`'s and `MeasuringPlatform`'s."""

    def __init__(
        self,
        name: Name,
        superspace: Name,
        cache: Annotated[str, WHERE],
        benchmark_model: str,
        folder: str,
        serial: str | Seed | None = None,
        taskset: Name | Index | None = None,
        table: Annotated[str | None, WHERE] = None,
        fixed_latency_ms: FixedLatency = None,
        unknown_blocks: Literal["auto", "measure", "fitted"] = "auto",
        packed_channels: Channels | None = 1,
    ) -> None:
        texts = [None if value is None else str(value) for value in (serial, taskset)]  # YAML reads digits as numbers
        phone = Phone(texts[0], folder, benchmark_model, texts[1])
        super().__init__(
            name, "litert", superspace, cache, table, fixed_latency_ms, unknown_blocks, packed_channels, place=phone
        )
