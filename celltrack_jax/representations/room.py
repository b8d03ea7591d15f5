"""Room for what is read from a frame: more where it was too little, and a word where even the most was.

What is compared with everything else needs room that is known beforehand. Shapes: K candidates.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

MOST = 4096
"""K up to which room grows by itself: 17 million pairs."""


def with_room(find: Callable[[int], tuple], count: int) -> tuple[Any, ...]:
    """Finds candidates, again with four times the room as long as there are more of them.

    Args:
      find: K -> arrays or None, and at last () bool, whether there were K candidates or more. Each K is a program.
      count: K to begin with, `max_peaks`.

    Returns:
      The arrays but the last one, on the host.
    """
    *found, full = find(count)
    while full and count < MOST:
        count = min(4 * count, MOST)
        *found, full = find(count)
    if full:
        tell("max_peaks", count)
    return tuple(None if part is None else np.asarray(part) for part in found)


@functools.cache
def tell(setting: str, most: int) -> None:
    """Says, once, that a frame holds more candidates than are read.

    Args:
      setting: of the representation, which bounds them.
      most: so many are read.
    """
    logging.getLogger(__name__).warning(
        "a frame holds more than %d candidates, of which the surest are read: raise representation.%s or the threshold",
        *(most, setting),
    )
