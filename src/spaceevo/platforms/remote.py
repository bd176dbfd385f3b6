"""Measures on another machine, reached by the system's `ssh`, which runs an agent there; nothing is installed.

What is told to the other machine travels over standard input: the command line that its shell sees is one constant.
"""

import hashlib
import inspect
import json
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from annotated_types import Ge, Le

from spaceevo.artifacts.values import Channels, Index, Name
from spaceevo.errors import ConfigError, choices, shortened
from spaceevo.latency.predictor import FixedLatency
from spaceevo.platforms import remote_agent
from spaceevo.platforms.base import WHERE
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.runtimes import machine, timing
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.machine import provenance
from spaceevo.runtimes.registry import runtime_named
from spaceevo.runtimes.timing import CLOCK, Timing
from spaceevo.terminal import console

LINE = 'json.loads(b"".join(iter(lambda:os.read(0,1)or os._exit(3),b"\\n")).decode())'
COMMAND = f"exec python3 -c 'import os,json;a={LINE};os.execvp(a[0],a)'"
"""What the other machine's shell is told: start Python; the interpreter to take and what it runs follow as data."""
OLDEST = (3, 9)
START = f"""import json,os,sys
if sys.version_info < {OLDEST}:
    print('spaceevo {{"error": "python", "found": "%d.%d"}}' % sys.version_info[:2])
    sys.exit()
left, parts = {LINE}, []
while left:
    part = os.read(0, min(left, 65536)) or os._exit(3)
    parts.append(part)
    left -= len(part)
exec(compile(b"".join(parts).decode(), "spaceevo agent", "exec"), {{"__name__": "spaceevo_agent"}})
"""
GROUP = 16  # Models measured at a time, side by side; a broken connection costs no more than these
GROUP_BYTES = 2**26
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # Before each attempt to connect again
LAST_WORDS_S = 5.0  # That ssh may take to say what is wrong when a connection has ended


Port = Annotated[int, Ge(1), Le(65535)]


class ConnectionLost(Exception):
    """The other machine no longer answers."""


def agent_source() -> str:
    """Put the agent together: the two files that it needs of ours, itself, and its start."""
    names = ", ".join(remote_agent.Here._fields)
    texts = [inspect.getsource(module) for module in (machine, timing, remote_agent)]
    return "\n".join([*texts, f"serve(Here({names}))\n"])


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
        self.python = python
        self.core = core
        self.options = ["-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10"]
        self.options += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "LogLevel=ERROR"]
        if user is not None:
            self.options += ["-l", user]
        if port is not None:
            self.options += ["-p", str(port)]
        if key is not None:
            self.options += ["-i", str(Path(key).expanduser()), "-o", "IdentitiesOnly=yes"]
        if known_hosts is not None:
            file = str(Path(known_hosts).expanduser()).replace("%", "%%").replace('"', "")
            self.options += ["-o", f'UserKnownHostsFile="{file}"', "-o", "GlobalKnownHostsFile=none"]
        self.connection: _Connection | None = None

    def provenance(self, runtime: Runtime) -> dict[str, str]:
        """Say machine, runtime and clock there; raises `ConfigError` where it cannot be reached, or lacks something."""
        told = self._connected(runtime).told
        named = f"{told['node']}, {told['machine']}"
        return provenance(named, told["instructions"], runtime.package, told["version"], CLOCK)

    def _connected(self, runtime: Runtime) -> "_Connection":
        if self.connection is None or self.connection.runtime != runtime.name:
            self.connection = _Connection(self, runtime)
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


