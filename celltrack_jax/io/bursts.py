"""Folders of bursts: short movies whose cells are boxes in a MOT-style table.

    Burst4_A2_1_VesselID-29_1-0/img1/000001.tiff ...    images, which may be stored as colours that are alike
    Burst4_A2_1_VesselID-29_1-0/gt/gt.txt               boxes, see `points`

Frame numbers may have any number of digits; they start at 1, as those of the table do.
Shapes: T frames, Y X space.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from celltrack_jax.errors import InputError
from celltrack_jax.io import ctc
from celltrack_jax.io.files import explained
from celltrack_jax.io.points import PointTable, read_mot, write_mot
from celltrack_jax.io.tif import read_tif

IMAGES = "img1"
BOXES = Path("gt") / "gt.txt"
COLOUR_TOLERANCE = 3
"""Counts by which R, G and B of an image may differ: as much as a compressed grey image does."""
_DIGITS = 6


class Burst(NamedTuple):
    """The files of one burst, and its cells."""

    name: str
    images: dict[int, Path]
    """By frame number, ascending."""
    boxes: Path
    cells: PointTable
    notes: list[str]
    """What the user should know of the boxes; see `read_mot`."""


def find_bursts(folder: Path) -> list[str]:
    """Lists the bursts of a folder: its folders that hold images or boxes.

    Raises:
      InputError: it is the folder above, which holds the splits.
    """
    found = _bursts(folder)
    if found:
        return found
    splits = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and _bursts(path)]
    if splits:
        raise InputError(f"{folder} holds no bursts but its folders {', '.join(splits)} do: give one of them")
    return []


def open_burst(folder: Path, name: str) -> Burst:
    """Lists a burst's images and reads its boxes, and, for the size of a frame, the first image.

    Raises:
      InputError: images or boxes are missing or damaged, a frame has two images or several planes, or no box
        lies in the frame.
    """
    images, boxes = frame_files(folder / name / IMAGES), folder / name / BOXES
    if not images:
        raise InputError(f"{folder / name / IMAGES} holds no images: write them as 1.tiff, 2.tiff, ...")
    if not boxes.is_file():
        raise InputError(
            f"{boxes} does not exist: copy it there, or leave the burst out (--sequences names the others)"
        )
    frame, first = next(iter(images.items()))
    shape = read_tif(first, frame, colour_tolerance=COLOUR_TOLERANCE).shape
    if len(shape) != 2:
        raise InputError(
            f"{first} (frame {frame}) has {shape[0]} planes, and boxes have no z: write images of one plane"
        )
    cells, notes = read_mot(boxes, shape)
    if not len(cells.frame):
        raise InputError(
            f"{boxes} has no box{' in the frame' if notes else ''}, so it tells nothing of where cells are: copy the "
            "file again, or leave the burst out (--sequences names the others)"
        )
    return Burst(name, images, boxes, cells, notes)


def frame_files(folder: Path) -> dict[int, Path]:
    """Lists the images of a folder, <digits>.tif or .tiff, by frame number, in order; errors of `ctc.frame_files`."""
    return ctc.frame_files(folder, "")


def write_burst(folder: Path, name: str, images: np.ndarray, cells: PointTable) -> None:
    """Writes a burst; its images are stored as colours that are alike.

    Args:
      folder: of the bursts; made when absent.
      name: of the burst.
      images: (T, Y, X) uint8 of frames 1 to T.
      cells: of these frames.

    Raises:
      InputError: the disk is full, or refuses.
    """
    pixels = folder / name / IMAGES
    with explained(folder / name, "or choose another folder"):
        pixels.mkdir(parents=True, exist_ok=True)
        for frame, image in enumerate(images, 1):
            colours = np.repeat(image[..., None], 3, axis=-1)
            path = pixels / f"{frame:0{_DIGITS}d}.tiff"
            tifffile.imwrite(path, colours, photometric="rgb", compression="zlib", metadata=None)
    write_mot(folder / name / BOXES, cells)


def _bursts(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.iterdir() if (path / IMAGES).is_dir() or (path / BOXES).is_file()
    )
