"""Links as tracks: masks relabelled frame by frame, and cells drawn in the frames in which they were missed.

A CTC track needs a mask in each of its frames, so a link over missed frames can only be kept by drawing the cell
there. A daughter that follows her mother over such frames is drawn in them too, if her sister is seen in the next one.
In AOGM a missed cell costs 10 and 1.5 for each of its two links, a wrongly drawn one 1: drawing pays as
soon as one in a dozen is right.

Shapes: N detections, M missed cells, K tracks.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from celltrack_jax.lineage import Detections, Lineage, lineage_from_links

_LEAST_FREE = 0.5
"""Share of a copied mask that must find free voxels: a match needs more than half of the true cell."""


_LEAP = 0.5
"""Share of her way over a gap that a daughter has gone at birth: daughters part at once. With one daughter of each
division missed for two frames AOGM was 4743, 691.5 and 1300.5 undrawn (a synthetic movie, SIM+/01, PSC/01), 14, 29.5
and 1164 with a share of 0, 0, 29.5 and 783.5 with 0.5, 240.5, 29.5 and 857 with 1; drawn as large as the daughter
instead of as her mother 70, 182 and 1164 with 0: a match asks for more than half of the true cell."""


class Completed(NamedTuple):
    """Detections followed by the missed cells on the links between them."""

    cells: Detections
    """N + M; missed ones lie on the straight line between the ends of their link and have label 0. Daughters leap
    half of it at birth."""
    parent: np.ndarray
    """(N + M,) int64, predecessors; only where nothing can be drawn do they skip frames."""
    source: np.ndarray
    """(M,) int64, the detection before the gap. Those of one gap are adjacent and in the order of time."""
    target: np.ndarray
    """(M,) int64, the detection behind it."""


def complete(
    detections: Detections, parent: np.ndarray, frames: Iterable[int], *, fill_gaps: bool
) -> Completed:
    """Puts a missed cell into each frame that a link skips.

    A link over a number that is no frame of the movie stays, as a parent link: nothing can be drawn there. So does
    one to a daughter where no sister is seen in the next frame: who was there, mother or daughters, is not known.

    Args:
      detections: of the movie.
      parent: (N,) index of each detection's predecessor, -1 for none.
      frames: numbers of the movie's frames.
      fill_gaps: False cuts such links instead, those of daughters stay.
    """
    parent = np.array(parent, np.int64)
    frame, count = detections.frame, len(detections.frame)
    known = np.unique(np.fromiter(frames, np.int64))
    daughters = np.bincount(parent[parent >= 0], minlength=count)
    linked = np.flatnonzero(parent >= 0)
    steps = np.searchsorted(known, frame[linked]) - np.searchsorted(known, frame[parent[linked]])
    length = frame[linked] - frame[parent[linked]]
    divided = np.zeros(count, bool)
    divided[parent[linked[length == 1]]] = True
    skips = linked[(length > 1) & (steps == length)]
    if not fill_gaps:
        parent[skips[daughters[parent[skips]] == 1]] = -1
        skips = skips[:0]
    last = skips[(daughters[parent[skips]] == 1) | divided[parent[skips]]]
    first = parent[last]

    missed = frame[last] - frame[first] - 1
    ends = np.cumsum(missed)
    step = np.arange(missed.sum()) - np.repeat(ends - missed, missed) + 1
    source, target = np.repeat(first, missed), np.repeat(last, missed)
    share = step / np.repeat(missed + 1, missed)
    share = np.where(daughters[source] > 1, _LEAP + (1 - _LEAP) * share, share)[:, None]
    position = (1 - share) * detections.position_um[source] + share * detections.position_um[target]
    added = Detections(frame[source] + step, np.zeros_like(source), position, detections.volume_um[source])
    before = np.where(step == 1, source, count + np.arange(len(source)) - 1)
    parent[last] = count + ends - 1
    cells = Detections(*(np.concatenate(pair) for pair in zip(detections, added, strict=True)))
    return Completed(cells, np.concatenate([parent, before]), source, target)


class Shown(NamedTuple):
    """What the cells of tracks come from."""

    detection: np.ndarray
    """(n,) int64, index of a detection: the cell itself, or for a missed one what the gap leads to."""
    missed: np.ndarray
    """(n,) bool."""


class TrackPainter:
    """Turns the masks of a movie into masks of tracks, one frame after the other.

    painter = TrackPainter(detections, parent, frames, spacing, fill_gaps=True, min_length=1)
    for frame, labels in masks:
        painter.paint(frame, labels)
    painter.lineage()
    """

    def __init__(
        self,
        detections: Detections,
        parent: np.ndarray,
        frames: Iterable[int],
        spacing: np.ndarray,
        *,
        fill_gaps: bool,
        min_length: int,
    ):
        """Plans the tracks.

        Args:
          detections: of the movie, sorted by frame.
          parent: (N,) index of each detection's predecessor, -1 for none.
          frames: numbers of the movie's frames.
          spacing: that the detections were measured with.
          fill_gaps: whether missed cells are drawn; else a track ends where a link skips frames.
          min_length: tracks of fewer frames, without parent and daughters, are left out.
        """
        self._spacing = np.asarray(spacing, np.float64)
        self._found = len(detections.frame)
        self._cells, parent, self._source, self._target = complete(
            detections, parent, frames, fill_gaps=fill_gaps
        )
        lineage, self._track = lineage_from_links(self._cells.frame, parent)
        self._rows = {row[0]: row for row in lineage.rows().tolist()}
        self._drop_short(min_length)
        self._detected = _by_frame(detections.frame, 0)
        self._missed = _by_frame(self._cells.frame[self._found :], self._found)
        sources = np.unique(self._source)
        self._to_copy = {
            frame: sources[index] for frame, index in _by_frame(detections.frame[sources], 0).items()
        }
        self._copies: dict[int, np.ndarray] = {}
        self._left = np.bincount(self._source)

    def paint(self, frame: int, labels: np.ndarray) -> np.ndarray:
        """Relabels a mask by track and draws the cells that were missed in it.

        Args:
          frame: its number, greater than in the call before.
          labels: (Y, X) or (Z, Y, X), the mask that was measured.

        Returns:
          The mask of tracks, uint32.
        """
        here = self._detected.get(frame, np.zeros(0, np.int64))
        painted = _renamed(labels, self._cells.label[here], self._track[here])
        for cell in self._missed.get(frame, np.zeros(0, np.int64)).tolist():
            self._draw(cell, painted)
        self._copy(frame, labels)
        return painted

    def lineage(self) -> Lineage:
        """Returns the tracks that the masks show; call it after the last frame."""
        return Lineage.from_rows(list(self._rows.values()))

    def cells(self) -> Detections:
        """Returns the cells of all tracks with the track as label, missed ones included; likewise at the end.

        They are sorted by frame and track. Missed ones lie on the straight line between the ends of their gap, and
        are as large as they were drawn.
        """
        kept = self._kept()
        frame, _, position, volume = (column[kept] for column in self._cells)
        return Detections(frame, self._track[kept], position, volume)

    def shown(self) -> Shown:
        """Returns what `cells` come from, in their order; likewise at the end."""
        kept = self._kept()
        detection = np.concatenate([np.arange(self._found), self._target])[kept]
        return Shown(detection, kept >= self._found)

    def _kept(self) -> np.ndarray:
        kept = np.flatnonzero(self._track > 0)
        return kept[np.lexsort((self._track[kept], self._cells.frame[kept]))]

    def _drop_short(self, min_length: int) -> None:
        mothers = {mother for *_, mother in self._rows.values()}
        short = [
            label
            for label, begin, end, mother in self._rows.values()
            if end - begin + 1 < min_length and mother == 0 and label not in mothers
        ]
        for label in short:
            del self._rows[label]
        self._track[np.isin(self._track, short)] = 0

    def _copy(self, frame: int, labels: np.ndarray) -> None:
        """Keeps the voxels of cells that are missed in the next frame."""
        sources = [cell for cell in self._to_copy.get(frame, ()) if self._track[cell] > 0]
        if not sources:
            return
        numbers = np.arange(1, len(sources) + 1)
        numbered = _renamed(labels, self._cells.label[sources], numbers).view(np.int32)
        boxes = ndimage.find_objects(numbered, len(sources))
        for cell, number, box in zip(sources, numbers, boxes, strict=True):
            inside = np.nonzero(numbered[box] == number)
            self._copies[cell] = np.stack(inside) + np.array([part.start for part in box])[:, None]

    def _draw(self, cell: int, painted: np.ndarray) -> None:
        """Draws a missed cell as its mask before the gap, or its mother's, moved; ends its track where others lie."""
        source = int(self._source[cell - self._found])
        self._left[source] -= 1
        voxels = self._copies.get(source)
        if not self._left[source]:
            self._copies.pop(source, None)
        if voxels is None or self._track[cell] == 0:  # of a track that was too short, or ended before
            return
        way = self._cells.position_um[cell] - self._cells.position_um[source]
        steps = np.rint(way / self._spacing)[-painted.ndim :].astype(np.int64)
        moved = voxels + steps[:, None]
        moved = moved[:, np.all((moved >= 0) & (moved < np.array(painted.shape)[:, None]), axis=0)]
        free = moved[:, painted[tuple(moved)] == 0]
        if free.shape[1] > _LEAST_FREE * voxels.shape[1]:
            painted[tuple(free)] = self._track[cell]
            self._cells.volume_um[cell] *= free.shape[1] / voxels.shape[1]
        else:
            self._split(cell)

    def _split(self, cell: int) -> None:
        """Ends a track before a missed cell that cannot be drawn; what follows the gap becomes a founder.

        A daughter of whom nothing is drawn yet begins behind the gap.
        """
        track, frame = int(self._track[cell]), self._cells.frame
        label, begin, end, mother = self._rows[track]
        later = np.flatnonzero((self._track == track) & (frame >= frame[cell]))
        resumed = int(frame[later[later < self._found]].min())
        if begin == frame[cell]:
            self._track[later[frame[later] < resumed]] = 0
            self._rows[track][1] = resumed
            return
        fresh = max(self._rows) + 1
        self._track[later] = np.where(frame[later] < resumed, 0, fresh)
        for row in self._rows.values():
            row[3] = fresh if row[3] == track else row[3]
        self._rows[track] = [label, begin, int(frame[cell]) - 1, mother]
        self._rows[fresh] = [fresh, resumed, end, 0]


def _renamed(labels: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Replaces labels by others.

    Args:
      labels: (*S) integers.
      old: (n,) positive labels, each once.
      new: (n,) integers that take their places; all other labels become 0.

    Returns:
      (*S) uint32.
    """
    most = int(labels.max(initial=0))
    if most <= labels.size:
        table = np.zeros(most + 1, np.uint32)
        table[old] = new
        return table[labels]
    # Ids far beyond the number of voxels: a table would hold all the absent ones.
    order = np.argsort(old)
    names, values = np.append(old[order], -1), np.append(new[order], 0).astype(np.uint32)
    labels = labels.astype(np.int64, copy=False)
    found = np.searchsorted(names[:-1], labels)
    return np.where(names[found] == labels, values[found], np.uint32(0))


def _by_frame(frame: np.ndarray, offset: int) -> dict[int, np.ndarray]:
    """Indices of each frame's entries, plus an offset."""
    order = np.argsort(frame, kind="stable")
    numbers, first = np.unique(frame[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order + offset, first[1:]), strict=True)) if len(frame) else {}
