"""Fetches what runs ARM programs on this machine: qemu, Python for aarch64, and wheels of the installed runtimes.

    python -m experiments.arm.fetch [mirror of Debian]

Nothing is installed: all goes to `emulator.FOLDER`, 200 MB. Needs Debian's apt-get, dpkg-deb and archive keyring, and
pip. Without a mirror, this machine's own is taken, of Debian 13, since the qemu before that crashes.
"""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.arm.emulator import FOLDER, PYTHON, WHEELS

SUITE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PYTHON_PACKAGES = [f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib"]
LIBRARIES = ["libc6", "libgcc-s1", "libstdc++6", "libexpat1", "zlib1g", "libffi8", "libbz2-1.0", "liblzma5"]
PLATFORMS = [f"--platform=manylinux{name}_aarch64" for name in ("2014", "_2_27", "_2_28")]


def own_mirror() -> str:
    """Find this machine's mirror of Debian."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if not found:
        sys.exit("this machine has no mirror of Debian; name one: python -m experiments.arm.fetch https://…/debian")
    return found[0]


def fetch_debian(mirror: str, architecture: str, packages: list[str], folder: Path) -> None:
    """Unpack packages into a folder, by a state of apt of its own, so that the machine's is left alone."""
    with TemporaryDirectory() as name:
        state = Path(name)
        (state / "lists" / "partial").mkdir(parents=True)
        (state / "status").touch()
        (state / "sources").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
        settings = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "root",
            "Dir::State": state,
            "Dir::State::status": state / "status",
            "Dir::Cache": state,
            "Dir::Etc::sourcelist": state / "sources",
            "Dir::Etc::sourceparts": "/dev/null",
        }
        apt = ["apt-get", "--quiet", *[f"-o{key}={value}" for key, value in settings.items()]]
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "download", *packages], check=True, cwd=state)
        for package in state.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)


def fetch_wheels(folder: Path) -> None:
    """Unpack wheels of the runtimes, of the versions that are installed here, and of NumPy."""
    wanted = [f"{name}=={version(name)}" for name in (*WHEELS, "numpy")]
    only = ["--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *PLATFORMS]
    with TemporaryDirectory() as name:
        subprocess.run([sys.executable, "-m", "pip", "download", "--dest", name, *only, *wanted], check=True)
        for wheel in Path(name).glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)


def main() -> None:
    """Fetch all, anew."""
    mirror = sys.argv[1] if len(sys.argv) > 1 else own_mirror()
    root = FOLDER / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    with TemporaryDirectory() as name:
        fetch_debian(mirror, "amd64", ["qemu-user"], Path(name))
        shutil.copy(Path(name) / "usr/bin/qemu-aarch64", FOLDER)
    (root / "lib").symlink_to("usr/lib")
    fetch_debian(mirror, "arm64", [*PYTHON_PACKAGES, *LIBRARIES], root)
    fetch_wheels(root / "site")
    print(f"ready: {FOLDER}")


if __name__ == "__main__":
    main()
