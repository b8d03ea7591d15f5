"""What a result has beside masks and track file: its tracks for other programs, and what the linker thought of links.

Shapes: N detections that were linked, n cells of the result, missed ones among them.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.inference import points
from celltrack_jax.inference.mask_folder import KEPT
from celltrack_jax.io import files, geff, link_scores, napari_tracks, point_table, sister_table, track_table
from celltrack_jax.io.track_table import TrackedCells
from celltrack_jax.lineage import Detections, Lineage
from celltrack_jax.tracking.scored_links import Links, link_probability
from celltrack_jax.tracking.sisters import Sisters, paired
from celltrack_jax.tracking.tracks import TrackPainter

GEFF_NAME = "tracks.geff"
TABLE_NAME = "tracks.csv"


class Frames(NamedTuple):
    """How the frames of a movie lie in time and space."""

    numbers: list[int]
    """Ascending."""
    spacing_um: np.ndarray
    """(3,) float64, z, y, x; 1 where unknown."""
    spacing_known: bool
    ndim: int
    """2, or 3 for stacks."""


def write(
    folder: Path,
    painter: TrackPainter,
    links: Links,
    mean_intensity: np.ndarray,
    frames: Frames,
    images: Path | None,
) -> None:
    """Writes tracks.geff, tracks.csv, napari_tracks.csv, napari_graph.json and, if candidates are scored, links.npz.

    Args:
      folder: the result, whose masks are there.
      painter: after its last frame.
      links: between the N detections that it painted.
      mean_intensity: (N,) float32, NaN where unknown.
      frames: of the movie.
      images: that the GEFF names for viewers, if any.

    Raises:
      InputError: they cannot be written.
    """
    lineage = painter.lineage()
    tracked = tracked_cells(painter, links, mean_intensity)
    cells = tracked.cells
    t = np.searchsorted(frames.numbers, cells.frame)
    _write_geff(folder / GEFF_NAME, tracked, t, lineage, frames.spacing_known, images)
    track_table.write(folder / TABLE_NAME, tracked, lineage, frames.spacing_um, KEPT)
    napari_tracks.write(folder, cells, t, lineage, frames.spacing_um, frames.ndim, KEPT)
    scores = candidate_scores(painter, links, frames.spacing_um)
    if scores is not None:
        link_scores.write(folder / link_scores.NAME, scores, KEPT)
    else:
        with files.explained(folder / link_scores.NAME, KEPT):
            (folder / link_scores.NAME).unlink(missing_ok=True)


def write_points(
    folder: Path,
    painter: TrackPainter,
    found: Detections,
    frames: Frames,
    read: Callable[[int], points.Points] | None,
) -> None:
    """Writes points.csv, or removes an earlier one where there are no points.

    Args:
      folder: the result.
      painter: after its last frame.
      found: the N detections that it painted, with their labels in the masks of points.
      frames: of the movie.
      read: frame number -> its points, if there are any.

    Raises:
      InputError: it cannot be written.
    """
    path = folder / points.TABLE_NAME
    if read is None:
        with files.explained(path, KEPT):
            path.unlink(missing_ok=True)
        return
    detection, missed = painter.shown()
    own, track = detection[~missed], painter.cells().label[~missed]
    named = zip(found.frame[own].tolist(), found.label[own].tolist(), track.tolist(), strict=True)
    rows = points.table(frames.numbers, read, {(frame, label): track for frame, label, track in named})
    point_table.write(path, rows, frames.spacing_um if frames.spacing_known else None, KEPT)


def write_sisters(folder: Path, painter: TrackPainter, model: Sisters | None) -> None:
    """Writes sisters.csv, or removes an earlier one where tracks are not paired.

    Args:
      folder: the result.
      painter: after its last frame, of a movie whose voxel size is known.
      model: what sisters are like, if tracks have any.

    Raises:
      InputError: it cannot be written.
    """
    path = folder / sister_table.NAME
    if model is None:
        with files.explained(path, KEPT):
            path.unlink(missing_ok=True)
        return
    cells = painter.cells()
    pairs = paired(cells.frame, cells.label, cells.position_um, model)
    whole = np.column_stack([pairs.first, pairs.second, pairs.frames])
    real = np.column_stack([pairs.distance_um, pairs.spread_um, pairs.weight])
    sister_table.write(path, whole, real, KEPT)


def tracked_cells(painter: TrackPainter, links: Links, mean_intensity: np.ndarray) -> TrackedCells:
    """Describes the cells of a result; arguments as of `write`."""
    cells, (detection, missed), lineage = painter.cells(), painter.shown(), painter.lineage()
    place = np.searchsorted(lineage.label, cells.label)
    founds = (lineage.begin[place] == cells.frame) & (lineage.parent[place] == 0)
    return TrackedCells(
        cells,
        missed,
        np.where(missed, np.float32(np.nan), mean_intensity[detection]),
        np.where(founds, np.float32(np.nan), link_probability(links)[detection]),
    )


def candidate_scores(
    painter: TrackPainter, links: Links, spacing_um: np.ndarray
) -> link_scores.LinkScores | None:
    """Names the candidates between cells of a result by their frames and tracks; None where none are scored."""
    if links.scored is None:
        return None
    source, target, probability = links.scored
    cells, (detection, missed), lineage = painter.cells(), painter.shown(), painter.lineage()
    count = len(links.parent)
    track, frame, voxel = (
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros((count, 3), np.float32),
    )
    own = detection[~missed]
    track[own], frame[own] = cells.label[~missed], cells.frame[~missed]
    voxel[own] = cells.position_um[~missed] / spacing_um

    both = (track[source] > 0) & (track[target] > 0)
    source, target, probability = source[both], target[both], probability[both]
    mother = np.zeros(int(lineage.label.max(initial=0)) + 1, np.int64)
    mother[lineage.label] = lineage.parent
    related = (track[source] == track[target]) | (track[source] == mother[track[target]])
    chosen = (links.parent[target] == source) & related
    some = np.flatnonzero(chosen | (probability >= link_scores.LEAST))
    keys = (track[source[some]], frame[source[some]], track[target[some]], frame[target[some]])
    some = some[np.lexsort(keys)]
    source, target = source[some], target[some]
    return link_scores.LinkScores(
        frame[target], track[target], frame[source], track[source], voxel[target], voxel[source],
        probability[some], chosen[some],
    )  # fmt: skip


def _write_geff(
    path: Path,
    tracked: TrackedCells,
    t: np.ndarray,
    lineage: Lineage,
    spacing_known: bool,
    images: Path | None,
) -> None:
    frame, label, position, _ = tracked.cells
    graph = geff.graph(t, frame, label, position, lineage, tracked.link_probability)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with files.explained(path, KEPT):
            geff.write(
                partial,
                graph,
                spacing_known=spacing_known,
                image=os.path.relpath(images, path) if images else None,
                labels="..",
            )
            if path.exists():
                shutil.rmtree(path)
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
