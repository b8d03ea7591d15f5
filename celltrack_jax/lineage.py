"""Detections and lineages: the words every room speaks. numpy only.

Shapes: N detections of a movie, K tracks.
"""

from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
    """Cells found in the frames of one movie, sorted by (frame, label)."""

    frame: np.ndarray
    """(N,) int64, frame numbers as in the file names."""
    label: np.ndarray
    """(N,) int64, the cell's id in that frame's mask."""
    position_um: np.ndarray
    """(N, 3) float64, centroid z, y, x: voxel index times spacing; z is 0 in 2D."""
    volume_um: np.ndarray
    """(N,) float64, voxels times the voxel's volume (area in 2D)."""


class Lineage(NamedTuple):
    """Tracks of one movie in the columns of a CTC track file (L B E P), sorted by label."""

    label: np.ndarray
    """(K,) int64, positive."""
    begin: np.ndarray
    """(K,) int64, first frame."""
    end: np.ndarray
    """(K,) int64, last frame, inclusive."""
    parent: np.ndarray
    """(K,) int64, label of the parent track, 0 for none."""

    @classmethod
    def from_rows(cls, rows) -> "Lineage":
        """Makes a lineage from rows of (label, begin, end, parent), in any order.

        Args:
          rows: (K, 4) integers; duplicates are kept, so that a validator can list them.
        """
        rows = np.asarray(rows, np.int64).reshape(-1, 4)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        return cls(*(np.ascontiguousarray(column) for column in rows.T))

    def rows(self) -> np.ndarray:
        """Returns the (K, 4) int64 array of (label, begin, end, parent)."""
        return np.stack(self, axis=1)


def lineage_from_links(frame: np.ndarray, parent: np.ndarray) -> tuple[Lineage, np.ndarray]:
    """Turns links between detections into tracks.

    A track continues over a link to the next frame when it is the only link that leaves its detection.
    At a division, and where a link skips frames (a CTC track must have a mask in each of its frames), the
    track ends and the next ones name it as their parent.

    Args:
      frame: (N,) integers, the frame of each detection.
      parent: (N,) integers, the index of each detection's predecessor, -1 for none. A predecessor lies in an
        earlier frame.

    Returns:
      The lineage with labels 1..K in the order of first frames, and (N,) int64, the track of each detection.

    Raises:
      ValueError: a link does not go forward in time.
    """
    frame = np.asarray(frame, np.int64)
    parent = np.asarray(parent, np.int64)
    linked = parent >= 0
    if np.any(frame[parent[linked]] >= frame[linked]):
        raise ValueError("a link must go from an earlier frame to a later one")
    children = np.bincount(parent[linked], minlength=len(frame))
    continues = linked.copy()
    continues[linked] = (children[parent[linked]] == 1) & (frame[linked] == frame[parent[linked]] + 1)

    order = np.argsort(frame, kind="stable")
    track = np.zeros(len(frame), np.int64)
    rows = []
    for node in order:
        if continues[node]:
            track[node] = track[parent[node]]
            rows[track[node] - 1][2] = frame[node]
        else:
            ancestor = track[parent[node]] if linked[node] else 0
            rows.append([len(rows) + 1, frame[node], frame[node], ancestor])
            track[node] = len(rows)
    return Lineage.from_rows(np.array(rows, np.int64).reshape(-1, 4)), track
