"""True cells made as imperfect as detections are, so that a tracker learns to live with them.

Shapes: N true detections of a movie, M imperfect ones; a 2D movie has one plane.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from celltrack_jax.lineage import Detections
from celltrack_jax.tracking.cells import Cells, select
from celltrack_jax.tracking.features import frame_slices
from celltrack_jax.tracking.handmade import is_flat

_NEAR = 1.5
"""Cells merge whose centres are less than so many times the sum of their radii apart."""


class ImperfectSpec(NamedTuple):
    """How often and how far detections are wrong. Rates are per true detection, from 0 to 1."""

    drop: float
    """Not detected."""
    false: float
    """One more at random in the frame, of the size of some cell of the movie, and with the looks of another."""
    split: float
    """Detected as two."""
    merge: float
    """Detected as one with the nearest cell, where that is near."""
    jitter: float
    """Standard deviation of the position along each axis, in diameters of the cell."""
    scale: float
    """Standard deviation of the log volume."""
    max_gap: int
    """Links over more frames without the cell are cut."""


def degrade(
    cells: Cells, parents: np.ndarray, rng: np.random.Generator, spec: ImperfectSpec
) -> tuple[Cells, np.ndarray, np.ndarray]:
    """Makes detections as imperfect as told; the same for the same generator.

    A merged detection stands for the larger of its cells and a split cell is stood for by its larger part; the
    smaller cell is as if dropped, the smaller part is false. Whoever followed a dropped detection follows the
    nearest one before it that is left. So a dropped mother's daughters both follow what is left of her, which then
    is where the division is learned; if nothing is left within the gap they follow none.

    Args:
      cells: of a movie, sorted by frame.
      parents: (N,) index of each one's true predecessor, -1 for none.
      rng: that all chance is drawn from.
      spec: what goes wrong.

    Returns:
      The M detections by frame and label; false ones and smaller parts have labels that the frame did not have.
      (M,) int64, the true predecessor of each among them, -1 for none.
      (M,) bool, whether it stands for a true cell.
    """
    count = len(parents)
    lost = rng.random(count) < spec.drop
    larger, smaller = _merging(cells, ~lost, rng.random(count) < spec.merge)
    splits = rng.random(count) < spec.split
    merged = _merge(cells, larger, smaller)
    lost[smaller] = True
    splits[larger] = False
    parents = _nearest_left(cells.detections.frame, parents, lost, spec.max_gap)

    left = np.flatnonzero(~lost)
    place = np.full(count + 1, -1)
    place[left] = np.arange(len(left))
    # Index -1 is the last entry, which stays -1.
    parents, kept = place[parents[left]], select(merged, left)
    kept = _blur(kept, rng, spec)
    kept, parts = _split(kept, np.flatnonzero(splits[left]), rng)
    false = _false(cells, np.flatnonzero(rng.random(count) < spec.false), rng)
    added = _relabelled(_joined(parts, false), cells.detections)

    everything = _joined(kept, added)
    order = np.lexsort((everything.detections.label, everything.detections.frame))
    place = np.full(len(order) + 1, -1)
    place[order] = np.arange(len(order))
    none = np.full(len(added.low), -1)
    real = np.arange(len(order)) < len(left)
    return select(everything, order), place[np.concatenate([parents, none])[order]], real[order]


def _nearest_left(frame: np.ndarray, parents: np.ndarray, lost: np.ndarray, max_gap: int) -> np.ndarray:
    """Follows predecessors to the nearest that is not lost; -1 where it is farther back than the gap allows."""
    ancestor = np.array(parents, np.int64)
    for _ in range(max_gap + 1):
        passed = np.flatnonzero((ancestor >= 0) & lost[ancestor])
        ancestor[passed] = parents[ancestor[passed]]
    far = (ancestor >= 0) & (lost[ancestor] | (frame - frame[ancestor] > max_gap + 1))
    return np.where(far, -1, ancestor)


def _merging(cells: Cells, left: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of (larger, smaller) cells of a frame to merge, each cell in one pair at most."""
    pairs = [np.zeros((0, 2), np.int64)]
    radius = _radius_um(cells, cells.detections.volume_um)
    for here in frame_slices(cells.detections.frame).values():
        present = np.flatnonzero(left[here]) + here.start
        first = present[wanted[present]]
        if len(first) == 0 or len(present) < 2:
            continue
        points = cells.detections.position_um
        distance, found = cKDTree(points[present]).query(points[first], 2)
        # The nearer one is the cell itself, unless another lies at the same place.
        itself = present[found[:, 0]] == first
        second = present[np.where(itself, found[:, 1], found[:, 0])]
        near = distance[:, 1] < _NEAR * (radius[first] + radius[second])
        pairs.append(np.stack([first, second], 1)[near])
    pair = np.concatenate(pairs)
    once = np.zeros(pair.size, bool)
    once[np.unique(pair, return_index=True)[1]] = True
    pair = pair[once.reshape(-1, 2).all(1)]
    volume = cells.detections.volume_um
    swap = volume[pair[:, 1]] > volume[pair[:, 0]]
    pair[swap] = pair[swap][:, ::-1]
    return pair[:, 0], pair[:, 1]


