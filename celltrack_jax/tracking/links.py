"""Links between detections by assignment from frame to frame: the baseline that learned trackers have to beat.

All distances count in cell diameters, so one setting serves movies of any magnification. Shapes: N detections,
E candidate pairs; M sources, K targets of one assignment.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from celltrack_jax.lineage import Detections

HUNGARIAN: Mapping[str, Any] = MappingProxyType(
    {
        "max_distance": 1.2,
        "division_distance": 1.3,
        "min_sibling_ratio": 0.3,
        "max_daughter_ratio": 1.3,
        "max_gap": 1,
    }
)
"""What `hungarian` links with where no run says otherwise; experiments spell theirs out in `config.tracking`.

Chosen on Fluo-N2DH-SIM+ and GOWT1 and on iPSC-02, on their true masks, on these with 2 % of the cells missing, and
on a real tracker's masks.
"""


NEAREST: Mapping[str, Any] = MappingProxyType({"max_gap": 0, "division_distance": 0.0})
"""What makes of `hungarian` a linker to the nearest neighbour: cells are neither missed nor divide."""


def hungarian(
    detections: Detections,
    *,
    max_distance: float,
    division_distance: float,
    min_sibling_ratio: float,
    max_daughter_ratio: float,
    max_gap: int,
    diameter_um: float | None = None,
    step_um: np.ndarray | None = None,
) -> np.ndarray:
    """Links each detection to its predecessor, minimising squared distances frame by frame.

    Three assignments decide about a frame, each about what the one before left over: detections of the previous
    frame; tracks that were lost up to `max_gap` frames ago; and cells that already continue into this frame and
    may instead have divided. In each, leaving a pair unlinked costs as much as a link of the largest distance.

    Adding overlap or a change of size to the cost moved LNK on true masks by less than 0.001, so both are left out.

    Args:
      detections: of one movie.
      max_distance: a cell's farthest step between two frames, in diameters.
      division_distance: a second daughter's farthest distance from its mother, in diameters.
      min_sibling_ratio: of the sisters' volumes, smaller to larger, at least this.
      max_daughter_ratio: of the larger sister's volume to the mother's, at most this.
      max_gap: frames in which a cell may be missing; 0 links neighbouring frames alone.
      diameter_um: a cell's diameter, in the unit of the positions; None takes `typical_diameter`.
      step_um: (N, 3) where each cell is expected to go until the next frame; None expects it to stay.

    Returns:
      (N,) int64, each detection's predecessor as an index, -1 for none; at most two name the same one.
    """
    count = len(detections.frame)
    parent = np.full(count, -1, np.int64)
    if count == 0:
        return parent
    diameter = typical_diameter(detections) if diameter_um is None else diameter_um
    position = detections.position_um / diameter
    step = np.zeros_like(position) if step_um is None else step_um / diameter
    childless = np.ones(count, bool)
    frames, first = np.unique(detections.frame, return_index=True)
    members = dict(zip(frames.tolist(), np.split(np.arange(count), first[1:]), strict=True))
    for frame, targets in members.items():
        for gap in range(max_gap + 1):
            sources = members.get(frame - 1 - gap, targets[:0])
            sources = sources[childless[sources]]
            orphans = targets[parent[targets] < 0]
            expected = position[sources] + (gap + 1) * step[sources]
            source, target = _nearest(expected, position[orphans], max_distance)
            parent[orphans[target]] = sources[source]
        continued = targets[parent[targets] >= 0]
        continued = continued[detections.frame[parent[continued]] == frame - 1]
        orphans = targets[parent[targets] < 0]
        sister, orphan = _sisters(
            position, detections.volume_um, parent, continued, orphans,
            division_distance, min_sibling_ratio, max_daughter_ratio,
        )  # fmt: skip
        parent[orphan] = parent[sister]
        childless[parent[targets[parent[targets] >= 0]]] = False
    return parent


def typical_diameter(detections: Detections) -> float:
    """Returns the diameter of a ball (a disc in 2D) of the median volume, in µm.

    Points drawn as markers of one size tell nothing about the cells' size. There it is 0.6 of the median
    distance between neighbours, if that is larger: about what cells have that almost touch.
    """
    volume = detections.volume_um
    if len(volume) == 0:
        return 1.0
    flat = not detections.position_um[:, 0].any()
    median = np.median(volume)
    diameter = 2 * np.sqrt(median / np.pi) if flat else (6 * median / np.pi) ** (1 / 3)
    low, high = np.percentile(volume, (25, 75))
    if low == high:
        diameter = max(diameter, 0.6 * _neighbour_distance(detections))
    return float(diameter)


def assign(source: np.ndarray, target: np.ndarray, gain: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Chooses pairs of largest total gain such that every source and every target is in one pair at most.

    Solved as a sparse perfect matching in which each source and each target may also be matched to a stand-in of
    its own: 8 ms for 5,000 cells with 4 candidates each, against 1,080 ms of the dense assignment.

    Args:
      source: (E,) integers below M.
      target: (E,) integers below K; a pair occurs once.
      gain: (E,) positive floats.
      shape: (M, K).

    Returns:
      Indices of the chosen candidates among the E.
    """
    if len(gain) == 0:
        return np.zeros(0, np.int64)
    sources, targets = shape
    # Source i's stand-in is column K + i and target j's is row M + j. Two nodes left out pay one, and the
    # stand-ins of a chosen pair match each other for nothing; all weights are positive, as the solver wants.
    size = sources + targets
    top = 1 + gain.max()
    row = np.concatenate([source, np.arange(sources), sources + np.arange(targets), sources + target])
    column = np.concatenate([target, targets + np.arange(sources), np.arange(targets), targets + source])
    weight = np.concatenate([top - gain, np.full(size, top / 2 + 0.5), np.ones(len(gain))])
    matched = min_weight_full_bipartite_matching(csr_array((weight, (row, column)), shape=(size, size)))[1]
    return np.flatnonzero(matched[source] == target)


