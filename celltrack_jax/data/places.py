"""Where crops for training lie: arithmetic on (seed, sample), so that nothing depends on what was read before.

Shapes: Z Y X space.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from celltrack_jax.data.store import StoredSequence
from celltrack_jax.errors import InputError

LENGTH = 2**40
"""Samples of a data set: more than any run draws."""
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


class Indices:
    """The sample indices, as a source of data."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> np.int64:
        return np.int64(index)


def batched(
    batch_size: int, process: tuple[int, int], read: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> grain.MapDataset:
    """Makes the endless batches of one process.

    Args:
      batch_size: samples of the global batch.
      process: index and number of processes, which divides the batch size.
      read: (n,) sample indices -> their arrays, the first axis over samples.

    Raises:
      InputError: the batch does not divide.
    """
    place, count = process
    if batch_size % count:
        raise InputError(
            f"a batch of {batch_size} does not divide among {count} processes: change batch_size"
        )
    return grain.MapDataset.source(Indices())[place::count].batch(batch_size // count).map(read)


class Places:
    """Turns sample indices into places of crops.

    Each run of F samples, F the number of all frames to use, takes every frame once, in an order of its own.
    In it the crop lies around a random object with `foreground_probability`, anywhere otherwise. It is moved into
    the frame where the frame is large enough.
    """

    def __init__(
        self,
        sequences: Sequence[StoredSequence],
        *,
        frames: Sequence[Sequence[int]],
        objects: Sequence[Sequence[np.ndarray]],
        shape: tuple[int, ...],
        margin: tuple[int, ...],
        foreground_probability: float,
        seed: int,
    ):
        """Takes what there is to choose from.

        Args:
          sequences: of the store.
          frames: for each sequence, the indices t of the frames to use.
          objects: for each sequence and each of its frames, (n, 3) voxels z, y, x of its objects.
          shape: (3,) voxels of a crop.
          margin: (3,) voxels by which a crop may reach beyond the frame.
          foreground_probability: in [0, 1].
          seed: of all random choices.

        Raises:
          InputError: there is no frame, stacks are asked of a 2D movie, or sequences differ in channels.
        """
        self.sequences, self.objects = sequences, objects
        self.frames = np.array([(s, t) for s, ts in enumerate(frames) for t in ts], np.int64).reshape(-1, 2)
        self.shape, self.margin = shape, margin
        self.foreground_probability, self.seed = foreground_probability, seed
        self.order = functools.lru_cache(maxsize=4)(self._order)
        if not len(self.frames):
            raise InputError(f"there is no frame to draw crops from: {_why(sequences)}")
        for sequence in sequences:
            if shape[0] > 1 and sequence.shape[2] == 1:
                raise InputError(f"{sequence.name} is a 2D movie, but 3D crops are asked: use a 2D config")
            first = sequences[0]
            if sequence.shape[1] != first.shape[1]:
                raise InputError(
                    f"{sequence.name} has {sequence.shape[1]} channels, {first.name} has {first.shape[1]}: "
                    "prepare them as two stores"
                )

    def random(self, stream: int, index: int) -> np.random.Generator:
        """Returns a generator of its own for each (seed, stream, index): blocks of one counter-based stream."""
        key = np.array([self.seed % 2**64, stream], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, index, 0], np.uint64)))

    def _order(self, epoch: int) -> np.ndarray:
        return self.random(_FRAMES, epoch).permutation(len(self.frames))

    def frame(self, index: int) -> tuple[int, int]:
        """Returns sequence and frame of a sample, as of `Request`."""
        epoch, place = divmod(index, len(self.frames))
        s, t = self.frames[self.order(epoch)[place]].tolist()
        return s, t

    def request(self, index: int, later: int = 0) -> Request:
        """Returns where the crop of a sample lies: around an object of its frame, or of one so many frames later."""
        s, t = self.frame(index)
        random = self.random(_PLACES, index)
        objects = self.objects[s][t + later]
        chosen = None
        if random.random() < self.foreground_probability and len(objects):
            chosen = objects[random.integers(len(objects))]
        start = []
        for axis, (size, read, margin) in enumerate(
            zip(self.sequences[s].shape[2:], *self.window(s, t), strict=True)
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

    def window(self, sequence: int, t: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the shape of the crops of a frame, and the voxels by which they may reach beyond it."""
        del sequence, t
        return self.shape, self.margin

    def inside(self, request: Request, halo: Sequence[int] = (0, 0, 0)) -> list[slice]:
        """Returns the part of the frame that a crop covers, with a halo around it."""
        shape, _ = self.window(request.sequence, request.t)
        return [
            slice(max(0, start - extra), min(size, start + read + extra))
            for start, read, extra, size in zip(
                request.start, shape, halo, self.sequences[request.sequence].shape[2:], strict=True
            )
        ]

    def outside(self, request: Request) -> list[tuple[int, int]]:
        """Returns by how many voxels, before and behind on each axis, a crop reaches beyond the frame."""
        shape, _ = self.window(request.sequence, request.t)
        return [
            (part.start - start, start + read - part.stop)
            for part, start, read in zip(self.inside(request), request.start, shape, strict=True)
        ]


class WholeFrames(Places):
    """Places that are whole frames, of whatever size."""

    def inside(self, request: Request, halo: Sequence[int] = (0, 0, 0)) -> list[slice]:
        """Returns the frame."""
        del halo
        return [slice(0, size) for size in self.sequences[request.sequence].shape[2:]]

    def outside(self, request: Request) -> list[tuple[int, int]]:
        """Returns nothing but zeros."""
        del request
        return [(0, 0)] * 3


def _why(sequences: Sequence[StoredSequence]) -> str:
    """Says what the sequences lack, none of whose frames is to be used, and what to do."""
    kinds = Counter(
        kind if kind != "none" or silver == "none" else "silver"
        for sequence in sequences
        for kind, silver in zip(sequence.annotation, sequence.annotation_silver, strict=True)
    )
    names = [sequence.name for sequence in sequences]
    if not names:
        return "the store has no sequences: prepare one that has"
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    if set(kinds) <= {"none"}:
        return (
            f"none of the {kinds.total()} frames of {shown} is annotated; annotate images in the layout that "
            f"launch.prepare read (the CTC's: outlines in {names[0]}_GT/SEG, markers in {names[0]}_GT/TRA), and prepare "
            "another store"
        )
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return (
        f"{shown} has frames annotated {told}, and this config learns from none of them: check which kind it asks for, "
        "and how many frames evaluation.holdout or .folds keep back"
    )


class ScaledPlaces(Places):
    """Places in planes whose size differs from frame to frame."""

    def __init__(self, *args: Any, scales: Sequence[np.ndarray], **settings: Any):
        """Takes what `Places` takes.

        Args:
          args: as of `Places`.
          scales: for each sequence, (T,) by which the size of a crop and its margin are multiplied along y and x.
          settings: as of `Places`.
        """
        super().__init__(*args, **settings)
        self.scales = scales

    def window(self, sequence: int, t: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """As of `Places`; a crop has a pixel at least."""
        scale = self.scales[sequence][t]
        shape = (self.shape[0], *(max(1, round(size * scale)) for size in self.shape[1:]))
        return shape, (self.margin[0], *(round(size * scale) for size in self.margin[1:]))


def by_frame(table: np.ndarray, frames: int) -> list[np.ndarray]:
    """Splits a table that is sorted by its first column, t, into those of the frames."""
    return np.split(table, np.searchsorted(table[:, 0], np.arange(1, frames)))
