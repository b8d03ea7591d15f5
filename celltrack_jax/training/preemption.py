"""SIGTERM and ctrl-C as a flag that loops poll, agreed between processes."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """A context in which SIGTERM and SIGINT set a flag instead of ending the process.

    A second signal ends the process the usual way. Of several processes any one may get the SIGTERM: jax's
    preemption service, which catches it from `jax.distributed.initialize` on, then names a poll at which all of them
    stop. A collective on the devices would wait, at every poll, for the step under way.
    """

    def __init__(self, *, together: bool = True, signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)):
        """Sets nothing yet.

        Args:
          together: whether the processes of a run stop at the same poll. Otherwise each hears only its own
            signals; `jax_enable_preemption_service` has to be off then.
          signals: that set the flag.
        """
        self._several = together and jax.process_count() > 1
        self._signals = signals
        self._asked = threading.Event()
        self._polls = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread() and not self._several:
            for number in self._signals:
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

        With several processes all of them have to call it equally often.
        """
        if self._several and not self._asked.is_set():
            self._polls += 1
            if multihost_utils.reached_preemption_sync_point(self._polls):
                self._asked.set()
        return self._asked.is_set()
