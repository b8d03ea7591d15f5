"""Crops for training: where to cut is arithmetic on (seed, index), and a whole batch is read at once.

Nothing here depends on what was read before: batch k of any number of processes is the same, and a run resumes by
its step number alone. Shapes: B batch, S spatial axes of a crop (Y, X or Z, Y, X), C channels, Z Y X space.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from celltrack_jax.data import normalise, unknown
from celltrack_jax.data.annotation import KINDS, is_covered
from celltrack_jax.data.store import StoredSequence
from celltrack_jax.errors import InputError

LENGTH = 2**40
"""Samples of a data set: more than any run draws."""
SILVER = KINDS.index("silver")
_FRAMES, _PLACES = 0, 1
"""Streams of random numbers: the order of the frames, and the place in a frame."""


class Request(NamedTuple):
    """Where a crop lies."""

    sequence: int
    """Index of the sequence."""
    t: int
    """Index of the frame in the store."""
    start: tuple[int, int, int]
    """First voxel z, y, x; may lie outside of the frame."""


def crops(
    sequences: Sequence[StoredSequence],
    *,
    shape: Sequence[int],
    ndim: int,
    frames: Sequence[Sequence[int]],
    batch_size: int,
    process: tuple[int, int],
    foreground_probability: float,
    unknown_radius_um: float,
    max_cells: int,
    seed: int,
    margin: Sequence[int],
    silver: bool,
) -> grain.MapDataset:
    """Makes the endless batches of crops of one process.

    Each run of F samples, F the number of all frames to use, takes every frame once, in an order of its own.
    In it the crop lies around a random object with `foreground_probability`, anywhere otherwise. It is moved into
    the frame where the frame is large enough; what still lies outside is the image's reflection, labelled -1.

    Args:
      sequences: of the store.
      shape: S, voxels to read per axis.
      ndim: 2 reads single planes, of a 3D movie too; 3 reads stacks.
      frames: for each sequence, the indices t of the frames to use.
      batch_size: samples of the global batch.
      process: index and number of processes, which divides the batch size.
      foreground_probability: in [0, 1].
      unknown_radius_um: around a marker without an outline, unlabelled pixels within this distance are unknown.
      max_cells: cells in a crop have labels below it.
      seed: of all random choices.
      margin: voxels per axis by which a crop may reach beyond the frame, so that the frame's border comes to lie
        where the network looks after the margin is cut off.
      silver: whether silver outlines are used in places that gold ones leave open.

    Returns:
      A data set of dicts: image (B, *S, C) float32, normalised by the frame's percentiles; labels (B, *S) int32,
      cells 1..K < max_cells, 0 background, -1 unknown; spacing (B, ndim) float32, micrometers; sample (B,) uint32,
      the global sample index modulo 2**32. B is batch_size / number of processes.

    Raises:
      InputError: there is no frame, or 3D crops are asked of a 2D movie; while reading, a crop with too many cells.
    """
    place, count = process
    if batch_size % count:
        raise InputError(
            f"a batch of {batch_size} does not divide among {count} processes: change batch_size"
        )
    flat = (1,) * (3 - ndim)
    reader = _Reader(
        sequences=sequences,
        frames=np.array([(s, t) for s, ts in enumerate(frames) for t in ts], np.int64).reshape(-1, 2),
        shape=(*flat, *shape),
        margin=(*(0 for _ in flat), *margin),
        ndim=ndim,
        foreground_probability=foreground_probability,
        unknown_radius_um=unknown_radius_um,
        max_cells=max_cells,
        seed=seed,
        silver=silver,
    )
    return grain.MapDataset.source(Indices())[place::count].batch(batch_size // count).map(reader.read)


class Indices:
    """The sample indices, as a source of data."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> np.int64:
        return np.int64(index)


