"""Measures on another machine, which is reached by SSH; nothing is installed there."""

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from spaceevo.artifacts.values import Channels, Index, Name
from spaceevo.errors import ConfigError, shortened
from spaceevo.latency.predictor import FixedLatency
from spaceevo.platforms.base import WHERE
from spaceevo.platforms.connection import Connection, ConnectionLost, Login
from spaceevo.platforms.measuring import MeasuringPlatform, WeightBits
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.machine import provenance
from spaceevo.runtimes.registry import runtime_named
from spaceevo.runtimes.timing import CLOCK, Timing
from spaceevo.terminal import console

GROUP = 16  # Models measured at a time, side by side; a broken connection costs no more than these
GROUP_BYTES = 2**26
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # Before each attempt to connect again


Port = Annotated[int, Ge(1), Le(65535)]


class OtherMachine:
    """Runs models on another machine with Python, NumPy and the runtime's package.

    Args:
        host: its name or address, or one of `~/.ssh/config`.
        user: whom to log in as; without, as ssh decides.
        port: where its ssh listens; without, as ssh decides.
        key: file of the private key; without, as ssh decides.
        known_hosts: file of the keys of hosts; without, as ssh decides.
        python: interpreter there, for one in an environment of its own.
        core: core there to run on; without, the last one.
    """

    def __init__(
        self,
        host: str,
        user: str | None = None,
        port: int | None = None,
        key: str | None = None,
        known_hosts: str | None = None,
        python: str = "python3",
        core: int | None = None,
    ) -> None:
        if shutil.which("ssh") is None:
            raise ConfigError("platform=ssh needs the program ssh on PATH; install OpenSSH's client")
        self.host = host
        self.options: list[str] = []
        if user is not None:
            self.options += ["-l", user]
        if port is not None:
            self.options += ["-p", str(port)]
        if key is not None and not Path(key).expanduser().is_file():
            raise ConfigError(f"platform.key = {key} is no file; give the file of a private key")
        if key is not None:
            self.options += ["-i", str(Path(key).expanduser()), "-o", "IdentitiesOnly=yes"]
        if known_hosts is not None:
            known_hosts = str(Path(known_hosts).expanduser())
            file = known_hosts.replace("%", "%%").replace('"', "")
            self.options += ["-o", f'UserKnownHostsFile="{file}"', "-o", "GlobalKnownHostsFile=none"]
        self.login = Login(host, self.options, known_hosts, python, core)
        self.connection: Connection | None = None

    def provenance(self, runtime: Runtime) -> dict[str, str]:
        """Say machine, runtime and clock there; raises `ConfigError` where it cannot be reached, or lacks something."""
        told = self._connected(runtime).told
        return provenance(f"{told.node}, {told.machine}", told.instructions, runtime.package, told.version, CLOCK)

    def _connected(self, runtime: Runtime) -> Connection:
        if self.connection is None or self.connection.runtime is not runtime:
            self.connection = Connection(self.login, runtime)
        return self.connection

    def time_models(self, runtime: Runtime, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        """Time files side by side there, a group after the other; a broken connection is taken up where it broke."""
        found: dict[str, Timing] = {}
        for group in _groups(models):
            found |= self._time_group(runtime, group, repeats)
        return {name: found[name] for name in models}

    def _time_group(self, runtime: Runtime, group: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        lost: Exception | None = None
        for wait_s in chain(WAITS_S, [None]):
            try:
                return self._connected(runtime).time_models(group, repeats)
            except ConnectionLost as error:
                lost, self.connection = error, None
            except ConfigError as error:
                if lost is None:
                    raise
                lost = error  # it broke a moment ago, and may come back
            if wait_s is not None:
                console.print(f"connection to {self.host} broke ({shortened(str(lost), 200)}); trying again")
                time.sleep(wait_s)
        raise ConfigError(
            f"connection to platform.host = {self.host} broke and did not come back in {len(WAITS_S)} attempts "
            f"({shortened(str(lost), 200)}); what was measured is kept, and the same command goes on"
        )


def _groups(models: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Split models into groups, bounded in number and bytes; a mapping may make each when it is asked for."""
    group: dict[str, bytes] = {}
    for name, file in models.items():
        if group and (len(group) == GROUP or sum(map(len, group.values())) + len(file) > GROUP_BYTES):
            yield group
            group = {}
        group[name] = file
    if group:
        yield group


class SshPlatform(MeasuringPlatform):
    """Measures INT8 files on another machine, batch 1, one thread; settings are `OtherMachine`'s and the base's."""

    def __init__(
        self,
        name: Name,
        host: Name,
        runtime: Name,
        superspace: Name,
        cache: Annotated[str, WHERE],
        user: Name | None = None,
        port: Port | None = None,
        key: Annotated[str | None, WHERE] = None,
        known_hosts: Annotated[str | None, WHERE] = None,
        python: str = "python3",
        core: Index | None = None,
        table: Annotated[str | None, WHERE] = None,
        fixed_latency_ms: FixedLatency = None,
        unknown_blocks: Literal["auto", "measure", "fitted"] = "auto",
        packed_channels: Channels | None = 1,
        weight_bits: WeightBits = 8,
    ) -> None:
        place = OtherMachine(host, user, port, key, known_hosts, python, core)
        measured_by = place.provenance(runtime_named(runtime)) | {"date": "", "superspace": superspace}
        measured_by["packed_channels"] = str(packed_channels)
        if weight_bits < 8:
            measured_by["weight_bits"] = str(weight_bits)
        digest = hashlib.sha256(str(measured_by).encode()).hexdigest()[:8]
        node = "".join(letter if letter.isalnum() else "-" for letter in measured_by["machine"].split(",")[0])
        path = table or str(Path(cache) / f"{node}-{runtime}-{superspace}-{digest}.json")
        super().__init__(
            name,
            runtime,
            superspace,
            cache,
            path,
            fixed_latency_ms,
            unknown_blocks,
            packed_channels,
            weight_bits,
            place,
        )
