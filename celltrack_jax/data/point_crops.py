"""Crops of frames whose cells are points: what to read says `places`, and a whole batch is read at once.

Shapes: B batch, S spatial axes of a crop (Y, X or Z, Y, X), D of them, K cells of a crop at most, C inputs of the
network, F frames around; P rows of a sequence's table of points.
"""

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from celltrack_jax.data import normalise
from celltrack_jax.data.inputs import Input, present
from celltrack_jax.data.places import Places, Request, batched, by_frame
from celltrack_jax.data.store import StoredSequence
from celltrack_jax.errors import InputError

REACH = 16
"""Voxels around a crop in which cells are told of: their heat reaches into it."""


def crops(
    sequences: Sequence[StoredSequence],
    *,
    shape: Sequence[int],
    margin: Sequence[int],
    frames: Sequence[Sequence[int]],
    batch_size: int,
    process: tuple[int, int],
    foreground_probability: float,
    max_cells: int,
    seed: int,
    inputs: Sequence[Input],
    around: Sequence[int] = (),
) -> grain.MapDataset:
    """Makes the endless batches of crops of one process; a function of (seed, step) as `pipeline.crops`.

    Args:
      sequences: of the store.
      shape: S, voxels to read per axis.
      margin: voxels per axis by which a crop may reach beyond the frame.
      frames: for each sequence, the indices t of the frames to use, in which all cells are known.
      batch_size: samples of the global batch.
      process: index and number of processes, which divides the batch size.
      foreground_probability: share of crops around a random cell, in [0, 1].
      max_cells: K.
      seed: of all random choices.
      inputs: C.
      around: offsets of the frames whose points are told too.

    Returns:
      A data set of dicts: image (B, *S, C) float32, normalised by the frame's percentiles; labels (B, *S) int32, 0 in
      the frame and -1 outside, where the image is reflected; points (B, K, D) float32, index in the crop; steps
      (B, K, D) float32, voxels to the place in the next frame; both NaN for none; around (B, F, K, D) float32, if there
      are any, points of other frames, or of the frame itself where these are not among `frames`; spacing (B, D) float32;
      sample (B,) uint32.

    Raises:
      InputError: there is no frame, or stacks are asked of a 2D movie; while reading, a crop with too many cells.
    """
    reader = _Reader(sequences, tuple(shape), max_cells, tuple(inputs), tuple(around), frames)
    reader.places = Places(
        sequences,
        frames=frames,
        objects=[[rows[:, 1:4].astype(np.int64) for rows in of_frames] for of_frames in reader.points],
        shape=reader.shape,
        margin=(*(0 for _ in range(3 - len(shape))), *margin),
        foreground_probability=foreground_probability,
        seed=seed,
    )
    return batched(batch_size, process, reader.read)


def steps(sequence: StoredSequence) -> np.ndarray:
    """Returns (P, 3) float64, voxels from each point to the same label's in the next frame, NaN where there is none."""
    t, label = sequence.points[:, 0].astype(np.int64), sequence.points[:, 4].astype(np.int64)
    neighbours = np.flatnonzero(np.diff(sequence.frames) == 1)
    names = {key: row for row, key in enumerate(zip(t.tolist(), label.tolist(), strict=True))}
    following = [names.get(key, -1) for key in zip((t + 1).tolist(), label.tolist(), strict=True)]
    row = np.where(np.isin(t, neighbours), following, -1).astype(np.int64)
    found = np.full((len(t), 3), np.nan)
    found[row >= 0] = sequence.points[row[row >= 0], 1:4] - sequence.points[row >= 0, 1:4]
    return found


class _Reader:
    """Turns sample indices into crops."""

    places: Places

    def __init__(
        self,
        sequences: Sequence[StoredSequence],
        shape: tuple[int, ...],
        max_cells: int,
        inputs: tuple[Input, ...],
        around: tuple[int, ...],
        frames: Sequence[Sequence[int]],
    ):
        self.taught = [set(each) for each in frames]
        self.inputs, self.around = inputs, around
        self.sequences, self.max_cells, self.ndim = sequences, max_cells, len(shape)
        self.shape = (*(1,) * (3 - len(shape)), *shape)
        self.points = [
            by_frame(np.column_stack([one.points[:, :5], steps(one)]), one.shape[0]) for one in sequences
        ]

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads a batch: all reads are under way before the first is waited for."""
        requests = [self.places.request(int(index)) for index in indices]
        pending = [self._pending(one) for one in requests]
        rows = [
            (*self._image(one, reads), *self._points(one, one.t))
            for one, reads in zip(requests, pending, strict=True)
        ]
        columns = zip(*rows, strict=True)
        names = ("image", "labels", "points", "steps")
        batch: dict[str, np.ndarray] = dict(zip(names, map(np.stack, columns), strict=True))
        if self.around:
            batch["around"] = np.stack([self._around(one) for one in requests])
        spacing = [self.sequences[one.sequence].spacing_um[-self.ndim :] for one in requests]
        sample = np.asarray(indices).astype(np.uint32)
        return batch | {"spacing": np.array(spacing, np.float32), "sample": sample}

    def _pending(self, request: Request) -> list[tuple[int, int, Any]]:
        """Frame, channel and the read under way of each input."""
        sequence, inside = self.sequences[request.sequence], self.places.inside(request)
        places = [(present(sequence.frames, request.t, one.frame), one.channel) for one in self.inputs]
        return [(t, c, sequence.image[(t, c, *inside)].read()) for t, c in places]

    def _image(self, request: Request, reads: list[tuple[int, int, Any]]) -> tuple[np.ndarray, np.ndarray]:
        outside = self.places.outside(request)
        percentiles = self.sequences[request.sequence].percentiles
        image = np.concatenate(
            [
                normalise.normalise(np.asarray(read.result())[None], percentiles[t, c : c + 1])
                for t, c, read in reads
            ]
        )
        known = np.zeros(image.shape[1:], np.int32)
        if any(before or after for before, after in outside):
            image = np.pad(image, [(0, 0), *outside], mode="reflect")
            known = np.pad(known, outside, constant_values=-1)
        image = np.moveaxis(image, 0, -1)
        return (image[0], known[0]) if self.ndim == 2 else (image, known)

    def _around(self, request: Request) -> np.ndarray:
        """(F, K, D) points of other frames, or of the frame itself where they are not trained on."""
        frames, taught = self.sequences[request.sequence].frames, self.taught[request.sequence]
        times = [present(frames, request.t, offset) for offset in self.around]
        return np.stack([self._points(request, t if t in taught else request.t)[0] for t in times])

    def _points(self, request: Request, t: int) -> tuple[np.ndarray, np.ndarray]:
        sequence, rows = self.sequences[request.sequence], self.points[request.sequence][t]
        position = rows[:, 1:4] - request.start
        reach = np.array([0 if size == 1 else REACH for size in self.shape])
        near = ((position > -1 - reach) & (position < np.array(self.shape) + reach)).all(1)
        count = int(near.sum())
        if count > self.max_cells:
            raise InputError(
                f"sequence {sequence.name}, frame {sequence.frames[t]}: a crop holds {count} cells, more than "
                f"max_cells = {self.max_cells} has room for: set data.max_cells to {2 * count} or make crops smaller"
            )
        points, moved = np.full((2, self.max_cells, self.ndim), np.nan, np.float32)
        points[:count], moved[:count] = position[near][:, -self.ndim :], rows[near, 5:][:, -self.ndim :]
        return points, moved
