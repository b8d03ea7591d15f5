"""Commands as child processes of this one, several at a time."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from celltrack_jax.io import files
from launch.slurm.jobs import ROOT, Outcome, last_error

_LOOK_S = 0.1


@contextlib.contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """A context in which SIGTERM and ctrl-C are remembered; a second one ends the process. Yields whether one came."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def remember(number: int, _: object) -> None:
        came.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    for number in before:
        signal.signal(number, remember)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    commands: Mapping[str, Sequence[str]],
    log_file: Callable[[str], Path],
    at_once: int,
    on_start: Callable[[str], None],
    on_end: Callable[[str, Outcome], None],
    asked_to_stop: Callable[[], bool],
) -> None:
    """Runs commands to their ends; told to stop, it passes that on and waits until they have saved.

    Args:
      commands: arguments of python by name, run in this order.
      log_file: of a name's command; it is appended to.
      at_once: how many run at the same time.
      on_start: called with a name.
      on_end: called with a name and how it ended; a negative status is the signal that ended it.
      asked_to_stop: polled.

    Raises:
      InputError: a log cannot be written.
    """
    waiting = list(commands)
    running: dict[str, tuple[subprocess.Popen, float]] = {}
    told: set[str] = set()
    try:
        while running or (waiting and not asked_to_stop()):
            while waiting and len(running) < at_once and not asked_to_stop():
                name = waiting.pop(0)
                on_start(name)
                running[name] = _start(commands[name], log_file(name)), time.monotonic()
            if asked_to_stop():
                _end(running, told)
            for name, (child, since) in list(running.items()):
                status = child.poll()
                if status is not None:
                    del running[name]
                    error = last_error(log_file(name)) if status else None
                    on_end(name, Outcome(status, round(time.monotonic() - since), error))
            time.sleep(_LOOK_S)
    finally:
        _end(running, told)


def _start(command: Sequence[str], log: Path) -> subprocess.Popen:
    with files.explained(log, "then run the same command again"):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            # In a session of its own: ctrl-C reaches it once, from here, and not from the terminal as well.
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _end(running: Mapping[str, tuple[subprocess.Popen, float]], told: set[str]) -> None:
    """Tells children to stop, once: a second SIGTERM would end them before they have saved."""
    for name, (child, _) in running.items():
        if child.poll() is None and name not in told:
            told.add(name)
            child.terminate()
