"""Stages that work at the same time: iterators drawn ahead in threads, with a bound on what waits in between."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

MOST_THREADS = 8
"""More threads would hold more frames in memory, and Python's lock keeps them from reading faster."""
_END: Any = object()


def cores() -> int:
    """Returns how many processors this process may use."""
    # macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(items: Iterable[Item], depth: int) -> Generator[Item]:
    """Draws up to `depth` items ahead, in a thread of its own.

    An error of the iterable is raised where its item would come; closing this generator closes the iterable.
    """
    iterator = iter(items)
    worker = ThreadPoolExecutor(1)
    try:
        waiting = deque(worker.submit(next, iterator, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(worker.submit(next, iterator, _END))
            yield item
    finally:
        worker.shutdown(cancel_futures=True)
        if isinstance(iterator, Generator):
            iterator.close()


def mapped(
    function: Callable[[Item], Value], items: Iterable[Item], threads: int | None = None
) -> Generator[Value]:
    """Maps over items in threads, in order; at most `threads` results and items are held.

    Closing this generator closes the iterable.

    Args:
      function: called with one item, in a thread; its error is raised where its result would be yielded.
      items: drawn as threads become free.
      threads: by default as many as there are processors, and at most `MOST_THREADS`.
    """
    iterator, threads = iter(items), threads or min(cores(), MOST_THREADS)
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Value]] = deque()
    try:
        for item in iterator:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        if isinstance(iterator, Generator):
            iterator.close()
