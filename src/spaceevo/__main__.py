"""Entry of `python -m spaceevo`: answers signals first, and only then imports the command line, which takes a while."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from spaceevo.errors import Stopped


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `Stopped`, in this process; those that it forks end as they would without."""
    own = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise Stopped(number)
        signal.signal(number, before[signal.Signals(number)])
        signal.raise_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Run the command line; SIGTERM and SIGINT end it in one line and exit code 143 or 130."""
    typed = sys.argv[1:]
    try:
        with stoppable():
            from spaceevo.jobs.command_line import run_command_line

            run_command_line(typed)
    except Stopped as stopped:
        from spaceevo.collectives.launcher import is_first

        name, kept = signal.Signals(stopped.signal_number).name, "; ".join(stopped.kept) or "nothing was begun"
        again = shlex.join(["python", "-m", "spaceevo", *typed])
        if is_first():
            print(f"stopped by {name}; kept: {kept}; goes on with: {again}", file=sys.stderr)
        sys.exit(128 + stopped.signal_number)


if __name__ == "__main__":
    main()
