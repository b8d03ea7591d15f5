"""Candidate graphs: which detections may be one cell, or mother and daughter, and which truly are.

An edge goes forward in time, from a source to a target. Made once for a movie, in numpy, without a loop over cells.

Shapes: N detections of a movie, sorted by frame, E candidate edges, K tracks.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from celltrack_jax.lineage import Detections, Lineage
from celltrack_jax.tracking import handmade
from celltrack_jax.tracking.cells import Cells
from celltrack_jax.tracking.features import frame_slices

EDGE_FEATURES = (
    "distance",
    "dz",
    "dy",
    "dx",
    "gap",
    "log_volume_ratio",
    "log_axis_1_ratio",
    "log_axis_2_ratio",
    "log_axis_3_ratio",
    "intensity_mean_change",
    "intensity_std_change",
    "source_rank",
    "target_rank",
    "excess_distance",
    "box_overlap",
)
"""Columns of `edge_features`."""
_PAIRS = 1 << 22
"""Pairs looked at together, which bounds the memory in a frame of very many cells."""


class Candidates(NamedTuple):
    """Edges sorted by (target, source)."""

    source: np.ndarray
    """(E,) int64, index of a detection."""
    target: np.ndarray
    """(E,) int64, of one in a later frame."""


def candidates(detections: Detections, *, radius_um: float, max_gap: int, max_neighbours: int) -> Candidates:
    """Joins each detection to the nearest ones of the frames before.

    The radius grows with the square root of the frame distance, as far as a random walk leads. Of sources at equal
    distances the first is nearer.

    Args:
      detections: of a movie.
      radius_um: largest distance, inclusive, between neighbouring frames.
      max_gap: frames in which a cell may be missing; 0 joins neighbouring frame numbers alone.
      max_neighbours: sources of one target in one frame, at most.

    Returns:
      The edges from frames t - 1 ... t - 1 - max_gap to t, by number, whether or not the movie has those between.
    """
    frames = frame_slices(detections.frame)
    trees = {}
    source, target = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for frame, here in frames.items():
        points = detections.position_um[here]
        found = []
        for gap in range(max_gap, -1, -1):
            earlier = frames.get(frame - 1 - gap)
            if earlier is not None:
                near = _nearest(trees[frame - 1 - gap], points, radius_um * np.sqrt(gap + 1), max_neighbours)
                found.append(np.where(near >= 0, near + earlier.start, -1))
        if found:
            # Earlier frames have smaller indices, so that each row ascends.
            rows = np.concatenate(found, 1)
            row, column = np.nonzero(rows >= 0)
            source.append(rows[row, column])
            target.append(row + here.start)
        trees[frame] = cKDTree(points)
        trees.pop(frame - 1 - max_gap, None)
    return Candidates(np.concatenate(source), np.concatenate(target))


def candidates_box(cells: Cells, *, extent: np.ndarray | None, scale: float) -> Candidates:
    """Joins the detections of neighbouring non-empty frames as Ben-Haim & Riklin-Raviv, ECCV 2022, do.

    Two are candidates where their rounded centroids differ by at most `scale` times the extent along each axis
    (docs/originals.md, 5.4).

    Args:
      cells: of a movie.
      extent: (3,) voxels, z y x; None takes the `largest_extent` of this movie, as the original does.
      scale: 2 in the original.
    """
    reach = scale * (largest_extent(cells) if extent is None else np.asarray(extent))
    centre = handmade.voxel_centroids(cells)
    source, target = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    frames = list(frame_slices(cells.detections.frame).values())
    for before, here in itertools.pairwise(frames):
        # The sources sorted along y, those of one target are a range, which the other axes then thin out.
        order = np.argsort(centre[before, 1], kind="stable") + before.start
        along = centre[order, 1]
        first = np.searchsorted(along, centre[here, 1] - reach[1])
        count = np.searchsorted(along, centre[here, 1] + reach[1], "right") - first
        for chunk in _chunks(count, _PAIRS):
            new = np.repeat(np.arange(here.start + chunk.start, here.start + chunk.stop), count[chunk])
            old = order[np.repeat(first[chunk], count[chunk]) + _positions(count[chunk])]
            inside = (np.abs(centre[new] - centre[old]) <= reach).all(1)
            new, old = new[inside], old[inside]
            sort = np.lexsort((old, new))
            source.append(old[sort])
            target.append(new[sort])
    return Candidates(np.concatenate(source), np.concatenate(target))


def largest_extent(cells: Cells) -> np.ndarray:
    """Returns (3,) int64, the largest extents of bounding boxes along z, y and x; 0 without cells."""
    return (cells.high - cells.low).max(0, initial=0)


def true_parents(detections: Detections, track: np.ndarray, lineage: Lineage) -> np.ndarray:
    """Finds the true predecessor of each detection.

    Args:
      detections: of a movie, matched to the truth.
      track: (N,) integers, each one's track; 0 or negative for none. Several in one frame may share a track: they
        have the same predecessor, the first of its frame.
      lineage: of the tracks; one it lacks has no parent.

    Returns:
      (N,) int64 indices: the track's detection in the nearest earlier frame; for the track's first the last one
      of the mother before that; -1 for none, also where the mother was never detected.
    """
    parents = np.full(len(track), -1, np.int64)
    nodes = np.flatnonzero(np.asarray(track) > 0)
    names, place = np.unique(track[nodes], return_inverse=True)
    frames, time = np.unique(detections.frame[nodes], return_inverse=True)
    # One number per track and frame, ascending in both.
    key = place * len(frames) + time
    keys, first = np.unique(key, return_index=True)
    owner = keys // max(len(frames), 1)
    before = np.searchsorted(keys, key) - 1
    continues = (before >= 0) & (owner[before] == place)
    parents[nodes[continues]] = nodes[first[before[continues]]]

    mothers = dict(zip(lineage.label.tolist(), lineage.parent.tolist(), strict=True))
    mother = np.array([mothers.get(name, 0) for name in names.tolist()], np.int64)
    known = np.isin(mother, names) & (mother > 0)
    mother_place = np.where(known, np.searchsorted(names, mother), -1)
    orphans = ~continues & known[place]
    wanted = mother_place[place[orphans]]
    last = np.searchsorted(keys, wanted * len(frames) + time[orphans]) - 1
    found = (last >= 0) & (owner[last] == wanted)
    parents[nodes[orphans][found]] = nodes[first[last[found]]]
    return parents


def with_links(edges: Candidates, more: Candidates) -> Candidates:
    """Returns the candidates of both, each once."""
    pairs = np.unique(
        np.stack([np.concatenate(pair) for pair in zip(more, edges, strict=True)])[::-1], axis=1
    )
    return Candidates(source=pairs[1], target=pairs[0])


def edge_labels(edges: Candidates, parents: np.ndarray) -> np.ndarray:
    """Returns (E,) bool, whether an edge is a true link, divisions included; parents (N,) as `true_parents` gives."""
    return parents[edges.target] == edges.source


def reachable(edges: Candidates, parents: np.ndarray) -> float:
    """Returns the share of the true links that are among the candidates; 1 where there is none."""
    links = int((parents >= 0).sum())
    return float(edge_labels(edges, parents).sum() / links) if links else 1.0


def choose_radius(
    detections: Detections, parents: np.ndarray, *, max_gap: int, quantile: float, margin: float
) -> float:
    """Chooses the radius of `candidates` by how far true cells move.

    Args:
      detections: of a movie, or of several one after the other.
      parents: (N,) true predecessors, -1 for none.
      max_gap: links over longer gaps do not count.
      quantile: of the displacements, each over the root of its frame distance.
      margin: factor on that quantile, for other movies.

    Returns:
      µm, positive.

    Raises:
      ValueError: there is no link, or no cell moves.
    """
    linked = np.flatnonzero(parents >= 0)
    steps = detections.frame[linked] - detections.frame[parents[linked]]
    linked, steps = linked[steps <= max_gap + 1], steps[steps <= max_gap + 1]
    way = np.linalg.norm(detections.position_um[linked] - detections.position_um[parents[linked]], axis=1)
    radius = margin * float(np.quantile(way / np.sqrt(steps), quantile)) if len(way) else 0.0
    if radius <= 0:
        raise ValueError(f"{len(linked)} true links tell no radius: give it, or movies in which cells move")
    return radius


def edge_features(cells: Cells, edges: Candidates, diameter_um: float) -> np.ndarray:
    """Describes each candidate edge; lengths are in diameters, changes are the target's less the source's.

    Args:
      cells: of a movie, all of them, as in `handmade.physical`.
      edges: as `candidates` gives them for these cells.
      diameter_um: that a cell of this movie typically has.

    Returns:
      (E, 15) float32, the columns of `EDGE_FEATURES`:
        length of the displacement, and its components, by which a drift of all cells shows;
        frames between the two;
        changes of the log volume, of the logs of the principal axes, and of the intensity's mean and deviation (0
        where unknown);
        1 / (1 + r) where the source is the r-th nearest, from 0, of the target's candidates in the source's frame,
        and the same for the target among the source's;
        how much farther it is than the nearest of the target's candidates in the source's frame;
        intersection over union of the bounding boxes.
    """
    found, (source, target) = cells.detections, edges
    way = (found.position_um[target] - found.position_um[source]) / diameter_um
    # Rounded, distances that are equal but for the unit of length rank as equal.
    distance = np.linalg.norm(way, axis=1).astype(np.float32)
    gap = found.frame[target] - found.frame[source] - 1
    light = handmade.relative_intensity(cells)
    known = ~np.isnan(cells.intensity[:, 1])
    described = np.concatenate(
        [np.log(found.volume_um)[:, None], handmade.log_axes(cells, diameter_um), light], 1
    ).astype(np.float32)
    change = described[target] - described[source]
    change[:, 4:] *= (known[source] & known[target])[:, None]
    source_rank, nearest = _rank(target, gap, distance)
    target_rank, _ = _rank(source, gap, distance)
    columns = np.empty((len(source), len(EDGE_FEATURES)), np.float32)
    columns[:, 0] = distance
    columns[:, 1:4] = way
    columns[:, 4] = gap
    columns[:, 5:11] = change
    columns[:, 11] = 1 / (1 + source_rank)
    columns[:, 12] = 1 / (1 + target_rank)
    columns[:, 13] = distance - nearest
    columns[:, 14] = _box_overlap(cells, edges)
    return columns


def _nearest(tree: cKDTree, points: np.ndarray, radius: float, most: int, spare: int = 1) -> np.ndarray:
    """Indices (n, most) of the tree's points nearest to each, ascending by index, -1 for none; see `candidates`."""
    # The spare ones show where equal distances leave a choice. The bound is exclusive, and squared.
    bound = max(float(np.nextafter(radius, np.inf)), 1e-150)
    distance, found = tree.query(points, np.arange(1, most + spare + 1), distance_upper_bound=bound)
    found = np.where(np.isfinite(distance), found, -1)
    order = np.lexsort((found, distance), axis=1)[:, :most]
    chosen = np.sort(np.take_along_axis(found, order, 1), 1)
    torn = np.isfinite(distance[:, -1]) & (distance[:, -1] == distance[:, most - 1])
    if torn.any():
        chosen[torn] = _nearest(tree, points[torn], radius, most, 4 * spare)
    return chosen


