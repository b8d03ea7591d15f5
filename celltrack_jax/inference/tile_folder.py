"""Predictions of the tiles of a frame that takes long: a run that was killed goes on in the middle of a frame.

<folder>/<frame>/<position>.f32     float32 of one tile and their CRC-32; written under another name and renamed

Frames that are done quickly write nothing. Files are written in a thread, and a tile that it has no time for is
not kept: the devices never wait for the disk.
"""

import os
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

KEEP_AFTER_S = 20.0
"""Tiles of a frame are kept from so long after its first one on: what a kill may cost."""
_WAITING = 4
"""Tiles that wait to be written; more are not kept."""
_CHECK_BYTES = 4


class TileFolder:
    """A folder of predictions, made with one checkpoint and one set of settings."""

    def __init__(self, folder: Path, changed_ns: Callable[[int], int]):
        """Makes nothing yet.

        Args:
          folder: for the tiles alone.
          changed_ns: frame number -> when its image was last written; older tiles do not count.
        """
        self.folder = folder
        self._changed_ns = changed_ns
        self._writer = ThreadPoolExecutor(1)
        self._free = threading.Semaphore(_WAITING)
        self._began: dict[int, float] = {}
        self._full = False

    def read(self, frame: int, position: tuple[int, ...], tile: tuple[int, ...]) -> np.ndarray | None:
        """Returns a tile's prediction (*T, C) float32, or None where none is kept, whole and newer than the image.

        Args:
          frame: its number.
          position: of the tile in the frame.
          tile: *T.
        """
        try:
            with self._path(frame, position).open("rb") as file:
                changed = os.fstat(file.fileno()).st_mtime_ns
                content = file.read()
        except OSError:
            return None
        values, check = content[:-_CHECK_BYTES], content[-_CHECK_BYTES:]
        if changed <= self._changed_ns(frame) or not values or _check(values) != check:
            return None
        self._began[frame] = -float("inf")
        return np.frombuffer(values, np.float32).reshape(*tile, -1)

    def keep(self, frame: int, position: tuple[int, ...], prediction: np.ndarray) -> None:
        """Writes a tile's prediction, in a thread, if its frame takes long.

        Args:
          frame: its number.
          position: of the tile in the frame.
          prediction: (*T, C).
        """
        now = time.monotonic()
        if now - self._began.setdefault(frame, now) < KEEP_AFTER_S or self._full:
            return
        if self._free.acquire(blocking=False):
            self._writer.submit(self._write, self._path(frame, position), prediction)

    def remove(self, frame: int) -> None:
        """Removes the tiles of a frame whose mask is written."""
        if self._began.pop(frame, None) is not None:
            # In the thread that writes, so that no tile comes after it.
            self._writer.submit(shutil.rmtree, self._path(frame, ()).parent, ignore_errors=True)

    def close(self) -> None:
        """Waits until all tiles are written."""
        self._writer.shutdown()

    def _path(self, frame: int, position: tuple[int, ...]) -> Path:
        return self.folder / str(frame) / ("_".join(map(str, position)) + ".f32")

    def _write(self, path: Path, prediction: np.ndarray) -> None:
        partial = path.with_suffix(".partial")
        try:
            if not self._full:
                values = np.ascontiguousarray(prediction, np.float32).data.cast("B")
                path.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as file:
                    file.write(values)
                    file.write(_check(values))
                os.replace(partial, path)
        except OSError as error:
            self._full = True
            # Room for the masks comes first.
            for frame in list(self._began):
                shutil.rmtree(self._path(frame, ()).parent, ignore_errors=True)
            print(
                f"note: cannot write {path}: {error.strerror}; prediction goes on without keeping tiles, so a kill "
                "would cost the frame: free some space",
                file=sys.stderr,
            )
        finally:
            self._free.release()


def _check(values: bytes | memoryview) -> bytes:
    return zlib.crc32(values).to_bytes(_CHECK_BYTES, "little")
