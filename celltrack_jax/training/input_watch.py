"""Why a step waits for its input: where the reading threads are while it does."""

import gc
import linecache
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from celltrack_jax.io import threads

_LOOK_S = 0.2
"""Between two looks at the threads; only while the step waits."""
_STALLED_S = 60.0
"""After so long without a batch it is said at once; again after twice as long, and so on."""
WORTH_SAYING = 0.2
"""Share of its time that a step may wait before it is said."""
_IDLE = ("/threading.py", "/queue.py", "/concurrent/futures/")
STORE, WORK = "the store", "work"


class InputWatch:
    """Counts what the threads that make batches do while the step waits for one."""

    def __init__(self, say: Callable[[str], None], threads_set: int):
        """Starts to watch.

        Args:
          say: gets a warning as soon as the input has stalled.
          threads_set: the config's data.threads.
        """
        self._say, self._threads_set = say, threads_set
        self._since: float | None = None
        self._warned_s = _STALLED_S
        self.seen: Counter[tuple[str, str]] = Counter()
        """Looks by what a thread did and where; under the lock, for one thread looks and another asks."""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._look, name="input watch", daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Is held while the step waits for its batch."""
        self._since, self._warned_s = time.monotonic(), _STALLED_S
        try:
            yield
        finally:
            self._since = None

    def cause(self) -> str:
        """Says what kept the input, from what was seen since the last call, and the cure."""
        with self._lock:
            seen, self.seen = self.seen, Counter()
        total = seen.total()
        if not total:
            return "each wait was too short to see why; raise --config.data.prefetch"
        at_store = sum(count for (kind, _), count in seen.items() if kind == STORE)
        blamed, share = (STORE, at_store) if at_store > total / 2 else (WORK, total - at_store)
        where = max((count, place) for (kind, place), count in seen.items() if kind == blamed)[1]
        if blamed == STORE:
            return (
                f"its threads wait for the store ({share / total:.0%} of looks, most in {where}): copy the store "
                f"to a faster disk, or raise --config.data.threads (now {self._threads_set}) to have more reads under way"
            )
        return (
            f"its threads make samples ({share / total:.0%} of looks, most in {where}): raise "
            f"--config.data.threads (now {self._threads_set}; this process has {threads.cores()} cores), or let them do "
            "less per sample"
        )

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_S):
            since = self._since
            if since is None:
                continue
            looks = list(_readers())
            with self._lock:
                self.seen.update(looks)
            waited = time.monotonic() - since
            if waited > self._warned_s:
                self._warned_s *= 2
                self._say(f"no batch for {waited:.0f} s: {self.cause()}")


def _readers() -> Iterator[tuple[str, str]]:
    """Yields, for each thread that makes batches and is not idle, what it does and in which line."""
    for innermost in _stacks():
        frame = _working(innermost)
        if frame is None:
            continue
        file, number, name = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        kind = STORE if "result()" in linecache.getline(file, number) else WORK
        yield kind, f"{name} of {file.rpartition('/')[2]}, line {number}"


def _stacks() -> list[FrameType]:
    """The innermost frame of every thread."""
    # Python 3.11 lists the threads under a lock that a thread which ends waits for with the interpreter's lock in hand:
    # a collection in between, whose callbacks give that up, locks the process for good (python/cpython#106883).
    collects = gc.isenabled()
    gc.disable()
    try:
        return list(sys._current_frames().values())
    finally:
        if collects:
            gc.enable()


def _working(innermost: FrameType) -> FrameType | None:
    """The frame that says what a thread does which grain called; None for one that is idle, or not grain's."""
    stack, frame = [], innermost
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    files = [frame.f_code.co_filename for frame in stack]
    called = next((depth for depth, file in enumerate(files) if "/grain/" in file), 0)
    busy = [depth for depth in range(called) if not any(part in files[depth] for part in _IDLE)]
    own = [depth for depth in busy if "/celltrack_jax/" in files[depth]]
    return stack[(own or busy)[0]] if busy else None