def _rank(group: np.ndarray, gap: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank by distance among the edges of the same group and gap, ties in their order, and their least distance."""
    together = group * (int(gap.max(initial=0)) + 1) + gap
    order = np.lexsort((distance, together))
    together = together[order]
    first = np.flatnonzero(np.diff(together, prepend=-1))
    count = np.diff(first, append=len(together))
    rank, nearest = np.empty(len(group)), np.empty(len(group))
    rank[order] = _positions(count)
    nearest[order] = np.repeat(distance[order[first]], count)
    return rank, nearest


def _box_overlap(cells: Cells, edges: Candidates) -> np.ndarray:
    """Intersection over union (E,) of the bounding boxes of both ends."""
    common = np.ones(len(edges.source))
    for axis in range(3):
        low, high = cells.low[:, axis], cells.high[:, axis]
        start = np.maximum(low[edges.source], low[edges.target])
        common *= np.maximum(np.minimum(high[edges.source], high[edges.target]) - start, 0)
    size = np.prod((cells.high - cells.low).astype(np.float64), axis=1)
    return common / (size[edges.source] + size[edges.target] - common)


def _positions(count: np.ndarray) -> np.ndarray:
    """Returns 0 ... count[0] - 1, 0 ... count[1] - 1, ..., one after the other."""
    ends = np.cumsum(count)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - count, count)


def _chunks(count: np.ndarray, most: int) -> list[slice]:
    """Cuts the entries into runs whose counts add up to about `most`, at least one entry in each."""
    total = np.cumsum(count)
    run = total // most
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(count)], strict=True)] if len(count) else []
