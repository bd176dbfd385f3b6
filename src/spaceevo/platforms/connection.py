"""Speaks to an agent on another machine, which the system's `ssh` starts there.

What is told to the other machine travels over standard input: the command line that its shell sees is one constant.
"""

import inspect
import json
import re
import shlex
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO

from spaceevo.errors import ConfigError, choices, shortened
from spaceevo.platforms import remote_agent
from spaceevo.platforms.answers import MOST_BYTES, Answer, Described, Lack, Timings, not_understood, read_answer
from spaceevo.runtimes import machine, timing
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.timing import Timing

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
ALWAYS: tuple[str, ...] = ("-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10")
ALWAYS += ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "LogLevel=ERROR")
"""Options of `ssh` besides those that are set."""
TRACEBACK = re.compile(r"Traceback \(most recent .* (?=\w+(Error|Exception): )")
"""What Python says before it names an error."""
SSH_FAILED = 255  # what ssh itself exits with; else the code is that of what ran there
LAST_WORDS_S = 5.0  # That ssh may take to say what is wrong when a connection has ended


class ConnectionLost(Exception):
    """The other machine no longer answers."""


def agent_source() -> str:
    """Put the agent together: the two files that it needs of ours, itself, and its start."""
    names = ", ".join(remote_agent.Here._fields)
    texts = [inspect.getsource(module) for module in (machine, timing, remote_agent)]
    return "\n".join([*texts, f"serve(Here({names}))\n"])


@dataclass(frozen=True)
class Login:
    """Says how a machine is reached, and what runs the agent there."""

    host: str
    options: Sequence[str]  # of `ssh`, as they are set
    known_hosts: str | None  # file of the keys of hosts; None leaves it to ssh
    python: str  # interpreter there
    core: int | None  # to run on there; None takes the last


class Connection:
    """Speaks to an agent on the other machine.

    Raises:
        ConfigError: it cannot be started; says why.
    """

    def __init__(self, login: Login, runtime: Runtime) -> None:
        if runtime.name not in remote_agent.MODELS:
            allowed = choices(remote_agent.MODELS)
            raise ConfigError(f"platform.runtime = {runtime.name}; allowed on platform=ssh: {allowed}")
        self.login = login
        self.runtime = runtime
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 — lives as long as the process that writes to it
        command = ["ssh", *ALWAYS, *login.options, "--", login.host, COMMAND]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0
        )
        self.close = weakref.finalize(self, _close, self.process, self.errors)  # at the latest when the program ends
        source = agent_source().encode()
        asked = {"runtime": runtime.name, "package": runtime.package, "core": login.core}
        start = [_line([login.python, "-u", "-c", START]), _line(len(source)), source, _line(asked)]
        try:
            self._send(b"".join(start))
            told = self._answer()
        except ConnectionLost as lost:
            raise self._fault(str(lost)) from None
        if not isinstance(told, Described):
            self.close()
            raise self._lacking(runtime, told) if isinstance(told, Lack) else not_understood(login.host, "no machine")
        self.told = told

    def time_models(self, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        """Time models there; raises `ConnectionLost`."""
        sizes = [[name, len(file), self.runtime.largest_weight(file)] for name, file in models.items()]
        self._send(b"".join([_line({"models": sizes, "repeats": repeats}), *models.values()]))
        answer = self._answer()
        if isinstance(answer, Lack):
            raise ConfigError(f"a model could not be run on {self.login.host}: {shortened(answer.found, 300)}")
        if not isinstance(answer, Timings) or answer.timings.keys() != models.keys():
            raise not_understood(self.login.host, "it is of other models")
        return {name: Timing(*figures) for name, figures in answer.timings.items()}

    def _send(self, content: bytes) -> None:
        assert self.process.stdin is not None
        left = memoryview(content)
        try:
            while left:
                left = left[self.process.stdin.write(left) :]
        except OSError:
            raise ConnectionLost(self._said()) from None

    def _answer(self) -> Answer:
        for line in _lines(self.process.stdout):
            if line.startswith(remote_agent.MARK.encode()):
                return read_answer(line[len(remote_agent.MARK) :], self.login.host)
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
        host = self.login.host
        known = f"platform.host = {host}"
        short = shortened(TRACEBACK.sub("", said), 160)
        if "IDENTIFICATION HAS CHANGED" in said or "host key for" in said.lower() and "has changed" in said:
            return ConfigError(
                f"{known}: its host key is not the one known, so it may be another machine; if it was set "
                f"up anew, forget the old key with: {forgetting(said, self.login)}"
            )
        if "Host key verification failed" in said:
            return ConfigError(
                f"{known}: its host key is not known; log in once by hand "
                f"({shlex.join(['ssh', *self.login.options, host])}), compare the key "
                "and accept it, or set platform.known_hosts"
            )
        oldest = ".".join(map(str, OLDEST))
        if "in execvp" in said:
            fault = "is not there" if "FileNotFoundError" in said else f"cannot be run there ({short})"
            return ConfigError(
                f"{known}: platform.python = {self.login.python} {fault}; install Python {oldest} or newer there, or "
                "set platform.python to where it is"
            )
        if "UNPROTECTED PRIVATE KEY" in said:
            return ConfigError(
                f"{known}: ssh leaves the file of platform.key alone, since others may read it; give the private key, "
                "not the .pub, and make it yours alone: chmod 600"
            )
        if "Permission denied" in said:
            return ConfigError(
                f"{known}: it refused the key ({short}); set platform.user and platform.key, or add the "
                "public key to authorized_keys there (ssh-copy-id)"
            )
        if "not found" in said.lower():
            return ConfigError(f"{known}: python3 is not on PATH there ({short}); install Python {oldest} or newer")
        if "ModuleNotFoundError" in said or "ImportError" in said:
            return ConfigError(f"{known}: Python there lacks a package ({short}); install numpy and the runtime there")
        if self.process.returncode in range(SSH_FAILED):
            return ConfigError(f"{known}: platform.python = {self.login.python} is no Python there ({short})")
        return ConfigError(f"{known} cannot be reached ({short}); check name, network and platform.port")

    def _lacking(self, runtime: Runtime, told: Lack) -> ConfigError:
        """Say in one line what the other machine lacks."""
        known, found = f"platform.host = {self.login.host}", shortened(told.found, 160)
        match told.error:
            case "python":
                oldest = ".".join(map(str, OLDEST))
                return ConfigError(f"{known}: Python there is {found}; allowed: {oldest} or newer; set platform.python")
            case "core":
                return ConfigError(f"{known}: platform.core = {self.login.core}; allowed there: {found}")
        install = f"{self.login.python} -m pip install {runtime.package}"
        return ConfigError(f"{known}: {runtime.package} is not installed there ({found}); install it with: {install}")


def forgetting(said: str, login: Login) -> str:
    """Write the command that forgets a host's old key, by the name and in the file that ssh tells of."""
    name = re.search(r"host key for (\S+) has changed", said, re.IGNORECASE)
    told = re.search(r"Offending \S+ key in (.+?):\d+ ", said)
    file = login.known_hosts or (told[1] if told else "")
    return shlex.join(["ssh-keygen", *(["-f", file] if file else []), "-R", name[1] if name else login.host])


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
    """Read lines as they come, those that are too long for an answer in pieces."""
    assert stream is not None
    return iter(partial(stream.readline, MOST_BYTES), b"")