def _merge(cells: Cells, larger: np.ndarray, smaller: np.ndarray) -> Cells:
    """Gives the larger cells the measures of both together; they keep their embeddings."""
    one, two = select(cells, larger), select(cells, smaller)
    volume = one.detections.volume_um + two.detections.volume_um
    share = (one.detections.volume_um / volume)[:, None], (two.detections.volume_um / volume)[:, None]
    way = two.detections.position_um - one.detections.position_um
    intensity = np.stack(
        [
            np.minimum(one.intensity[:, 0], two.intensity[:, 0]),
            share[0][:, 0] * one.intensity[:, 1] + share[1][:, 0] * two.intensity[:, 1],
            np.maximum(one.intensity[:, 2], two.intensity[:, 2]),
            np.sqrt(
                share[0][:, 0] * one.intensity[:, 3] ** 2
                + share[1][:, 0] * two.intensity[:, 3] ** 2
                + (share[0] * share[1])[:, 0] * (one.intensity[:, 1] - two.intensity[:, 1]) ** 2
            ),
        ],
        1,
    )
    covariance = (
        share[0][:, :, None] * one.covariance_um
        + share[1][:, :, None] * two.covariance_um
        + (share[0] * share[1])[:, :, None] * way[:, :, None] * way[:, None]
    )
    return _with(
        cells,
        larger,
        position=one.detections.position_um + share[1] * way,
        volume=volume,
        covariance=covariance,
        low=np.minimum(one.low, two.low),
        high=np.maximum(one.high, two.high),
        intensity=intensity,
        embedding=one.embedding,
    )


def _blur(cells: Cells, rng: np.random.Generator, spec: ImperfectSpec) -> Cells:
    """Moves all cells and changes their size; boxes move and grow along, and all stays inside the frame."""
    found, count = cells.detections, len(cells.low)
    step = rng.normal(size=(count, 3)) * spec.jitter
    growth = np.exp(rng.normal(size=count) * spec.scale)
    if spec.jitter == 0 and spec.scale == 0:
        return cells
    flat = is_flat(cells)
    step *= 2 * _radius_um(cells, found.volume_um)[:, None]
    step[:, 0] *= not flat
    border = (cells.shape - 1) * cells.spacing_um
    position = np.clip(found.position_um + step, 0, border)
    stretch = (growth ** (1 / (2 if flat else 3)))[:, None]
    before, after = (place / cells.spacing_um for place in (found.position_um, position))
    low, high = _whole_boxes(
        after + (cells.low - 0.5 - before) * stretch,
        after + (cells.high - 0.5 - before) * stretch,
        after,
        cells.shape,
    )
    return _with(
        cells,
        np.arange(count),
        position=position,
        volume=found.volume_um * growth,
        covariance=cells.covariance_um * stretch[:, :, None] ** 2,
        low=low,
        high=high,
        intensity=cells.intensity,
        embedding=cells.embedding,
    )


def _split(cells: Cells, index: np.ndarray, rng: np.random.Generator) -> tuple[Cells, Cells]:
    """Cuts cells across their longest axis: the cells with their larger parts, and the smaller parts.

    Along that axis the cell counts as uniform, so that both parts together have its volume, centre and covariance.
    """
    whole = select(cells, index)
    share = rng.uniform(0.5, 0.75, len(index))
    variance, axes = np.linalg.eigh(whole.covariance_um.astype(np.float64))
    along = np.sqrt(12 * np.maximum(variance[:, -1:], 0)) * axes[:, :, -1]
    thinner = along[:, :, None] * along[:, None] / 12
    parts = []
    for part, sign in ((share, -1), (1 - share, 1)):
        position = whole.detections.position_um + sign * along * ((1 - part) / 2)[:, None]
        position = np.clip(position, 0, (cells.shape - 1) * cells.spacing_um)
        covariance = whole.covariance_um - (1 - part**2)[:, None, None] * thinner
        reach = _reach(cells, covariance.diagonal(axis1=1, axis2=2)) / cells.spacing_um
        centre = position / cells.spacing_um
        low, high = _whole_boxes(centre - reach, centre + reach, centre, cells.shape)
        parts.append(
            _with(
                whole,
                np.arange(len(index)),
                position=position,
                volume=part * whole.detections.volume_um,
                covariance=covariance,
                low=np.minimum(np.maximum(low, whole.low), whole.high - 1),
                high=np.maximum(np.minimum(high, whole.high), whole.low + 1),
                intensity=whole.intensity,
                embedding=whole.embedding,
            )
        )
    larger, smaller = parts
    found = larger.detections
    kept = _with(
        cells,
        index,
        position=found.position_um,
        volume=found.volume_um,
        covariance=larger.covariance_um,
        low=larger.low,
        high=larger.high,
        intensity=larger.intensity,
        embedding=larger.embedding,
    )
    return kept, smaller


