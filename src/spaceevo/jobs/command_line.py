"""The command line: `python -m spaceevo +stage=… superspace=… key=value …`, with Hydra's sweeps under `-m`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import hydra
from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from spaceevo.collectives.launcher import check_launch
from spaceevo.errors import SpaceEvoError, fault_line, shortened
from spaceevo.jobs.help import job_help, overview
from spaceevo.jobs.mistyped import explained
from spaceevo.jobs.trust import check_folders
from spaceevo.jobs.words import Options, composed, hydras_words, options
from spaceevo.space.description import conf_folder

FULL_ERROR = "HYDRA_FULL_ERROR"
HYDRAS_NOTE = "Error executing job with overrides"


@hydra.main(version_base="1.3", config_path=str(conf_folder().resolve()), config_name="config")
def _task(config: DictConfig) -> object:
    """Train where the job trains; the others do their work as Hydra's callback, when this returns."""
    if config.stage.name is None:
        print(overview())
        return None
    from spaceevo.jobs.runner import job_type, run

    job = job_type(config)
    return run(config).figures.get(job.main_figure) if job.trains else None


def _show_help(given: Options) -> None:
    if not any(word.startswith(("+stage=", "experiment=")) for word in given.overrides):
        print(overview())
    else:
        print(job_help(composed(given.overrides, given.config_dir)))


@contextmanager
def _mode_known(given: Options) -> Iterator[None]:
    """Spare Hydra composing all of the configuration a first time, only to learn whether it sweeps, which `-m` tells.

    Only a folder of the user's own, or a word, could say otherwise.
    """
    asks = Hydra.get_mode
    if given.config_dir is None and not any(word.lstrip("+").startswith("hydra.") for word in given.overrides):
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = asks  # type: ignore[method-assign]


def _one_line(error: Exception, given: Options) -> str | None:
    """What a user can mend, of a library's error that wraps it too; None of a fault of the program."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    ours = [cause for cause in causes if isinstance(cause, SpaceEvoError)]
    if not ours and isinstance(error, HydraException | OmegaConfBaseException):
        return shortened(explained(error, given))
    return next(filter(None, map(fault_line, ours or causes)), None)


def _printable(line: str) -> str:
    """Write line breaks, colours and the like, which come from what was typed, as escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)


@contextmanager
def _only_our_line() -> Iterator[None]:
    """Keep Hydra from announcing on stderr the failure that our own line explains."""
    write = sys.stderr.write
    sys.stderr.write = lambda text: 0 if text.startswith(HYDRAS_NOTE) else write(text)  # type: ignore[method-assign]
    try:
        yield
    finally:
        sys.stderr.write = write  # type: ignore[method-assign]


def run_command_line(typed: list[str]) -> None:
    """Run what was typed; a user's fault ends in one line and exit code 1."""
    show_all = os.environ.get(FULL_ERROR, "") not in ("", "0")
    sys.set_int_max_str_digits(0)  # a number of thousands of digits is out of range like any other
    given = Options([], False, None)
    os.environ[FULL_ERROR] = "1"  # Hydra then raises instead of printing, and the line is ours to write
    try:
        check_launch()
        sys.argv[1:] = hydras_words(typed)
        given = options(sys.argv[1:])
        check_folders(typed)
        with nullcontext() if show_all else _only_our_line():
            if given.wants_help or not typed:
                _show_help(given)
            else:
                with _mode_known(given):
                    _task()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; what is left in the buffer would raise again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        line = None if show_all else _one_line(error, given)
        if line is None:
            raise
        print(f"error: {shortened(_printable(line))}", file=sys.stderr)
        sys.exit(1)
