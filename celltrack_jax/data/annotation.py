"""What the annotators drew in a frame: objects, which of them cover the markers, and what is left open. numpy only.

Cells are drawn as outlines or as tracking markers (blobs inside the cell), and the two do not share labels. A marker is
covered by the object that holds more than half of its voxels (the detection criterion of the Cell Tracking Challenge).
Outlines come by hand ("segmentation", gold) and from computers ("silver", the fusion of several methods). A cell may
also be no more than a point. Shapes: Z Y X space, N objects, M rows.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

KINDS = ("segmentation", "markers", "silver")
"""Kinds of label images."""
MAX_LABEL = 2**31 - 1
"""Labels of crops and tables are int32."""


class Objects(NamedTuple):
    """The objects of one mask, sorted by label."""

    label: np.ndarray
    """(N,) int64."""
    voxels: np.ndarray
    """(N,) int64."""
    centroid: np.ndarray
    """(N, 3) float64, voxel index z, y, x."""
    inside: np.ndarray
    """(N, 3) int64, the object's voxel nearest to its centroid."""
    size: np.ndarray
    """(N, 3) int64, voxels of the bounding box along z, y, x."""

    def chosen(self, which: np.ndarray) -> "Objects":
        """Returns the objects of an (N,) bool mask."""
        return Objects(*(column[which] for column in self))

    def points(self) -> "Points":
        """Returns the objects' centroids."""
        return Points(self.label, self.centroid, self.size.astype(np.float64))


class Points(NamedTuple):
    """All cells of one frame as points, sorted by label."""

    label: np.ndarray
    """(N,) int64, positive."""
    position: np.ndarray
    """(N, 3) float64, voxel index z, y, x."""
    size: np.ndarray
    """(N, 3) float64, voxels of the cell's box along z, y, x."""


class Survey(NamedTuple):
    """What is annotated in one frame."""

    annotation: str
    """"full": unlabelled is background; "sparse": outlines leave out cells; "markers": markers alone; "points":
    points alone; "none"."""
    annotation_silver: str
    """The same where silver outlines count."""
    coverage: np.ndarray
    """(N, 3) int64 rows of marker, object that covers it or 0, silver object that does or 0; sorted."""
    foreground: np.ndarray
    """(M, 6) int64 rows of z, y, x, label, voxels, kind (index into `KINDS`); see `survey`."""
    points: Points | None
    """Every cell of the frame, None where they are not known: as given, else the markers' centroids, else, in a "full"
    frame, those of the outlined cells. (0,) columns in a frame in which there is no cell."""
    tracked: bool
    """Whether there are points, and their labels are those of the tracks."""


def survey(
    masks: Mapping[str, np.ndarray],
    planes: Sequence[int] | None,
    *,
    complete: bool,
    spacing: Sequence[float],
    points: Points | None = None,
) -> Survey:
    """Surveys a frame.

    Its foreground are the objects of the segmentation, the markers that none of these covers, and the silver
    objects that none of these replaces.

    Args:
      masks: by kind, (Z, Y, X) integers; kinds may be absent.
      planes: z of the planes that are segmented, None for all. Silver outlines then replace the segmentation.
      complete: whether the data set promises that the segmentation leaves out no cell.
      spacing: z, y, x.
      points: all cells as the data set gives them, None where it gives none.
    """
    gold, markers, silver = (masks.get(kind) for kind in KINDS)
    cells = {} if gold is None else {"segmentation": objects(gold, spacing)}
    if silver is not None:
        silver = keep_silver(silver, gold if planes is None else None)
        cells["silver"] = objects(silver, spacing)
    marked = by_gold = with_silver = None
    given = points is not None
    covered = np.zeros((0, 3), np.int64)
    if markers is not None:
        marked = objects(markers, spacing)
        covered = np.stack([marked.label, cover(markers, gold, planes), cover(markers, silver, None)], axis=1)
        by_gold = covered[:, 1] > 0
        with_silver = is_covered(covered, silver=silver is not None, in_planes=planes is not None)
        cells["markers"] = marked.chosen(~by_gold)
    rows = [
        np.column_stack([found.inside, found.label, found.voxels, np.full(len(found.label), number)])
        for number, kind in enumerate(KINDS)
        if (found := cells.get(kind)) is not None
    ]
    kind = _kind(by_gold, gold is not None, planes is not None, complete, given)
    if points is None and (marked is not None or kind == "full"):
        points = (cells["segmentation"] if marked is None else marked).points()
    return Survey(
        annotation=kind,
        annotation_silver=kind if silver is None else _kind(with_silver, True, False, False, given),
        coverage=covered,
        foreground=np.concatenate([np.zeros((0, 6), np.int64), *rows]),
        points=points,
        tracked=given or marked is not None,
    )


