"""The cells of a whole movie and which computed cell each reference cell was found as.

Shapes: V reference vertices (a cell in a frame), W computed vertices, K tracks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.overlap import Overlap, matches


class Vertices(NamedTuple):
    """Cells in frames, sorted by (frame, label)."""

    frame: np.ndarray
    """(V,) int64."""
    label: np.ndarray
    """(V,) int64, positive."""

    def find(self, frame: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Returns (N,) int64: the vertices with these frames and labels, -1 where there is none."""
        base = max(int(self.label.max(initial=0)), int(np.max(label, initial=0))) + 1
        return find_sorted(self.frame * base + self.label, frame * base + label)


class Matching(NamedTuple):
    """Reference and computed vertices of a movie and the detection test between them."""

    ref: Vertices
    comp: Vertices
    match: np.ndarray
    """(V,) int64, index of the computed vertex that covers more than half of the reference's pixels, or -1."""
    covered: np.ndarray
    """(W,) int64, number of reference vertices that each computed vertex is the match of."""

    @property
    def alone(self) -> np.ndarray:
        """(V,) bool, whether the reference vertex has a match that is the match of no other."""
        return np.append(self.covered, 0)[self.match] == 1

    @property
    def assigned(self) -> np.ndarray:
        """(V,) int64: label of the computed vertex that is the match of this reference vertex alone, or 0."""
        return np.where(self.alone, np.append(self.comp.label, 0)[self.match], 0)


def match_frames(overlaps: Sequence[Overlap]) -> Matching:
    """Applies the detection test (Matula et al. 2015) to every frame.

    Args:
      overlaps: one per frame, in any order.

    Raises:
      ValueError: a frame comes twice.
    """
    overlaps = sorted(overlaps, key=lambda overlap: overlap.frame)
    frames = np.array([overlap.frame for overlap in overlaps], np.int64)
    if len(np.unique(frames)) != len(frames):
        raise ValueError("every frame needs one overlap")
    comp_sizes = [len(overlap.comp_label) for overlap in overlaps]
    offsets = np.cumsum([0, *comp_sizes])
    found = [matches(overlap) for overlap in overlaps]
    match = _join([np.where(m >= 0, m + offset, -1) for m, offset in zip(found, offsets[:-1], strict=True)])
    return Matching(
        ref=Vertices(
            np.repeat(frames, [len(overlap.ref_label) for overlap in overlaps]),
            _join([overlap.ref_label for overlap in overlaps]),
        ),
        comp=Vertices(np.repeat(frames, comp_sizes), _join([overlap.comp_label for overlap in overlaps])),
        match=match,
        covered=np.bincount(match[match >= 0], minlength=offsets[-1]),
    )


def find_tracks(lineage: Lineage, label: np.ndarray) -> np.ndarray:
    """Returns (N,) int64: the rows of these labels in a lineage, -1 where it has none."""
    return find_sorted(lineage.label, label)


def find_sorted(table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns (N,) int64: the places of N values in an ascending table, -1 where it has none."""
    if len(table) == 0:
        return np.full(len(wanted), -1, np.int64)
    place = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return np.where(table[place] == wanted, place, -1)


def check_labels(vertices: Vertices, lineage: Lineage, whose: str) -> None:
    """Raises InputError for the first vertex whose label is not in the lineage."""
    unknown = np.flatnonzero(find_tracks(lineage, vertices.label) < 0)
    if len(unknown):
        frame, label = vertices.frame[unknown[0]], vertices.label[unknown[0]]
        raise InputError(
            f"frame {frame}: the {whose} mask has label {label}, which the {whose} track file does not list: "
            f"add its line (label, begin, end, parent) or remove the label from the mask"
        )


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *parts])
