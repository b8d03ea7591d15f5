"""Reading the frames of a movie in parallel, a few at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

MOST_THREADS = 8
"""More threads would hold more frames in memory, and Python's lock keeps them from reading faster."""


def map_in_order(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """Maps over items in threads and yields in their order, with at most threads + 1 results in memory.

    Args:
      function: called with one item, in a thread; its error is raised where its result would be yielded.
      items: drawn as threads become free.
    """
    threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
