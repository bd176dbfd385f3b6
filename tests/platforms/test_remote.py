"""Another machine by SSH: a real `sshd` on this machine's loopback, with keys made for the test."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from spaceevo.errors import ConfigError, fault_line
from spaceevo.platforms import remote
from spaceevo.platforms.connection import Connection, Login, forgetting
from spaceevo.platforms.remote import OtherMachine, SshPlatform
from spaceevo.runtimes.machine import machine_name
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.runtimes.registry import runtime_named
from spaceevo.space.spec import BlockSpec

ONNX = runtime_named("onnxruntime")
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="needs OpenSSH's server and client (apt install openssh-server)"
)


@dataclass(frozen=True)
class Server:
    """An `sshd` that is running, and the files that a client needs."""

    folder: Path
    port: int

    def place(self, **changes: str | int | None) -> OtherMachine:
        settings: dict[str, str | int | None] = {
            "host": "127.0.0.1",
            "port": self.port,
            "key": str(self.folder / "client"),
            "known_hosts": str(self.folder / "known hosts"),
            "python": sys.executable,
            **changes,
        }
        return OtherMachine(**settings)  # type: ignore[arg-type]


def make_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text().rsplit(" ", 1)[0]


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ssh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host_key = make_key(folder / "host")
    make_key(folder / "stranger")
    (folder / "authorized").write_text(make_key(folder / "client") + "\n")
    (folder / "known hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder / 'host'}", "PidFile none", "UsePAM no"]
    lines += [f"AuthorizedKeysFile {folder / 'authorized'}", "StrictModes no", "PasswordAuthentication no"]
    (folder / "config").write_text("\n".join([*lines, "KbdInteractiveAuthentication no", "LogLevel ERROR", ""]))
    Path("/run/sshd").mkdir(exist_ok=True)
    assert SSHD is not None
    process = subprocess.Popen([SSHD, "-D", "-f", folder / "config"], stderr=subprocess.DEVNULL)
    try:
        while not is_listening(port):
            assert process.poll() is None, "sshd ended"
            time.sleep(0.02)
        yield Server(folder, port)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    """Three blocks, each of at least 250 times the multiplications of the one before: no noise turns their order."""
    sizes = ((8, 2), (32, 8), (128, 32))
    specs = [(BlockSpec("MobileNetV2Res", width, width, 3, 2, 1, "relu6"), hw) for width, hw in sizes]
    return {f"block {n}": ONNX.write(random_block_program(*placed)) for n, placed in enumerate(specs)}


def test_models_are_timed_there(server: Server, models: dict[str, bytes]) -> None:
    place = server.place()
    found = place.provenance(ONNX)
    assert found["machine"] == f"{socket.gethostname()}, {machine_name()}"
    assert (found["runtime"], found["version"]) == ("onnxruntime", ONNX.version())
    assert found["clock"] == "time.thread_time_ns"
    timings = place.time_models(ONNX, models, 3)
    assert list(timings) == list(models)
    first, second, third = (timing.latency_ms for timing in timings.values())
    assert 0 < first < second < third
    assert all(timing.dispersion >= 1 for timing in timings.values())


@pytest.mark.slow
def test_the_agent_runs_litert_too(server: Server) -> None:
    litert = runtime_named("litert")
    pytest.importorskip("ai_edge_litert")
    file = litert.write(random_block_program(BlockSpec("MobileNetV2Res", 8, 8, 3, 2, 1, "relu6"), 8))
    assert server.place().time_models(litert, {"one": file}, 1)["one"].latency_ms > 0


def test_a_connection_that_breaks_in_the_middle_is_taken_up(
    server: Server, models: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "GROUP", 1)
    monkeypatch.setattr(remote, "WAITS_S", (0.01, 0.01))
    place = server.place()
    place.provenance(ONNX)
    sent: list[str] = []
    time_models = Connection.time_models

    def fragile(self: Connection, group: dict[str, bytes], repeats: int) -> object:
        sent.extend(group)
        if len(sent) == 2:
            self.process.kill()
        return time_models(self, group, repeats)

    monkeypatch.setattr(Connection, "time_models", fragile)
    assert list(place.time_models(ONNX, models, 1)) == list(models)
    assert sent == ["block 0", "block 1", "block 1", "block 2"]  # no group but the broken one again
    assert "connection to 127.0.0.1 broke" in capsys.readouterr().out


def test_a_connection_that_stays_broken_is_given_up(
    server: Server, models: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "WAITS_S", (0.01, 0.01))
    place = server.place()
    place.provenance(ONNX)
    assert place.connection is not None
    place.connection.process.kill()
    place.options[place.options.index(str(server.port))] = "1"  # nothing listens there
    with pytest.raises(ConfigError, match=r"did not come back in 2 attempts .*refused.* the same command goes on"):
        place.time_models(ONNX, models, 1)


def fake(folder: Path, lines: str) -> str:
    """An interpreter that runs these lines before what it is told to."""
    path = folder / f"python-{abs(hash(lines))}"
    run = "exec(sys.argv[sys.argv.index('-c') + 1])"
    path.write_text(f"#!{sys.executable}\nimport sys\n{lines}\n{run}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda at: {"port": 1},
            r"host = 127.0.0.1 cannot be reached \(.*refused\); check name, network and platform.p",
        ),
        (lambda at: {"host": "no.such.invalid"}, r"host = no.such.invalid cannot be reached \(.*resolve"),
        (lambda at: {"key": str(at / "stranger")}, r"refused the key \(.*Permission denied.*\); set platform.user"),
        (
            lambda at: {"known_hosts": str(at / "empty")},
            r"not known; log in once by hand \(ssh -p \d+ -i \S+/client -o "
            r"IdentitiesOnly=yes -o 'UserKnownHostsFile=\S+/empty\"' -o GlobalKnownHostsFile=none 127\.0\.0\.1\)",
        ),
        (
            lambda at: {"known_hosts": str(at / "wrong")},
            r"is not the one known, so it may be another machine; if it was "
            r"set up anew, forget the old key with: ssh-keygen -f \S+/wrong -R '\[127\.0\.0\.1\]:\d+'$",
        ),
        (
            lambda at: {"python": "/no/python"},
            r"platform.python = /no/python is not there; install Python 3.9 or newer",
        ),
        (
            lambda at: {"python": str(at)},
            r"platform.python = \S+ cannot be run there \(PermissionError: .*denied\); inst",
        ),
        (
            lambda at: {"python": fake(at, "sys.version_info = (3, 6, 9)")},
            r"Python there is 3.6; allowed: 3.9 or newer",
        ),
        (
            lambda at: {"python": fake(at, "sys.modules['numpy'] = None")},
            r"lacks a package \(.*numpy.*\); install numpy",
        ),
        (
            lambda at: {"python": fake(at, "sys.modules['onnxruntime'] = None")},
            r"is not installed there .* -m pip insta",
        ),
        (lambda at: {"core": 9999}, r"platform.core = 9999; allowed there: \d"),
        (lambda at: {"key": str(at / "nowhere")}, r"platform.key = \S+/nowhere is no file; give the file of a private"),
        (lambda at: {"key": str(at / "client.pub")}, r"others may read it; give the private key, not the .pub"),
        (lambda at: {"python": "/bin/true"}, r"platform.python = /bin/true is no Python there \(it closed"),
        (lambda at: {"python": "/bin/cat"}, r"platform.python = /bin/cat is no Python there \(/bin/cat: invalid"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    server: Server, change: Callable[[Path], dict[str, str | int]], words: str
) -> None:
    stranger = (server.folder / "stranger.pub").read_text()
    (server.folder / "wrong").write_text(f"[127.0.0.1]:{server.port} {stranger}")
    (server.folder / "empty").write_text("")
    with pytest.raises(ConfigError, match=words) as caught:
        server.place(**change(server.folder)).provenance(ONNX)
    line = fault_line(caught.value)
    assert line is not None
    assert "\n" not in str(caught.value)
    assert "Traceback" not in line
    assert len(line) < 500


@pytest.mark.parametrize("name", ["127.0.0.1", "[127.0.0.1]:22822"])
@pytest.mark.parametrize("is_set", [True, False])
def test_an_old_key_is_forgotten_by_the_command_that_is_told(tmp_path: Path, name: str, is_set: bool) -> None:
    file, key = tmp_path / "known hosts", make_key(tmp_path / "key")
    file.write_text(f"{name} {key}\nother {key}\n")
    said = f"Host key for {name} has changed and you have requested strict checking. Host key verification failed."
    login = Login("127.0.0.1", [], str(file) if is_set else None, "python3", None)
    assert is_set or forgetting(said, login) == f"ssh-keygen -R {shlex.quote(name)}"
    command = forgetting(f"Offending ED25519 key in {file}:1 remove with: … {said}", login)
    subprocess.run(shlex.split(command), check=True, capture_output=True)
    assert file.read_text() == f"other {key}\n"


def test_nothing_given_reaches_a_shell(server: Server, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for given in (
        {"python": f"python3; touch {mark}"},
        {"python": f"$(touch {mark})"},
        {"host": f"-oProxyCommand=touch {mark}"},
    ):
        with pytest.raises(ConfigError):
            server.place(**given).provenance(ONNX)
    assert not mark.exists()


@pytest.mark.slow
def test_a_broken_model_is_told_and_the_connection_lasts(server: Server, models: dict[str, bytes]) -> None:
    place = server.place()
    with pytest.raises(ConfigError, match="a model could not be run on 127.0.0.1: .*"):
        place.time_models(ONNX, {"none": b""}, 1)  # readable, and no model
    connection = place.connection
    assert place.time_models(ONNX, {"block 0": models["block 0"]}, 1)
    assert place.connection is connection


@pytest.mark.slow
def test_tables_are_named_after_the_machine(server: Server, tmp_path: Path) -> None:
    settings = {"port": server.port, "key": str(server.folder / "client"), "python": sys.executable}
    settings |= {"known_hosts": str(server.folder / "known hosts")}
    platform = SshPlatform("ssh", "127.0.0.1", "onnxruntime", "digits", str(tmp_path), **settings)  # type: ignore[arg-type]
    assert platform.machine == f"{socket.gethostname()}, {machine_name()}"
    block = BlockSpec("MobileNetV2Res", 8, 8, 3, 2, 1, "relu6"), 8
    assert platform.blocks_ms([block]) > 0
    node = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
    (table,) = tmp_path.glob("*.json")
    assert table.name.startswith(f"{node}-onnxruntime-digits-")
    assert platform.known_table().provenance["machine"] == platform.machine
