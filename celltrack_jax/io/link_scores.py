"""What a trained linker thought of links, in a result folder as links.npz: one entry per candidate of a pair of cells.

Cells are named by frame and id in the frame's mask, so that any program can join them with the masks. All chosen
links are there, and others from a probability of `LEAST` up. Shapes: M candidates.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io import files

NAME = "links.npz"
LEAST = 0.02
"""Least probable candidates that are written though they were not chosen: of ten candidates of a cell one or two."""


class LinkScores(NamedTuple):
    """Candidates, sorted by (frame, track, source_frame, source_track)."""

    frame: np.ndarray
    """(M,) int64, of the later cell."""
    track: np.ndarray
    """(M,) int64, its id."""
    source_frame: np.ndarray
    """(M,) int64, of the earlier cell."""
    source_track: np.ndarray
    """(M,) int64, its id."""
    position: np.ndarray
    """(M, 3) float32, z, y, x in voxels, of the later cell."""
    source_position: np.ndarray
    """(M, 3) float32, of the earlier cell."""
    probability: np.ndarray
    """(M,) float32."""
    chosen: np.ndarray
    """(M,) bool, whether it is a link of the result."""


def write(path: Path, scores: LinkScores, kept: str) -> None:
    """Writes candidates; the file is there whole or as it was before.

    Args:
      path: of the file.
      scores: the candidates.
      kept: as of `files.explained`.

    Raises:
      InputError: it cannot be written.
    """
    with files.replacing(path, kept) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **scores._asdict())


def read(path: Path) -> LinkScores:
    """Reads candidates.

    Raises:
      InputError: the file is absent, damaged, or something else.
    """
    try:
        with np.load(path) as columns:
            return LinkScores(*(columns[name] for name in LinkScores._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}; track the movie again, or remove the file") from error
