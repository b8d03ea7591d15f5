"""SIGTERM and ctrl-C as a flag that loops poll, agreed between processes."""

import signal
import threading
from types import FrameType

import jax

from celltrack_jax.training.mesh import any_process


class Preemption:
    """A context in which SIGTERM and SIGINT set a flag instead of ending the process.

    A second signal ends the process the usual way.
    """

    def __init__(self):
        self._asked = threading.Event()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # pyright: ignore[reportArgumentType]

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._asked.set()
        signal.signal(number, signal.SIG_DFL)

    def asked(self) -> bool:
        """Returns whether this process, or any other of the run, was told to stop.

        With several processes all of them have to call it at the same point.
        """
        return any_process(self._asked.is_set()) if jax.process_count() > 1 else self._asked.is_set()
