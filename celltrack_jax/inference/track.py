"""Masks of a movie as a CTC result: measured, linked, relabelled and written, one frame in memory at a time."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.inference import exports
from celltrack_jax.inference.points import Points, placed
from celltrack_jax.io import ctc, threads
from celltrack_jax.lineage import Lineage
from celltrack_jax.tracking import tracks
from celltrack_jax.tracking.cells import MEAN, Cells, Embed, measure_and_embed
from celltrack_jax.tracking.scored_links import Links, without_false
from celltrack_jax.tracking.sisters import Sisters

_MOST_THREADS = 4
"""That read, and again that write: each holds a frame."""


class Linker(NamedTuple):
    """What chooses links, and how it wants cells described."""

    link: Callable[[Cells, tuple[int, int], np.ndarray | None], Links]
    """N cells, the numbers of the movie's first and last frame, and (N, 3) float64 where each cell is expected to go by
    the next frame, None where nobody says -> their links."""
    embed: Embed | None = None
    """Makes the embeddings of the cells."""


def by_assignment(assign: Callable[..., np.ndarray], *, steps: bool = False) -> Linker:
    """Makes a linker that takes every detection for a cell.

    Args:
      assign: Detections (N) -> (N,) int64, the index of each one's predecessor, -1 for none.
      steps: whether it takes what is expected of them, as `step_um`.
    """

    def link(cells: Cells, ends: tuple[int, int], step_um: np.ndarray | None) -> Links:
        del ends
        parent = assign(cells.detections, **({"step_um": step_um} if steps else {}))
        return Links(parent, np.ones(len(parent), bool))

    return Linker(link)


class Masks(NamedTuple):
    """The masks of a movie."""

    frames: list[int]
    """Frame numbers, ascending."""
    read: Callable[[int], np.ndarray]
    """Frame number -> (Y, X) or (Z, Y, X) integers, 0 background; InputError where it cannot; called in threads."""
    spacing_um: np.ndarray
    """(3,) float64, z, y, x; 1 where unknown."""
    spacing_known: bool
    digits: int
    """Of frame numbers in file names."""
    image: Callable[[int], np.ndarray] | None = None
    """Frame number -> image of the mask's shape, where the linker looks at images; called in threads."""
    points: Callable[[int], Points] | None = None
    """Frame number -> the points that its mask shows, where a network found points."""


class Drawing(NamedTuple):
    """How links become tracks."""

    fill_gaps: bool
    """Whether a cell is drawn in the frames that its link skips; else its track ends there."""
    min_length: int
    """Tracks of fewer frames, without parent and daughters, are left out."""


def track_movie(
    masks: Masks,
    linker: Linker,
    drawing: Drawing,
    output: Path,
    images: Path | None,
    watch: Callable[[str, Iterable[int]], Iterable[int]],
    sisters: Sisters | None = None,
) -> Lineage:
    """Links the cells of a movie and writes mask*.tif, res_track.txt and what `exports.write` says.

    Args:
      masks: that are read twice, or three times for an embedder that `needs_range`.
      linker: chooses predecessors, and which detections are cells at all.
      drawing: how links become tracks.
      output: the result folder, which is replaced when everything is done.
      images: that the GEFF names for viewers, if any.
      watch: (what, frame numbers) -> the same numbers; shows progress.
      sisters: what the pairs of tracks are like that sisters.csv names, if any; the voxel size is known then.

    Returns:
      The tracks.

    Raises:
      InputError: a mask cannot be read, or the result cannot be written.
    """
    frames, workers = masks.frames, min(_MOST_THREADS, threads.cores())

    def read(frame: int) -> tuple[int, np.ndarray]:
        return frame, masks.read(frame)

    def read_both(frame: int) -> tuple[int, np.ndarray, np.ndarray | None]:
        return frame, masks.read(frame), masks.image(frame) if masks.image else None

    def look() -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        return threads.mapped(read_both, watch("measuring", frames), workers)

    cells = measure_and_embed(look, masks.spacing_um, linker.embed)
    step_um = None
    if masks.points is not None:
        cells, step_um = placed(cells, masks.points)
    decided = linker.link(cells, (frames[0], frames[-1]), step_um)
    found, links = without_false(cells.detections, decided)
    painter = tracks.TrackPainter(
        found,
        links.parent,
        frames,
        masks.spacing_um,
        fill_gaps=drawing.fill_gaps,
        min_length=drawing.min_length,
    )
    with ctc.ResultWriter(output, masks.digits) as writer:
        again = threads.mapped(read, watch("writing", frames), workers)
        painted = ((frame, painter.paint(frame, labels)) for frame, labels in again)
        for _ in threads.mapped(lambda one: writer.write(*one), painted, workers):
            pass
        lineage = painter.lineage()
        writer.finish(lineage)
    ndim = 3 if cells.shape[0] > 1 else 2
    space = exports.Frames(frames, masks.spacing_um, masks.spacing_known, ndim)
    exports.write(output, painter, links, cells.intensity[decided.kept, MEAN], space, images)
    exports.write_points(output, painter, found, space, masks.points)
    exports.write_sisters(output, painter, sisters)
    return lineage
