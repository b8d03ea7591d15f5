"""Tiny Cell Tracking Challenge folders for tests: drawn by hypothesis, written with tifffile."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from hypothesis import strategies as st


class Movie(NamedTuple):
    """Masks and tracks that agree."""

    masks: dict[int, np.ndarray]
    """By frame: (Y, X) or (Z, Y, X) uint16 labels."""
    rows: list[list[int]]
    """(label, begin, end, parent) of each track."""


@st.composite
def movies(draw, min_frames: int = 1, min_tracks: int = 0, max_label: int = 65535, ndim: int | None = None):
    """Draws valid movies; every label is alive in the frames of its track and nowhere else."""
    count = draw(st.integers(min_frames, 5))
    first = draw(st.sampled_from([0, 0, 3, 998]))
    labels = draw(st.lists(st.integers(1, max_label), min_size=min_tracks, max_size=5, unique=True))
    rows = []
    for label in labels:
        begin = first + draw(st.integers(0, count - 1))
        end = draw(st.integers(begin, first + count - 1))
        parents = [row[0] for row in rows if row[2] < begin]
        rows.append([label, begin, end, draw(st.sampled_from([0, *parents]))])
    depth = (3,) if (ndim or draw(st.sampled_from([2, 3]))) == 3 else ()
    shape = (*depth, draw(st.integers(4, 6)), 5)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = range(first, first + count)
    return Movie({frame: draw_mask(rows, frame, shape, rng) for frame in frames}, rows)


def draw_mask(
    rows: list[list[int]], frame: int, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """Puts every label that is alive into one to three random pixels of its own."""
    mask = np.zeros(shape, np.uint16)
    pixels = rng.permutation(mask.size)
    for row, (label, begin, end, _) in enumerate(rows):
        if begin <= frame <= end:
            mask.flat[pixels[3 * row : 3 * row + rng.integers(1, 4)]] = label
    return mask


def write_masks(folder: Path, stem: str, masks: dict[int, np.ndarray], digits: int = 3, **options) -> None:
    """Writes <stem><frame>.tif; options go to tifffile."""
    folder.mkdir(parents=True, exist_ok=True)
    # Pages without metadata are what most tools write.
    written: dict[str, Any] = {"metadata": None, "photometric": "minisblack"} | options
    for frame, mask in masks.items():
        tifffile.imwrite(folder / f"{stem}{frame:0{digits}d}.tif", mask, **written)


def write_rows(path: Path, rows) -> None:
    """Writes a track file."""
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))


def write_result(folder: Path, movie: Movie, digits: int = 3, **options) -> Path:
    """Writes a _RES folder and returns it."""
    write_masks(folder, "mask", movie.masks, digits, **options)
    write_rows(folder / "res_track.txt", movie.rows)
    return folder


def write_truth(folder: Path, movie: Movie, segmentation: bool = True, digits: int = 3, **options) -> Path:
    """Writes a _GT folder with equal TRA and SEG masks and returns it."""
    write_masks(folder / "TRA", "man_track", movie.masks, digits, **options)
    write_rows(folder / "TRA" / "man_track.txt", movie.rows)
    if segmentation:
        write_masks(folder / "SEG", "man_seg", movie.masks, digits, **options)
    return folder
