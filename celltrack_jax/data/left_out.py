"""Cells for which a crop has no room: said once, and counted. numpy only."""

import threading
from collections.abc import Callable

import numpy as np


class LeftOut:
    """Counts cells that training does not see, over the threads that read crops."""

    def __init__(self, say: Callable[[str], None] = lambda text: print(text, flush=True)):
        """Counts nothing yet.

        Args:
          say: gets a line when the first cell is left out.
        """
        self.cells = 0
        """In all crops that this process has read so far, some of them ahead of the step."""
        self._say, self._lock = say, threading.Lock()

    def count(self, where: str, cells: int, room: int) -> None:
        """Counts the cells of a crop.

        Args:
          where: the crop's sequence and frame, for the message.
          cells: that it holds.
          room: how many are kept.
        """
        with self._lock:
            first = not self.cells
            self.cells += cells - room
        if first:
            self._say(
                f"warning: {where}: a crop holds {cells} cells, and data.max_cells = {room + 1} has room for {room}: its "
                f"{cells - room} smallest are unknown to the loss, there and wherever there are too many (counted as "
                f"cells_left_out); set data.max_cells to {2 * cells} or make crops smaller"
            )


def keep_largest(labels: np.ndarray, room: int) -> np.ndarray:
    """Keeps the cells of the most pixels, of equal ones those of lower labels, and makes the others unknown.

    Args:
      labels: (*S) int32, cells 1.., 0 background, -1 unknown.
      room: how many are kept.

    Returns:
      (*S) int32, the kept cells numbered 1.. in their order.
    """
    sizes = np.bincount(labels[labels > 0], minlength=1)
    kept = np.sort(np.argsort(-sizes, kind="stable")[:room])
    kept = kept[sizes[kept] > 0]
    # -1 picks the table's last entry.
    table = np.full(len(sizes) + 1, -1, np.int32)
    table[0] = 0
    table[kept] = np.arange(1, len(kept) + 1)
    return table[labels]
