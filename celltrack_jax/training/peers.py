"""Signs of life between the processes of a run: who is where, and what to say when one is gone.

Each process writes a line to jax's coordination service every few seconds and reads those of the others. Whoever ends
with an error says so there, and the others end too instead of waiting for it in a collective for ever. That a process
is dead, jax itself notices, by heartbeats that a busy interpreter cannot hold up (at once where it was process 0, which
holds the service), and aborts; what is left to do is to say in one line which one it was.
"""

import atexit
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from jax._src import distributed  # the coordination service has no public interface

BEAT_S = 2.0
"""Between two signs of life."""
_SILENT_S = 4 * BEAT_S
"""From here on a process is named where one is known to be gone."""
_GIVE_UP_S = 60.0
"""After a collective failed, and nobody was silent, it was not a process that died."""
_TELL_S = 2 * BEAT_S + 1
"""For the others to read why this process ends."""
_ALIVE = "celltrack/alive/"
_DONE, _FAILED = "done", "failed"


class Peer(NamedTuple):
    """A process of the run, as its last sign of life has it."""

    process: int
    host: str
    says: Mapping[str, Any]
    """What `Peers.tell` was given there."""
    silent_s: float
    """Since its last sign."""


class Peers:
    """Tells and hears signs of life in a thread of its own; ends this process when another one has failed."""

    def __init__(self, client: Any, process: int, processes: int):
        """Takes the client of the coordination service; starts nothing."""
        self._client, self.process, self.processes = client, process, processes
        self._says: dict[str, Any] = {}
        self._beat = 0
        self._heard: dict[int, tuple[str, float]] = {}
        self._ended, self._ending = threading.Event(), threading.Event()

    def start(self) -> None:
        """Starts to tell and to hear, until the interpreter ends."""
        on_abort(self._missing)
        atexit.register(self.leave)  # before jax, which registered first, leaves the service
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def tell(self, **says: Any) -> None:
        """Sets what the next signs of life say, such as the step; JSON values."""
        self._says = says

    def everyone(self) -> list[Peer]:
        """Returns the processes that have been heard of, this one included, by rank."""
        now = time.monotonic()
        rows = [(rank, json.loads(text), now - since) for rank, (text, since) in sorted(self._heard.items())]
        return [Peer(rank, row["host"], row["says"], silent_s) for rank, row, silent_s in rows]

    def leave(self) -> None:
        """Says that this process is done."""
        if not self._ended.is_set():
            self._ended.set()
            self._says = {**self._says, _DONE: True}
            with contextlib.suppress(Exception):
                self._send()

    def fail(self, reason: str, status: int) -> NoReturn:
        """Says why this process cannot go on, which ends the others too, and ends it without waiting for them."""
        if self._ending.is_set():
            time.sleep(
                _GIVE_UP_S
            )  # this error is a consequence of what the watch is about to end the process for
        self._says = {**self._says, _FAILED: reason}
        with contextlib.suppress(Exception):  # the service may be what is gone
            self._send()
        time.sleep(_TELL_S)
        _leave(status)

    def explain(self, error: BaseException) -> NoReturn:
        """Ends this process after a collective failed, with the name of the process that is gone.

        Raises:
          BaseException: the error itself, if all processes turn out to be alive.
        """
        deadline = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < deadline:
            if self._silent() and not self._ending.is_set():
                self._end(self._missing())
            time.sleep(BEAT_S / 4)
        raise error

    def _watch(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._send()
                rows = self._client.key_value_dir_get(_ALIVE)
            except Exception:  # whatever the service raises: without it this process cannot go on
                if not self._ended.is_set():
                    self._end(self._missing())
                return
            self._hear(rows)

    def _send(self) -> None:
        self._beat += 1
        row = {"beat": self._beat, "host": socket.gethostname(), "says": self._says}
        self._client.key_value_set(f"{_ALIVE}{self.process}", json.dumps(row), allow_overwrite=True)

    def _hear(self, rows: Sequence[tuple[str, str]]) -> None:
        now = time.monotonic()
        for key, text in rows:
            rank = int(key.rpartition("/")[2])
            if self._heard.get(rank, ("", 0.0))[0] != text:
                self._heard[rank] = (text, now)
        for peer in self.everyone():
            if peer.process != self.process and _FAILED in peer.says:
                self._end(f"process {peer.process} on {peer.host} ended: {peer.says[_FAILED]}")

    def _silent(self) -> list[Peer]:
        others = [peer for peer in self.everyone() if peer.process != self.process and _DONE not in peer.says]
        return [peer for peer in others if peer.silent_s > _SILENT_S]

    def _missing(self) -> str:
        """Says who is gone: who has been silent, or process 0, whose end all others notice at once."""
        gone = self._silent() or [peer for peer in self.everyone() if peer.process == 0 != self.process]
        names = ", ".join(f"process {peer.process} on {peer.host}{_at(peer)}" for peer in gone)
        return (
            f"{names or 'another process'} is gone: its own log says why; start all processes again, and they go on "
            "from the last checkpoint"
        )

    def _end(self, text: str) -> NoReturn:
        """Ends this process without waiting for anything: other threads may hang in a collective."""
        self._ending.set()
        os.write(2, _line(text))
        if self.process == 0:
            time.sleep(_TELL_S)  # gone at once, it would be the one that the others name
        _leave(1)


def _leave(status: int) -> NoReturn:
    """Ends this process at once, after what it has printed."""
    with contextlib.suppress(Exception):  # what is left to say does not matter where nobody reads it
        sys.stdout.flush()
    os._exit(status)


def on_abort(text: Callable[[], str]) -> None:
    """Ends this process with an error line where jax would abort it; replaces what was set before.

    jax aborts in C++, also where its documentation names an exception. A handler of `signal.signal` would wait for the
    interpreter's next step, which never comes.
    """
    _ABORT[:] = [ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: _exit_with(text()))]
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(int(signal.SIGABRT), ctypes.cast(_ABORT[0], ctypes.c_void_p))


def _exit_with(text: str) -> NoReturn:
    os.write(2, _line(text))
    os._exit(1)


def _line(text: str) -> bytes:
    return f"\nerror: {' '.join(text.split())}\n".encode()


def _at(peer: Peer) -> str:
    return f" (last heard of at step {peer.says['step']})" if "step" in peer.says else ""


_PEERS: list[Peers] = []
_ABORT: list[Any] = []
"""The handler that C knows must not be collected."""


def watch() -> None:
    """Starts the signs of life between the processes that `jax.distributed.initialize` brought together."""
    state = distributed.global_state
    _PEERS.append(Peers(state.client, state.process_id, state.num_processes))
    _PEERS[-1].start()


def of_this_run() -> Peers | None:
    """Returns what `watch` started; None in a run of a single process."""
    return _PEERS[-1] if _PEERS else None


def barrier(name: str, timeout_s: float) -> None:
    """Waits until all processes of the run have come here; returns at once in a run of a single process.

    Args:
      name: of this barrier; each is passed once.
      timeout_s: to wait for the slowest. A process that dies ends the wait before.

    Raises:
      jax.errors.JaxRuntimeError: not all came in time.
    """
    if distributed.global_state.client is not None:
        distributed.global_state.client.wait_at_barrier(name, int(1000 * timeout_s))
