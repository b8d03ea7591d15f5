"""How complete a movie's detections are around each frame, as a feature that a network can go by.

Shapes: N detections, E candidates, T frames from the first to the last with detections.
"""

import numpy as np

from celltrack_jax.tracking.graph import Candidates

UNMATCHED = ("unmatched_before", "unmatched_after")
"""Columns of `unmatched_shares`."""
_AROUND = 5
"""Frames to either side that are looked at."""
_PRIOR = 0.5, 10.0
"""Detections without and of all that count besides, so that few detections tell little."""


def unmatched_shares(frame: np.ndarray, position_um: np.ndarray, edges: Candidates) -> np.ndarray:
    """Tells how many detections around each frame are nobody's mutual nearest neighbour in the next frame.

    Where all cells are detected nearly all are somebody's. A single cell that seems to appear says little about
    whether it was missed before; how often that happens around it says how far to believe it.

    Args:
      frame: (N,) integers, ascending.
      position_um: (N, 3) centres.
      edges: candidates among them; those over a gap are left out.

    Returns:
      (N, 2) float32, the columns of `UNMATCHED`: 1 + log(share) / 2 of the detections without such a neighbour in
      the frame before, and in the one after, among those of up to 5 frames earlier and later; about 0 with 13 % and
      -1 with 2 % of them.
    """
    if len(frame) == 0:
        return np.zeros((0, 2), np.float32)
    adjacent = frame[edges.target] - frame[edges.source] == 1
    source, target = edges.source[adjacent], edges.target[adjacent]
    distance = np.linalg.norm(position_um[target] - position_um[source], axis=1)
    mutual = np.intersect1d(_nearest(source, distance), _nearest(target, distance))
    t = frame - frame[0]
    count = np.bincount(t)
    columns = []
    for end, none in ((target, 0), (source, -1)):
        possible = count.copy()
        possible[none] = 0
        matched = np.bincount(t[end[mutual]], minlength=len(count))
        without, of_all = _PRIOR
        columns.append((_moving_sum(possible - matched) + without) / (_moving_sum(possible) + of_all))
    return (1 + np.log(np.stack(columns, 1)) / 2)[t].astype(np.float32)


def _nearest(group: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Returns the indices of the least distance of each group, the first of equal ones."""
    order = np.lexsort((distance, group))
    return order[np.unique(group[order], return_index=True)[1]]


def _moving_sum(values: np.ndarray) -> np.ndarray:
    """Sums (T,) over the frames around each."""
    total = np.append(0, np.cumsum(values))
    t = np.arange(len(values))
    return total[np.minimum(t + _AROUND + 1, len(values))] - total[np.maximum(t - _AROUND, 0)]
