"""The true cells that linking learns from and is judged by: read from a store, divided, made imperfect.

Shapes: N detections of a movie.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from celltrack_jax.data import store
from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.tracking import graph
from celltrack_jax.tracking.cells import Cells, Embed, measure_and_embed, select
from celltrack_jax.tracking.imperfect import ImperfectSpec, degrade


class Truth(NamedTuple):
    """A movie, or a part of one; as annotated, or made imperfect."""

    name: str
    cells: Cells
    parents: np.ndarray
    """(N,) int64, see `graph.true_parents`."""
    real: np.ndarray
    """(N,) bool, whether it stands for a true cell."""
    ends: tuple[int, int]
    """Numbers of the first and the last frame."""


class Parts(NamedTuple):
    """First and last frames of what a movie is used for, inclusive."""

    training: tuple[int, int]
    held_out: tuple[int, int] | None
    """The last frames, None where the movie is too short to be divided."""


def read(sequence: store.StoredSequence, embed: Embed | None = None) -> Truth:
    """Measures the tracked cells of a movie.

    Args:
      sequence: of the store.
      embed: makes their embeddings.

    Raises:
      InputError: it has no tracks, or is not what the embedder was trained on.
    """
    kind = "markers" if "markers" in sequence.labels else "points"
    shown = sequence.labelled["markers"] if kind == "markers" else sequence.pointed
    if sequence.lineage is None or not shown.any():
        raise InputError(
            f"{sequence.name} has no tracks, or neither markers nor points: a tracker learns from TRA markers and "
            "man_track.txt, or from boxes with ids"
        )
    places = np.flatnonzero(shown).tolist()

    def frames() -> Iterable[tuple[int, np.ndarray, np.ndarray | None]]:
        return threads.mapped(lambda t: store.read_frame(sequence, kind, t), places, threads.cores())

    cells = measure_and_embed(frames, np.asarray(sequence.spacing_um), embed)
    frame = cells.detections.frame
    if len(frame) == 0:
        raise InputError(f"{sequence.name} has no tracked cell: prepare the movies again without it")
    parents = graph.true_parents(cells.detections, cells.detections.label, sequence.lineage)
    ends = int(frame[0]), int(frame[-1])
    return Truth(sequence.name, cells, parents, np.ones(len(frame), bool), ends)


def divide(ends: tuple[int, int], share: float, least: int) -> Parts:
    """Holds out the last part of a movie.

    Args:
      ends: numbers of its first and last frame.
      share: of the frames that is held out.
      least: frames held out, at least; a movie that has not two more is trained on as a whole.
    """
    begin, end = ends
    border = end - max(least, math.ceil(share * (end - begin + 1)))
    return Parts((begin, border), (border + 1, end)) if border > begin else Parts(ends, None)


def part(truth: Truth, ends: tuple[int, int]) -> Truth:
    """Returns the detections of some frames; predecessors before them are none."""
    begin, end = np.searchsorted(truth.cells.detections.frame, (ends[0], ends[1] + 1))
    inside = np.arange(begin, end)
    moved = truth.parents[inside] - begin
    parents = np.where(moved < 0, -1, moved)
    return Truth(truth.name, select(truth.cells, inside), parents, truth.real[inside], ends)


def imperfect(truth: Truth, rng: np.random.Generator, spec: ImperfectSpec) -> Truth:
    """Makes annotated cells as imperfect as detections are; see `degrade`."""
    cells, parents, real = degrade(truth.cells, truth.parents, rng, spec)
    return truth._replace(cells=cells, parents=parents, real=real)