class _Reader:
    """Turns sample indices into crops."""

    def __init__(
        self,
        *,
        sequences: Sequence[StoredSequence],
        frames: np.ndarray,
        shape: tuple[int, ...],
        margin: tuple[int, ...],
        ndim: int,
        foreground_probability: float,
        unknown_radius_um: float,
        max_cells: int,
        seed: int,
        silver: bool,
    ):
        if not len(frames):
            raise InputError(
                "there is no frame to draw crops from: check the store's annotation and the split"
            )
        for sequence in sequences:
            if ndim == 3 and sequence.shape[2] == 1:
                raise InputError(f"{sequence.name} is a 2D movie, but 3D crops are asked: use a 2D config")
            first = sequences[0]
            if sequence.shape[1] != first.shape[1]:
                raise InputError(
                    f"{sequence.name} has {sequence.shape[1]} channels, {first.name} has {first.shape[1]}: "
                    "prepare them as two stores"
                )
        self.sequences, self.frames = sequences, frames
        self.shape, self.margin, self.ndim = shape, margin, ndim
        self.foreground_probability, self.unknown_radius_um = foreground_probability, unknown_radius_um
        self.max_cells, self.seed = max_cells, seed
        self.order = functools.lru_cache(maxsize=4)(self._order)
        self.silver = silver
        tables = [s.foreground if silver else s.foreground[s.foreground[:, 6] != SILVER] for s in sequences]
        self.objects = [_by_frame(table, s.shape[0]) for table, s in zip(tables, sequences, strict=True)]
        self.coverage = [_by_frame(s.coverage, s.shape[0]) for s in sequences]
        self.annotation = [s.annotation_silver if silver else s.annotation for s in sequences]

    def _random(self, stream: int, index: int) -> np.random.Generator:
        """A generator of its own for each (seed, stream, index): blocks of one counter-based stream."""
        key = np.array([self.seed % 2**64, stream], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, index, 0], np.uint64)))

    def _order(self, epoch: int) -> np.ndarray:
        return self._random(_FRAMES, epoch).permutation(len(self.frames))

    def request(self, index: int) -> Request:
        """Returns where the crop of a sample lies."""
        epoch, place = divmod(index, len(self.frames))
        s, t = self.frames[self.order(epoch)[place]].tolist()
        random = self._random(_PLACES, index)
        objects = self.objects[s][t]
        chosen = None
        if random.random() < self.foreground_probability and len(objects):
            chosen = objects[random.integers(len(objects)), 1:4]
        start = []
        for axis, (size, read, margin) in enumerate(
            zip(self.sequences[s].shape[2:], self.shape, self.margin, strict=True)
        ):
            least, most = -margin, size + margin - read
            if most <= least:
                start.append((size - read) // 2)
            elif chosen is None:
                start.append(int(random.integers(least, most + 1)))
            else:
                # Within the middle half of the crop: the object survives the crop's augmentation.
                shift = int(random.integers(-(read // 4), read // 4 + 1))
                start.append(min(max(int(chosen[axis]) - read // 2 + shift, least), most))
        return Request(s, t, (start[0], start[1], start[2]))

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads a batch: all reads are under way before the first is waited for."""
        requests = [self.request(int(index)) for index in indices]
        pending = [self._start(request) for request in requests]
        channels = self.sequences[0].shape[1]
        batch = {
            "image": np.empty((len(requests), *self.shape[3 - self.ndim :], channels), np.float32),
            "labels": np.empty((len(requests), *self.shape[3 - self.ndim :]), np.int32),
            "spacing": np.array(
                [self.sequences[request.sequence].spacing_um[3 - self.ndim :] for request in requests],
                np.float32,
            ),
            "sample": np.asarray(indices).astype(np.uint32),
        }
        for i, (request, reads) in enumerate(zip(requests, pending, strict=True)):
            batch["image"][i], batch["labels"][i] = self._finish(request, reads)
        return batch

    def _start(self, request: Request) -> dict[str, Any]:
        sequence = self.sequences[request.sequence]
        reads = {"image": sequence.image[(request.t, slice(None), *self._inside(request))].read()}
        around = self._inside(request, self._halo(request))
        for kind in self._kinds(request):
            reads[kind] = sequence.labels[kind][(request.t, 0, *around)].read()
        return reads

    def _kinds(self, request: Request) -> list[str]:
        """Returns the kinds of labels that are needed."""
        sequence, t = self.sequences[request.sequence], request.t
        kinds = [kind for kind in KINDS if kind in sequence.labels and sequence.labelled[kind][t]]
        unused = set() if self.silver else {"silver"}
        if sequence.annotation[t] == "full":
            unused = {"markers", "silver"}
        elif self.annotation[request.sequence][t] == "full":
            unused |= {"markers"}
        if t in sequence.planes and "silver" in kinds and self.silver:
            # Whole silver outlines say more than gold ones of some planes.
            unused |= {"segmentation"}
        return [kind for kind in kinds if kind not in unused]

    def _finish(self, request: Request, reads: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Returns image (*S, C) float32 and labels (*S) int32 of one sample."""
        sequence, t = self.sequences[request.sequence], request.t
        inside = self._inside(request)
        outside = [
            (part.start - start, start + read - part.stop)
            for part, start, read in zip(inside, request.start, self.shape, strict=True)
        ]
        image = normalise.normalise(reads["image"].result(), sequence.percentiles[t])
        labels, count = unknown.dense(self._labels(request, reads))
        if count >= self.max_cells:
            raise InputError(
                f"sequence {sequence.name}, frame {sequence.frames[t]}: a crop holds {count} cells, more than "
                f"max_cells = {self.max_cells} has room for: set data.max_cells to {2 * count} or make crops smaller"
            )
        if any(before or after for before, after in outside):
            image = np.pad(image, [(0, 0), *outside], mode="reflect")
            labels = np.pad(labels, outside, constant_values=-1)
        image = np.moveaxis(image, 0, -1)
        return (image[0], labels[0]) if self.ndim == 2 else (image, labels)

    def _labels(self, request: Request, reads: dict[str, Any]) -> np.ndarray:
        """Returns the labels of the part of the crop that lies in the frame, -1 where unknown."""
        sequence, t = self.sequences[request.sequence], request.t
        inside, around = self._inside(request), self._inside(request, self._halo(request))
        within = tuple(
            slice(part.start - wide.start, part.stop - wide.start)
            for part, wide in zip(inside, around, strict=True)
        )
        masks = {kind: np.asarray(reads[kind].result()) for kind in KINDS if kind in reads}
        outlines, markers = masks.get("segmentation"), masks.get("markers")
        if "silver" in masks:
            rows = self.objects[request.sequence][t]
            outlines = unknown.overlay(outlines, masks["silver"], rows[rows[:, 6] == SILVER, 4])
        if self.annotation[request.sequence][t] == "full":
            assert outlines is not None
            return outlines[within]
        if outlines is None and markers is None:
            return np.full([part.stop - part.start for part in inside], -1, np.int32)
        planes = None
        if t in sequence.planes and "silver" not in masks:
            planes = np.isin(np.arange(around[0].start, around[0].stop), sequence.planes[t])
        coverage = self.coverage[request.sequence][t][:, 1:]
        covered = is_covered(coverage, silver="silver" in masks, in_planes=t in sequence.planes)
        return unknown.merge(
            outlines,
            markers,
            coverage[covered, :2],
            planes=planes,
            radius=self.unknown_radius_um,
            spacing=sequence.spacing_um,
        )[within]

    def _halo(self, request: Request) -> list[int]:
        """Voxels around the crop in which a marker makes pixels of the crop unknown."""
        sequence = self.sequences[request.sequence]
        if self.annotation[request.sequence][request.t] == "full":
            return [0, 0, 0]
        return [math.ceil(self.unknown_radius_um / size) for size in sequence.spacing_um]

    def _inside(self, request: Request, halo: Sequence[int] = (0, 0, 0)) -> list[slice]:
        """Returns the part of the frame that the crop covers, with a halo around it."""
        return [
            slice(max(0, start - extra), min(size, start + read + extra))
            for start, read, extra, size in zip(
                request.start, self.shape, halo, self.sequences[request.sequence].shape[2:], strict=True
            )
        ]


def _by_frame(table: np.ndarray, frames: int) -> list[np.ndarray]:
    """Splits a table that is sorted by its first column, t, into those of the frames."""
    return np.split(table, np.searchsorted(table[:, 0], np.arange(1, frames)))
