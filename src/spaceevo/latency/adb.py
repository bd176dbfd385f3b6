"""An Android phone reached through `adb`: runs TFLite's `benchmark_model` on it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from spaceevo.errors import ConfigError
from spaceevo.latency.measure import Model

CLOCK = "benchmark_model, wall"
STATISTICS = re.compile(r"count=(\d+).*?\bmin=([\d.e+]+).*?\bavg=([\d.e+]+)")
TIMEOUT_S = 600


class Phone:
    """One phone.

    Args:
        serial: which one, as `adb devices` lists it; without, the only one.
        folder: a folder on the phone to work in.
        benchmark_model: path of TFLite's `benchmark_model` on the phone.
        taskset: mask of the processors to run on, in hexadecimal, e.g. `80` for the largest core of a Pixel 4.

    Raises:
        ConfigError: `adb` is not installed, there is no phone, or several, or not the one asked for.
    """

    def __init__(self, serial: str | None, folder: str, benchmark_model: str, taskset: str | None = None) -> None:
        if shutil.which("adb") is None:
            raise ConfigError(
                "platform=adb needs the program adb on PATH; install the Android platform tools, "
                "or take platform=tflite_cpu to measure on this machine"
            )
        self.folder, self.benchmark_model, self.taskset = folder, benchmark_model, taskset
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
        """Output of a command on the phone."""
        return self._adb(["-s", self.serial, "shell", *command])

    def property(self, name: str) -> str:
        """A property of the phone, e.g. `ro.product.model`."""
        return self.shell("getprop", name).strip()

    def time_ms(self, model: Model, runs: int) -> tuple[float, float]:
        """Least and mean latency in ms of a TFLite model on one thread.

        Raises:
            ConfigError: the phone cannot run it; says what it said.
        """
        remote = f"{self.folder}/spaceevo.tflite"
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "model.tflite"
            local.write_bytes(model if isinstance(model, bytes) else model.read_bytes())
            self._adb(["-s", self.serial, "push", str(local), remote])
        pinned = ["taskset", self.taskset] if self.taskset else []
        arguments = [f"--graph={remote}", "--num_threads=1", f"--num_runs={runs}", "--warmup_runs=3"]
        said = self.shell(*pinned, self.benchmark_model, *arguments)
        found = STATISTICS.findall(said)
        if not found:
            tail = " ".join(said.split())[-300:]
            raise ConfigError(f"{self.benchmark_model} on {self.serial} printed no timings: {tail}")
        _, least_us, mean_us = found[-1]  # the first are the warm-up's
        return float(least_us) / 1e3, float(mean_us) / 1e3
