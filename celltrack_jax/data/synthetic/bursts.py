"""Synthetic bursts: crowded nuclei on small 8-bit frames, annotated by boxes alone (`io.bursts`).

The middle of a cell's box is what a network learns to find, so what matters is how near the next cell is: the density
is that of HeLa bursts, and a few pairs per frame overlap, as after a division.

Shapes: T frames, Y X the frame, N cells of a movie.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from celltrack_jax.data.synthetic import Movie, SyntheticSpec, make_movie
from celltrack_jax.io.bursts import write_burst
from celltrack_jax.io.points import PointTable

CROWDED = SyntheticSpec(
    frames=20,
    shape=(336, 464),
    spacing_um=(1.0, 1.0),
    psf_um=(1.2, 1.2),
    cells=68,
    radius_um=12.0,
    separation=0.75,
    cell_cycle_frames=60.0,
    mitosis_frames=4,
    speed_um=1.5,
    max_step_um=6.0,
)
"""About 80 cells in a frame; the middle of the next box is 21 to 25 pixels away in the median of a movie, and that of one
or two pairs per frame 10 to 14 (6 movies, seed 0)."""
_WELLS = 6
_DARKEST, _BRIGHTEST = 0.1, 99.95
"""Percentiles of a movie that become 0 and 255."""


def write_bursts(root: Path, *, train: int, test: int, frames: int, seed: int) -> None:
    """Writes <root>/train and <root>/test, each with bursts of its own.

    Args:
      root: folder; made when absent.
      train: number of bursts to train on.
      test: number of bursts of wells that are not trained on.
      frames: of each burst.
      seed: of all randomness; burst number n is the same for any number of bursts.
    """
    states = np.random.SeedSequence(seed).generate_state(train + test)
    for number, state in enumerate(states.tolist()):
        movie = make_movie(replace(CROWDED, frames=frames), state)
        folder = Path(root) / ("train" if number < train else "test")
        write_burst(folder, burst_name(number), eight_bits(movie.images), boxes(movie))


def burst_name(number: int) -> str:
    """Returns a name that tells burst, well, field and vessel; each burst has a well of its own."""
    row, column = divmod(number, _WELLS)
    return f"Burst{number + 1}_{_row(row)}{column + 1}_1_VesselID-29_1-0"


def _row(number: int) -> str:
    """A to Z, AA to AZ, BA, ... as spreadsheets count columns."""
    before, here = divmod(number, 26)
    return (_row(before - 1) if before else "") + chr(ord("A") + here)


def eight_bits(images: np.ndarray) -> np.ndarray:
    """Scales a movie (T, Y, X) as a whole to uint8, as an export of the microscope does."""
    low, high = np.percentile(images, (_DARKEST, _BRIGHTEST))
    return np.clip(np.rint((images - low) * (255 / (high - low))), 0, 255).astype(np.uint8)


def boxes(movie: Movie) -> PointTable:
    """Returns the bounding boxes of all cells of a 2D movie; its first frame is number 1."""
    rows = [
        (frame, label, *(part.start for part in box), *(part.stop - part.start for part in box))
        for frame, mask in enumerate(movie.labels, 1)
        for label, box in enumerate(ndimage.find_objects(mask), 1)
        if box is not None
    ]
    table = np.array(rows, np.int64).reshape(-1, 6)
    corner, extent = table[:, 2:4], table[:, 4:]
    flat = np.zeros(len(table))
    return PointTable(
        table[:, 0],
        table[:, 1],
        np.column_stack([flat, corner + extent // 2]),
        np.column_stack([flat + 1, extent]),
    )