class _Connection:
    """Speaks to an agent on the other machine.

    Raises:
        ConfigError: it cannot be started; says why.
    """

    def __init__(self, place: OtherMachine, runtime: Runtime) -> None:
        if runtime.name not in remote_agent.MODELS:
            allowed = choices(remote_agent.MODELS)
            raise ConfigError(f"platform.runtime = {runtime.name}; allowed on platform=ssh: {allowed}")
        self.place = place
        self.runtime = runtime.name
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 — lives as long as the process that writes to it
        command = ["ssh", *place.options, "--", place.host, COMMAND]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0
        )
        self.close = weakref.finalize(self, _close, self.process, self.errors)  # at the latest when the program ends
        source = agent_source().encode()
        asked = {"runtime": runtime.name, "package": runtime.package, "core": place.core}
        start = [_line([place.python, "-u", "-c", START]), _line(len(source)), source, _line(asked)]
        try:
            self._send(b"".join(start))
            self.told = self._answer()
        except ConnectionLost as lost:
            raise self._fault(str(lost)) from None
        if "error" in self.told:
            self.close()
            raise self._lacking(runtime)

    def time_models(self, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        """Time models there; raises `ConnectionLost`."""
        sizes = [[name, len(file)] for name, file in models.items()]
        self._send(b"".join([_line({"models": sizes, "repeats": repeats}), *models.values()]))
        answer = self._answer()
        if "error" in answer:
            raise ConfigError(f"a model could not be run on {self.place.host}: {answer['found']}")
        return {name: Timing(*figures) for name, figures in answer["timings"].items()}

    def _send(self, content: bytes) -> None:
        assert self.process.stdin is not None
        left = memoryview(content)
        try:
            while left:
                left = left[self.process.stdin.write(left) :]
        except OSError:
            raise ConnectionLost(self._said()) from None

    def _answer(self) -> dict[str, Any]:
        for line in _lines(self.process.stdout):
            if line.startswith(remote_agent.MARK.encode()):
                found: dict[str, Any] = json.loads(line[len(remote_agent.MARK) :])
                return found
        raise ConnectionLost(self._said())

    def _said(self) -> str:
        """The last that ssh and the other machine said of a fault; ends the connection."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LAST_WORDS_S)
        self.errors.seek(0)
        words = self.errors.read().decode(errors="replace").split()
        self.close()
        return " ".join(words)[-600:] or "it closed without a word"

    def _fault(self, said: str) -> ConfigError:
        """Say in one line why no agent could be started."""
        host = self.place.host
        known = f"platform.host = {host}"
        short = shortened(said, 160)
        if "IDENTIFICATION HAS CHANGED" in said or "host key for" in said.lower() and "has changed" in said:
            return ConfigError(
                f"{known}: its host key is not the one known, so it may be another machine; if it was set "
                f"up anew, forget the old key with: ssh-keygen -R {host}"
            )
        if "Host key verification failed" in said:
            return ConfigError(
                f"{known}: its host key is not known; log in once by hand (ssh {host}), compare the key "
                "and accept it, or set platform.known_hosts"
            )
        if "Permission denied" in said:
            return ConfigError(
                f"{known}: it refused the key ({short}); set platform.user and platform.key, or add the "
                "public key to authorized_keys there (ssh-copy-id)"
            )
        if "FileNotFoundError" in said or "not found" in said.lower():
            return ConfigError(
                f"{known}: platform.python = {self.place.python} is not there ({short}); install Python "
                f"{'.'.join(map(str, OLDEST))} or newer, or set platform.python"
            )
        if "ModuleNotFoundError" in said or "ImportError" in said:
            return ConfigError(f"{known}: Python there lacks a package ({short}); install numpy and the runtime there")
        return ConfigError(f"{known} cannot be reached ({short}); check name, network and platform.port")

    def _lacking(self, runtime: Runtime) -> ConfigError:
        """Say in one line what the other machine lacks."""
        known, found = f"platform.host = {self.place.host}", self.told["found"]
        match self.told["error"]:
            case "python":
                oldest = ".".join(map(str, OLDEST))
                return ConfigError(f"{known}: Python there is {found}; allowed: {oldest} or newer; set platform.python")
            case "core":
                return ConfigError(f"{known}: platform.core = {self.place.core}; allowed there: {found}")
        install = f"{self.place.python} -m pip install {runtime.package}"
        return ConfigError(f"{known}: {runtime.package} is not installed there ({found}); install it with: {install}")


def _close(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    """End a connection; the agent ends where its input does."""
    for stream in (process.stdin, process.stdout, errors):
        if stream is not None:
            stream.close()
    process.kill()
    process.wait()


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _lines(stream: IO[bytes] | None) -> Iterator[bytes]:
    """Read lines as they come."""
    assert stream is not None
    return iter(stream.readline, b"")


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
    ) -> None:
        place = OtherMachine(host, user, port, key, known_hosts, python, core)
        measured_by = place.provenance(runtime_named(runtime)) | {"date": "", "superspace": superspace}
        measured_by["packed_channels"] = str(packed_channels)
        digest = hashlib.sha256(str(measured_by).encode()).hexdigest()[:8]
        node = "".join(letter if letter.isalnum() else "-" for letter in measured_by["machine"].split(",")[0])
        path = table or str(Path(cache) / f"{node}-{runtime}-{superspace}-{digest}.json")
        super().__init__(
            name, runtime, superspace, cache, path, fixed_latency_ms, unknown_blocks, packed_channels, place
        )
