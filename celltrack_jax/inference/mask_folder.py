"""Masks of a movie that is being segmented: a run that was stopped finds what it had done.

<folder>/settings.json     what made the masks: checkpoint, images, settings
<folder>/mask000.tif       written under another name and renamed, so a file that is there is whole
<folder>/points000.npz     the points that a mask shows, where a network finds points; written before it
<folder>/tiles/            of the frames under way, see `tile_folder`
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.inference import points
from celltrack_jax.io import ctc, files, tif

MANIFEST = "settings.json"
TILES = "tiles"
KEPT = "then run the same command again to continue with what was done, or change --output"
"""What helps where a result cannot be written."""


class MaskFolder:
    """A folder of label masks made by one checkpoint with one set of settings."""

    def __init__(self, folder: Path, settings: dict[str, Any], *, made: bool = False, pointed: bool = False):
        """Opens or makes the folder; masks and tiles that were made with other settings are removed.

        Args:
          folder: for the masks alone.
          settings: what JSON can hold.
          made: whether another process, maybe on another host, has made it with the same settings.
          pointed: whether each mask has its points beside it.

        Raises:
          InputError: the folder cannot be written, holds something else, or is not what another process made.
        """
        self.folder, self.pointed = Path(folder), pointed
        manifest = self.folder / MANIFEST
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        if made:
            if not files.wait_until(lambda: manifest.is_file() and manifest.read_text() == text):
                raise InputError(
                    f"{self.folder} is not here as another process made it: give all processes the same flags, and "
                    "an --output that all hosts share"
                )
            return
        with files.explained(self.folder, KEPT):
            self.folder.mkdir(parents=True, exist_ok=True)
            if manifest.is_file() and manifest.read_text() == text:
                return
            if not manifest.is_file() and any(path.name != files.LOCK for path in self.folder.iterdir()):
                raise InputError(f"{self.folder} holds other files: move them, or choose another --output")
            for path in (*ctc.frame_files(self.folder, "mask").values(), *self.folder.glob("points*.npz")):
                path.unlink()
            if (self.folder / TILES).exists():
                shutil.rmtree(self.folder / TILES)
            manifest.write_text(text)

    def has(self, frame: int, changed_ns: int) -> bool:
        """Returns whether the mask of a frame is there, with its points if it has any, and newer than its image."""
        try:
            return all(path.stat().st_mtime_ns > changed_ns for path in self._files(frame))
        except FileNotFoundError:
            return False

    def wait_for(self, frames: Iterable[int]) -> None:
        """Waits until the masks that other hosts wrote are visible here.

        Raises:
          InputError: they are not.
        """
        wanted = [path for frame in frames for path in self._files(frame)]
        if not files.wait_until(lambda: all(path.is_file() for path in wanted)):
            absent = next(path for path in wanted if not path.is_file())
            raise InputError(
                f"{absent}, which another process wrote, is not here: give an --output that all hosts share"
            )

    def path(self, frame: int) -> Path:
        """Returns the file of a frame's mask."""
        return self.folder / f"mask{frame:03d}.tif"

    def points_path(self, frame: int) -> Path:
        """Returns the file of a frame's points."""
        return self.folder / f"points{frame:03d}.npz"

    def write(self, frame: int, labels: np.ndarray, found: points.Points | None = None) -> None:
        """Writes a mask, and before it the points that it shows.

        Args:
          frame: its number.
          labels: (Y, X) or (Z, Y, X) integers.
          found: its points, if it has any.

        Raises:
          InputError: more cells than a CTC mask can number, or the disk is full.
        """
        if labels.max(initial=0) > ctc.MAX_LABEL:
            raise InputError(
                f"frame {frame}: {labels.max()} cells are more than a CTC mask can number ({ctc.MAX_LABEL}): "
                "split the images into parts"
            )
        if found is not None:
            with files.replacing(self.points_path(frame), KEPT) as partial:
                points.save(partial, found)
        with files.replacing(self.path(frame), KEPT) as partial:
            tif.write_tif(partial, labels.astype(np.uint16))

    def read(self, frame: int) -> np.ndarray:
        """Reads a mask."""
        return ctc.read_image(self.path(frame))

    def read_points(self, frame: int) -> points.Points:
        """Reads the points of a frame."""
        return points.load(self.points_path(frame))

    def _files(self, frame: int) -> list[Path]:
        return [self.path(frame), self.points_path(frame)] if self.pointed else [self.path(frame)]

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
