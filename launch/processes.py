"""Processes that share the work of one command: they meet on the way, and one that stops or fails stops them all."""

import contextlib
import signal
import threading
import time
from concurrent.futures import Future

import jax

from celltrack_jax.errors import InputError
from celltrack_jax.training import hosts
from celltrack_jax.training.preemption import Preemption
from launch import cluster

_POLL_S = 1.0
"""Between two questions to process 0 whether any process stops or failed."""
_LOOK_S = 0.2
_LONG_S = 30 * 24 * 3600.0
"""Some may have far more work than others; what dies is noticed by itself."""
_STOP, _FAILED, _FINISHED = "stop", "failed", "finished"


class _OtherFailedError(InputError):
    """Another process said that it failed."""


class Processes:
    """A context in which this process is one of the run, and SIGTERM sets a flag."""

    index: int
    """Of this process, from 0."""
    count: int

    def __init__(self):
        self._stopped = self._finished = False
        self._looked = 0.0

    def __enter__(self) -> "Processes":
        # jax's service takes SIGTERM for itself, and tells of it only where all processes ask equally often.
        jax.config.update("jax_enable_preemption_service", False)
        cluster.join()
        self.index, self.count = jax.process_index(), jax.process_count()
        self._preemption = Preemption(together=False, signals=(signal.SIGTERM,))
        self._preemption.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._preemption.__exit__(kind, error, trace)
        if error is not None and not isinstance(error, _OtherFailedError):
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 may be dead
                hosts.tell(_FAILED, str(error) or type(error).__name__)

    def asked(self) -> bool:
        """Returns whether this process, or about a second ago another one, was told to stop; for any thread.

        Raises:
          InputError: another process failed.
        """
        if not self._stopped and self._preemption.asked():
            hosts.tell(_STOP)
            self._stopped = True
        if self.count > 1 and time.monotonic() - self._looked > _POLL_S:
            self._looked = time.monotonic()
            self._stopped = self._stopped or bool(hosts.told(_STOP))
            for process, message in hosts.told(_FAILED).items():
                raise _OtherFailedError(f"process {process} of {self.count} failed: {message}")
        return self._stopped

    def finish(self) -> None:
        """Tells all that what this run was started for is done, whatever they are told later."""
        self._finished = True
        hosts.tell(_FINISHED)

    def finished(self) -> bool:
        """Returns whether this or another process has told so."""
        return self._finished or bool(hosts.told(_FINISHED))

    def meet(self, where: str) -> None:
        """Waits for the other processes, and goes on hearing of SIGTERM and ctrl-C.

        Args:
          where: a name that is given once.

        Raises:
          InputError: another process has ended.
        """
        if self.count == 1:
            return
        met: Future[None] = Future()

        def wait() -> None:
            try:
                met.set_result(hosts.barrier(where, _LONG_S))
            except Exception as error:
                met.set_exception(error)

        threading.Thread(target=wait, daemon=True).start()
        while not met.done():
            self.asked()
            time.sleep(_LOOK_S)
        try:
            met.result()
        except jax.errors.JaxRuntimeError as error:
            raise InputError(
                f"process {self.index} of {self.count} waited for the others, and one of them has ended: its own "
                "message says why; then start all of them again"
            ) from error
