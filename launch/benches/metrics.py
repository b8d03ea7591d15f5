"""Scoring a result, files in and numbers out, against py-ctcmetrics on the same folder and the same cores.

The folder is made for the occasion: 100 frames of 1024 x 1024 with 300 to 375 cells, segmentation truth for every
fifth frame. Ours validates the folder and computes every measure; the peer validates and computes DET, TRA, LNK
and SEG only, in one process per core, because its CHOTA and biological measures take as long again each.
"""

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.inference.ctc_scores import score_result
from celltrack_jax.io.ctc import ResultWriter, write_tracks
from celltrack_jax.io.tif import write_tif
from celltrack_jax.lineage import Lineage
from launch.benches import timing

FRAMES = 100
SLOTS = 18
"""Cells live in a grid of so many by so many slots, where they cannot overlap."""
PITCH = 56
"""Pixels from slot to slot."""
CELLS = 300
SEG_EVERY = 5
DIVIDES = 0.25
"""Share of the cells that divide once."""
MISSED, LOST = 0.003, 0.005
"""How often a cell is missed, and how often it goes on as another track, per cell and frame."""
SHARED = ("DET", "TRA", "LNK", "SEG")
REPEATS = 3


def run(against: str | None) -> dict[str, Any]:
    """Times scoring, in turns with the peer's.

    Args:
      against: "py-ctcmetrics", or None for ours alone.

    Returns:
      a row, as `timing` makes it.

    Raises:
      InputError: the peer is not known or not installed, or its scores are not ours.
    """
    if against not in (None, "py-ctcmetrics"):
        raise InputError(f"bench metrics: no peer {against!r}; give --against=py-ctcmetrics or leave it out")
    name = f"CTC measures, {FRAMES} frames"
    with tempfile.TemporaryDirectory() as folder:
        truth, result = write_movie(Path(folder))
        if against is None:
            return timing.alone_row(name, timing.alone(lambda: ours(truth, result), REPEATS))
        mine, theirs = ours(truth, result), peer(truth, result)
        for key in SHARED:
            if not np.isclose(mine[key], theirs[key], rtol=1e-9):
                raise InputError(f"bench metrics: {key} is {mine[key]} here but {theirs[key]} in {against}")
        times = timing.interleaved(
            lambda: ours(truth, result), lambda: peer(truth, result), REPEATS, warmup=0
        )
        return times.row(name)


def ours(truth: Path, result: Path) -> dict[str, Any]:
    """Returns all measures."""
    scores = score_result(truth, result)
    if scores.problems:
        raise InputError(f"bench metrics: {scores.problems[0]}")
    return scores.measures


def peer(truth: Path, result: Path) -> dict[str, Any]:
    """Returns DET, TRA, LNK and SEG of py-ctcmetrics."""
    try:
        from ctc_metrics import evaluate_sequence
    except ModuleNotFoundError:
        raise InputError(
            "bench metrics: the peer is not installed; pip install py-ctcmetrics, or leave --against out"
        ) from None
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate_sequence(str(result), str(truth), metrics=["Valid", *SHARED], threads=0)


def write_movie(folder: Path) -> tuple[Path, Path]:
    """Writes truth and result folders and returns them."""
    rng = np.random.default_rng(0)
    truth, result = folder / "01_GT", folder / "01_RES"
    (truth / "TRA").mkdir(parents=True)
    (truth / "SEG").mkdir()
    slots = rng.permutation(SLOTS * SLOTS)[:CELLS]
    division = np.where(rng.random(CELLS) < DIVIDES, rng.integers(1, FRAMES, CELLS), FRAMES)
    true_tracks, found_tracks = _Tracks(), _Tracks()
    with ResultWriter(result) as writer:
        for frame in range(FRAMES):
            true, found = np.zeros((2, SLOTS * PITCH + 16, SLOTS * PITCH + 16), np.uint16)
            for slot, splits in zip(slots, division, strict=True):
                parts = (0, 1) if frame >= splits else (-1,)
                for part in parts:
                    centre = np.array(np.divmod(slot, SLOTS)) * PITCH + PITCH // 2 + rng.integers(-3, 4, 2)
                    centre[1] += (0, 11, -11)[part + 1]
                    radius = 9 if part >= 0 else 18
                    _paint(true, centre, radius, true_tracks.see((slot, part), frame))
                    if rng.random() < MISSED:
                        continue
                    if rng.random() < LOST:
                        found_tracks.lose((slot, part))
                    shift = rng.integers(-2, 3, 2)
                    _paint(found, centre + shift, radius, found_tracks.see((slot, part), frame))
            write_tif(truth / "TRA" / f"man_track{frame:03d}.tif", true)
            if frame % SEG_EVERY == 0:
                write_tif(truth / "SEG" / f"man_seg{frame:03d}.tif", true)
            writer.write(frame, found)
        writer.finish(found_tracks.lineage())
    write_tracks(truth / "TRA" / "man_track.txt", true_tracks.lineage())
    return truth, result


class _Tracks:
    """Numbers tracks as their cells are seen; a cell that was not seen in the last frame begins a new one."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        self._label: dict[tuple[int, int], int] = {}

    def see(self, cell: tuple[int, int], frame: int) -> int:
        """Returns the label of a (slot, part) in a frame; parts 0 and 1 are the daughters of part -1."""
        label = self._label.get(cell, 0)
        if not label or self._rows[label - 1][2] != frame - 1:
            ancestor = label or (self._label.get((cell[0], -1), 0) if cell[1] >= 0 else 0)
            self._rows.append([len(self._rows) + 1, frame, frame, ancestor])
            label = self._label[cell] = len(self._rows)
        self._rows[label - 1][2] = frame
        return label

    def lose(self, cell: tuple[int, int]) -> None:
        """Lets the cell go on as a track without parent."""
        self._label.pop(cell, None)

    def lineage(self) -> Lineage:
        """Returns the tracks so far."""
        return Lineage.from_rows(self._rows)


def _paint(mask: np.ndarray, centre: np.ndarray, radius: int, label: int) -> None:
    reach = np.arange(-radius, radius + 1)
    disc = reach[:, None] ** 2 + reach**2 <= radius**2
    y, x = centre - radius
    mask[y : y + 2 * radius + 1, x : x + 2 * radius + 1][disc] = label