def _nearest(sources: np.ndarray, targets: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs points of two sets by squared distance: indices into both."""
    source, target, distance = _pairs_within(sources, targets, radius)
    # A pair at the very limit still gains a little, so that distance 0 of radius 0 is a pair.
    gain = 1 + 1e-9 - (distance / max(radius, 1e-12)) ** 2
    chosen = assign(source, target, gain, (len(sources), len(targets)))
    return source[chosen], target[chosen]


def _sisters(
    position: np.ndarray,
    volume: np.ndarray,
    parent: np.ndarray,
    continued: np.ndarray,
    orphans: np.ndarray,
    radius: float,
    min_sibling_ratio: float,
    max_daughter_ratio: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds orphans that share the mother of a cell that continues; returns (sister, orphan) detections."""
    mother, orphan, distance = _pairs_within(position[parent[continued]], position[orphans], radius)
    one, two = volume[continued[mother]], volume[orphans[orphan]]
    alike = np.minimum(one, two) >= min_sibling_ratio * np.maximum(one, two)
    smaller = np.maximum(one, two) <= max_daughter_ratio * volume[parent[continued[mother]]]
    mother, orphan, distance = (column[alike & smaller] for column in (mother, orphan, distance))
    gain = 1 + 1e-9 - (distance / max(radius, 1e-12)) ** 2
    chosen = assign(mother, orphan, gain, (len(continued), len(orphans)))
    return continued[mother[chosen]], orphans[orphan[chosen]]


def _pairs_within(
    sources: np.ndarray, targets: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists all pairs of points not farther apart than the radius: indices into both, and the distance."""
    if len(sources) == 0 or len(targets) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    near = cKDTree(sources).query_ball_point(targets, radius)
    counts = np.array([len(found) for found in near])
    source = np.concatenate([np.asarray(found, np.int64) for found in near])
    target = np.repeat(np.arange(len(targets)), counts)
    order = np.lexsort((source, target))
    source, target = source[order], target[order]
    return source, target, np.linalg.norm(sources[source] - targets[target], axis=1)


def _neighbour_distance(detections: Detections) -> float:
    """Median distance of a cell to the nearest other one in its frame; 0 where no frame has two."""
    frames = np.split(detections.position_um, np.unique(detections.frame, return_index=True)[1][1:])
    distances = [cKDTree(points).query(points, 2)[0][:, 1] for points in frames if len(points) > 1]
    return float(np.median(np.concatenate(distances))) if distances else 0.0
