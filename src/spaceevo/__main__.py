"""Command line: `python -m spaceevo +stage=… superspace=… key=value …`, with Hydra's sweeps under `-m`."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from spaceevo.collectives.launcher import check_launch
from spaceevo.errors import ConfigError, SpaceEvoError, choices
from spaceevo.jobs.trust import check_folders
from spaceevo.space.description import conf_files, conf_folder, superspaces
from spaceevo.space.published import published_models

ENCODED = ("space", "subnet")
"""Settings of encodings, which may be typed as they are printed."""
ITEM = re.compile(r"""'[^']*'|"[^"]*"|[^\s,()\[\]]+""")
MISREAD = re.compile(r"[\d_.]+|d\d+_k.*|.*#.*")
"""Texts that Hydra stumbles over, as it does over #, or reads as numbers."""
OPEN = "recipe.lr_by_stage."
"""What is below it has the names of the superspace's stages, which Hydra's own config does not list."""
NEEDED = ("data", "teacher", "quant", "platform", "recipe", "trainer", "paths", "superspace")
"""Groups of which one is taken always; of `logger`, none may be."""
FULL_ERROR = "HYDRA_FULL_ERROR"
HYDRAS_NOTE = "Error executing job with overrides"
MOST_CHARACTERS = 480


def _print_stages() -> None:
    print("usage: python -m spaceevo +stage=<stage> superspace=<superspace> [key=value …]   (-m sweeps)\n\nstages:")
    for file in sorted((conf_folder() / "stage").glob("*.yaml")):
        first = file.read_text(encoding="utf-8").split("\n", 2)[1].lstrip("# ")
        print(f"  {file.stem:16} {first}")
    print(f"superspaces: {', '.join(superspaces())}")
    print(f"models: {', '.join(published_models())}")


@hydra.main(version_base="1.3", config_path=str(conf_folder().resolve()), config_name="config")
def _task(config: DictConfig) -> object:
    """Train where the job trains; the others do their work as Hydra's callback, when this returns."""
    if config.stage.name is None:
        _print_stages()
        return None
    from spaceevo.jobs.runner import job_type, run

    job = job_type(config)
    return run(config).figures.get(job.main_figure) if job.trains else None


def _override(argument: str) -> str:
    """Write an override as Hydra needs it: encodings in `subnet=…` and `space=…` quoted, open settings joined."""
    key, is_set, value = argument.partition("=")
    if value == "null" and key in NEEDED:
        raise ConfigError(f"{key} = null; allowed: {choices(sorted(conf_files(key)), limit=20)}")
    if argument == "logger=null":
        return "~logger"
    if key.startswith(OPEN):
        return f"++{argument}"
    return f"{key}{is_set}{ITEM.sub(_quoted, value)}" if key.lstrip("+") in ENCODED else argument


def _quoted(item: re.Match[str]) -> str:
    return f"'{item[0]}'" if MISREAD.fullmatch(item[0]) and item[0][0] not in "'\"" else item[0]


def _one_line(error: BaseException) -> str:
    """The fault itself; of a library's error that wraps it, what it wraps."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    ours = next((cause for cause in causes if isinstance(cause, SpaceEvoError)), None)
    line = " ".join((str(ours) if ours else " ".join(str(cause) for cause in causes)).split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…"


@contextmanager
def _only_our_line() -> Iterator[None]:
    """Keep Hydra from announcing on stderr the failure that our own line explains."""
    write = sys.stderr.write
    sys.stderr.write = lambda text: 0 if text.startswith(HYDRAS_NOTE) else write(text)  # type: ignore[method-assign]
    try:
        yield
    finally:
        sys.stderr.write = write  # type: ignore[method-assign]


def main() -> None:
    """Run the command line; a user's fault ends in one line and exit code 1."""
    show_all = os.environ.get(FULL_ERROR, "") not in ("", "0")
    sys.set_int_max_str_digits(0)  # a number of thousands of digits is out of range like any other
    os.environ[FULL_ERROR] = "1"  # Hydra then raises instead of printing, and the line is ours to write
    try:
        check_launch()
        check_folders(sys.argv[1:])
        sys.argv[1:] = map(_override, sys.argv[1:])
        with nullcontext() if show_all else _only_our_line():
            _print_stages() if len(sys.argv) == 1 else _task()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; what is left in the buffer would raise again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (SpaceEvoError, HydraException, OmegaConfBaseException) as error:
        if show_all:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