def _false(cells: Cells, index: np.ndarray, rng: np.random.Generator) -> Cells:
    """Discs (balls) in the frames of the given cells, with volumes and intensities of others, anywhere."""
    count = len(index)
    models = rng.integers(0, max(len(cells.low), 1), (2, count))
    position = rng.random((count, 3)) * (cells.shape - 1) * cells.spacing_um
    volume = cells.detections.volume_um[models[0]]
    radius = np.repeat(_radius_um(cells, volume)[:, None], 3, 1)
    radius[:, 0] *= not is_flat(cells)
    variance = radius**2 / (4 if is_flat(cells) else 5)
    centre, reach = position / cells.spacing_um, radius / cells.spacing_um
    low, high = _whole_boxes(centre - reach, centre + reach, centre, cells.shape)
    return _with(
        select(cells, index),
        np.arange(count),
        position=position,
        volume=volume,
        covariance=variance[:, :, None] * np.eye(3),
        low=low,
        high=high,
        intensity=cells.intensity[models[1]],
        embedding=cells.embedding[models[1]],
    )


def _relabelled(added: Cells, taken: Detections) -> Cells:
    """Gives the cells labels beyond those of their frame, in their order."""
    frame = added.detections.frame
    label = np.zeros(len(frame), np.int64)
    largest = {number: int(taken.label[here].max()) for number, here in frame_slices(taken.frame).items()}
    order = np.argsort(frame, kind="stable")
    for number, here in frame_slices(frame[order]).items():
        label[order[here]] = largest[number] + 1 + np.arange(here.stop - here.start)
    return added._replace(detections=added.detections._replace(label=label))


def _radius_um(cells: Cells, volume_um: np.ndarray) -> np.ndarray:
    """Radius (n,) of the ball, in 2D of the disc, of each volume."""
    if is_flat(cells):
        return np.sqrt(volume_um / cells.spacing_um[0] / np.pi)
    return np.cbrt(0.75 * volume_um / np.pi)


def _reach(cells: Cells, variance: np.ndarray) -> np.ndarray:
    """How far (n, 3) an ellipsoid (ellipse) of the given variances (n, 3) extends from its centre."""
    return np.sqrt((4 if is_flat(cells) else 5) * np.maximum(variance, 0))


def _whole_boxes(
    low: np.ndarray, high: np.ndarray, centre: np.ndarray, shape: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 3) in whole voxels of what extends from low to high about a centre; each holds a voxel of the frame.

    In all three a voxel's number is its centre.
    """
    inner = np.clip(np.rint(centre).astype(np.int64), 0, shape - 1)
    low, high = (np.rint(end + 0.5).astype(np.int64) for end in (low, high))
    return np.clip(low, 0, inner), np.maximum(np.minimum(high, shape), inner + 1)


def _with(
    cells: Cells,
    index: np.ndarray,
    *,
    position: np.ndarray,
    volume: np.ndarray,
    covariance: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    intensity: np.ndarray,
    embedding: np.ndarray,
) -> Cells:
    """Returns the cells with other measures for some."""
    found = cells.detections
    found = found._replace(position_um=found.position_um.copy(), volume_um=found.volume_um.copy())
    cells = cells._replace(
        detections=found,
        covariance_um=cells.covariance_um.copy(),
        low=cells.low.copy(),
        high=cells.high.copy(),
        intensity=cells.intensity.copy(),
        embedding=cells.embedding.copy(),
    )
    found.position_um[index], found.volume_um[index] = position, volume
    cells.covariance_um[index], cells.intensity[index] = covariance, intensity
    cells.embedding[index] = embedding
    cells.low[index], cells.high[index] = low, high
    return cells


def _joined(one: Cells, two: Cells) -> Cells:
    """Returns the cells of both."""
    return one._replace(
        detections=Detections(
            *(np.concatenate(pair) for pair in zip(one.detections, two.detections, strict=True))
        ),
        covariance_um=np.concatenate([one.covariance_um, two.covariance_um]),
        low=np.concatenate([one.low, two.low]),
        high=np.concatenate([one.high, two.high]),
        intensity=np.concatenate([one.intensity, two.intensity]),
        embedding=np.concatenate([one.embedding, two.embedding]),
    )
