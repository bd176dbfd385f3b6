"""Entry of `python -m spaceevo`: answers signals first, and only then imports the command line, which takes a while."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from spaceevo.errors import Stopped

IMPORTS = "<frozen importlib._bootstrap>"  # the file, as it were, of Python's own code that imports
AGAIN_S = 0.05  # until a signal that came during an import is looked at again


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Stopped`, in this process; those that it forks end as they would without.

    One that comes during an import waits for its end: who imports a package again of which half was there, as those
    do who tell of the stop, may find it broken.
    """
    own, waiting = os.getpid(), list[int]()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
        elif _is_importing(frame):
            waiting.append(number)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            raise Stopped(number)

    def look_again(_: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            stop(waiting.pop(), frame)

    stops = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in stops}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, look_again)
    try:
        yield
        if waiting:
            raise Stopped(waiting.pop())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a frame belongs to an import that began within `main`."""
    while frame is not None and frame.f_code is not main.__code__:
        if frame.f_code.co_filename == IMPORTS:
            return True
        frame = frame.f_back
    return False


def main() -> None:
    """Run the command line; SIGTERM and SIGINT end it in one line and exit code 143 or 130."""
    typed = sys.argv[1:]
    try:
        with stoppable():
            from spaceevo.jobs.command_line import run_command_line

            run_command_line(typed)
    except Stopped as stopped:
        from spaceevo.artifacts.shell import PROGRAM, command_line
        from spaceevo.collectives.launcher import is_first

        name, kept = signal.Signals(stopped.signal_number).name, "; ".join(stopped.kept) or "nothing was begun"
        again = command_line([*PROGRAM, *typed])
        if is_first():
            print(f"stopped by {name}; kept: {kept}; goes on with: {again}", file=sys.stderr)
        sys.exit(128 + stopped.signal_number)


if __name__ == "__main__":
    main()