def is_covered(coverage: np.ndarray, *, silver: bool, in_planes: bool) -> np.ndarray:
    """Tells which markers are covered, (N,) bool.

    Args:
      coverage: (N, 3) rows of a `Survey`.
      silver: whether silver outlines count and the frame has some.
      in_planes: whether only planes are segmented: then silver outlines, where they count, are used instead.
    """
    by_gold, by_silver = coverage[:, 1] > 0, coverage[:, 2] > 0
    if not silver:
        return by_gold
    return by_silver if in_planes else by_gold | by_silver


def _kind(covered: np.ndarray | None, segmented: bool, in_planes: bool, complete: bool, pointed: bool) -> str:
    if not segmented:
        return "markers" if covered is not None else "points" if pointed else "none"
    whole = complete if covered is None else bool(covered.all())
    return "full" if whole and not in_planes else "sparse"


def objects(mask: np.ndarray, spacing: Sequence[float]) -> Objects:
    """Lists the objects of a mask.

    Args:
      mask: (Z, Y, X) integers, 0 background.
      spacing: z, y, x, for "nearest".
    """
    start, length = _runs(mask)
    z, y, x = np.unravel_index(start, mask.shape)
    label, place = np.unique(mask.ravel()[start], return_inverse=True)
    size = len(label)
    voxels = np.bincount(place, length, size)
    sums = [np.bincount(place, length * middle, size) for middle in (z, y, x + (length - 1) / 2)]
    centroid = np.stack(sums, axis=1) / voxels[:, None]
    nearest = np.stack([z, y, np.clip(np.rint(centroid[place, 2]), x, x + length - 1)], axis=1)
    distance = (((nearest - centroid[place]) * np.asarray(spacing)) ** 2).sum(axis=1)
    order = np.lexsort((distance, place))
    begin = np.searchsorted(place[order], np.arange(size))
    low, high = np.stack([z, y, x], axis=1)[order], np.stack([z, y, x + length - 1], axis=1)[order]
    extent = np.maximum.reduceat(high, begin) - np.minimum.reduceat(low, begin) + 1
    label, voxels, inside, extent = (
        column.astype(np.int64) for column in (label, voxels, nearest[order[begin]], extent)
    )
    return Objects(label, voxels, centroid, inside, extent)


def cover(markers: np.ndarray, outlines: np.ndarray | None, planes: Sequence[int] | None) -> np.ndarray:
    """Tells which object covers each marker, (N,) int64 in the order of the markers' labels; 0 for none.

    Args:
      markers: (Z, Y, X) integers.
      outlines: (Z, Y, X) integers, None where there are none.
      planes: z of the outlined planes, the only ones in which a marker's voxels count; None for all.
    """
    names = np.unique(markers.ravel()[_runs(markers)[0]])
    covered = np.zeros(len(names), np.int64)
    if outlines is None:
        return covered
    if planes is not None:
        markers, outlines = markers[list(planes)], outlines[list(planes)]
    start, length = _runs(markers, outlines)
    place = np.searchsorted(names, markers.ravel()[start])
    sizes = np.bincount(place, length, len(names))
    pairs = np.stack([place, outlines.ravel()[start].astype(np.int64)], axis=1)
    pairs, which = np.unique(pairs, axis=0, return_inverse=True)
    shared = np.bincount(which.ravel(), length, len(pairs))
    hit = (pairs[:, 1] > 0) & (2 * shared > sizes[pairs[:, 0]])
    covered[pairs[hit, 0]] = pairs[hit, 1]
    return covered


def _runs(mask: np.ndarray, other: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Finds the runs along x in which a mask, and another one, have one label, without the mask's background.

    What would be a table of all voxels is one of the runs: a tenth of the time and memory in stacks.

    Returns:
      Flat index of each run's first voxel, and its length; (R,) int64 each.
    """
    change = np.ones(mask.shape, bool)
    change[..., 1:] = mask[..., 1:] != mask[..., :-1]
    if other is not None:
        change[..., 1:] |= other[..., 1:] != other[..., :-1]
    start = np.flatnonzero(change)
    length = np.diff(start, append=mask.size)
    labelled = mask.ravel()[start] > 0
    return start[labelled], length[labelled]


def keep_silver(silver: np.ndarray, gold: np.ndarray | None) -> np.ndarray:
    """Returns the silver mask less what gold objects replace: their voxels, and objects that are the same cell.

    Two objects are the same cell where either holds more than half of the other.
    """
    if gold is None:
        return silver
    names = np.unique(silver[silver > 0])
    hidden = cover(silver, (gold > 0).astype(np.uint8), None) > 0
    same = np.isin(names, cover(gold, silver, None))
    return np.where(np.isin(silver, names[~hidden & ~same]) & (gold == 0), silver, 0)
