"""Processes that share the work of one command: each hears of a SIGTERM to any of them, and they meet on the way."""

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
"""Between two questions to process 0 whether any process was told to stop."""
_LOOK_S = 0.2
_LONG_S = 30 * 24 * 3600.0
"""Some may have far more work than others; what dies is noticed by itself."""
_STOP, _FINISHED = "stop", "finished"


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

    def __exit__(self, *error: object) -> None:
        self._preemption.__exit__(*error)

    def asked(self) -> bool:
        """Returns whether this process, or about a second ago another one, was told to stop; for any thread."""
        if self._stopped:
            return True
        if self._preemption.asked():
            hosts.tell(_STOP)
            self._stopped = True
        elif self.count > 1 and time.monotonic() - self._looked > _POLL_S:
            self._looked = time.monotonic()
            self._stopped = hosts.told(_STOP)
        return self._stopped

    def finish(self) -> None:
        """Tells all that what this run was started for is done, whatever they are told later."""
        self._finished = True
        hosts.tell(_FINISHED)

    def finished(self) -> bool:
        """Returns whether this or another process has told so."""
        return self._finished or hosts.told(_FINISHED)

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
