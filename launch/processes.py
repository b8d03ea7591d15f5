"""Processes that share the work of one command: they meet on the way, and a SIGTERM to one of them stops them all."""

import signal
import threading
import time
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import NoReturn

import jax
from jax._src import distributed  # the coordination service has no public interface

from celltrack_jax.training import peers
from celltrack_jax.training.preemption import Preemption
from launch import cluster, local

_POLL_S = 1.0
"""Between two questions to process 0 whether any process was told to stop."""
_LOOK_S = 0.1
"""Between two looks for signals while waiting."""
_LONG_S = 30 * 24 * 3600.0
"""Some may have far more work than others; that one is gone is noticed by itself."""
_STOP, _FINISHED = "celltrack/stop/", "celltrack/finished/"


class Alone:
    """What `Processes` offers to a command that shares its work out itself, and leaves the devices to others."""

    index, count = 0, 1

    def __enter__(self) -> "Alone":
        """Makes SIGTERM and ctrl-C set a flag."""
        self._context = local.told_to_stop()
        self.asked = self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def meet(self, where: str) -> None:
        """Has nobody to wait for."""


class Processes:
    """A context in which this process is one of its run, SIGTERM sets a flag, and no ctrl-C is lost.

    Where ctrl-C comes while a callback of the garbage collector runs, as jax has them, Python drops the
    KeyboardInterrupt; `asked` raises it again.
    """

    index: int
    """Of this process, from 0."""
    count: int

    def __init__(self):
        self._stopped = self._finished = False
        self._asked_s = 0.0

    def __enter__(self) -> "Processes":
        """Joins the run.

        Raises:
          InputError: as `cluster.join`.
        """
        cluster.join(stop_together=False)  # together, all would have to poll equally often
        self.index, self.count = jax.process_index(), jax.process_count()
        self._preemption = Preemption(together=False, signals=(signal.SIGTERM,))
        self._preemption.__enter__()
        self._interrupted = False
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
        self._preemption.__exit__(kind, error, trace)

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        self._interrupted = True
        raise KeyboardInterrupt

    def asked(self) -> bool:
        """Returns whether this process, or about a second ago another one, was told to stop; for any thread.

        Raises:
          KeyboardInterrupt: of a ctrl-C before, in the main thread.
        """
        if self._interrupted and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        if not self._stopped and self._preemption.asked():
            _tell(_STOP)
            self._stopped = True
        if self.count > 1 and not self._stopped and time.monotonic() - self._asked_s > _POLL_S:
            self._asked_s = time.monotonic()
            self._stopped = _told(_STOP)
        return self._stopped

    def finish(self) -> None:
        """Tells all that the work is done, whatever they hear later."""
        self._finished = True
        _tell(_FINISHED)

    def finished(self) -> bool:
        """Returns whether this or another process has told so."""
        return self._finished or _told(_FINISHED)

    def meet(self, where: str) -> None:
        """Waits for the other processes, and goes on hearing of SIGTERM and ctrl-C.

        Args:
          where: a name that is given once.
        """
        run = peers.of_this_run()
        if run is None:
            return
        met: Future[None] = Future()

        def wait() -> None:
            try:
                met.set_result(peers.barrier(where, _LONG_S))
            except jax.errors.JaxRuntimeError as error:
                met.set_exception(error)

        threading.Thread(target=wait, daemon=True).start()
        while not met.done():
            self.asked()
            time.sleep(_LOOK_S)
        if (error := met.exception()) is not None:
            run.explain(error)
        self._asked_s = 0.0  # what anyone said before it came here counts


def _tell(what: str) -> None:
    client = distributed.global_state.client
    if client is not None:
        client.key_value_set(f"{what}{jax.process_index()}", "", allow_overwrite=True)


def _told(what: str) -> bool:
    client = distributed.global_state.client
    return client is not None and bool(client.key_value_dir_get(what))
