"""Crops for training: where to cut says `places`, and a whole batch is read at once.

Nothing here depends on what was read before: batch k of any number of processes is the same, and a run resumes by
its step number alone.

Shapes: B batch, T frames of a clip, S spatial axes of a crop (Y, X or Z, Y, X), C channels, Z Y X space.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from celltrack_jax.data import normalise, unknown
from celltrack_jax.data.annotation import KINDS, is_covered
from celltrack_jax.data.diameters import frame_diameters
from celltrack_jax.data.left_out import LeftOut, keep_largest
from celltrack_jax.data.places import Places, Request, ScaledPlaces, WholeFrames, batched, by_frame
from celltrack_jax.data.store import StoredSequence
from celltrack_jax.errors import InputError
from celltrack_jax.ops import resize

SILVER = KINDS.index("silver")
_CLIPS = 2
"""Stream of random numbers beside those of `places`: the pace and direction of a clip."""


class Clip(NamedTuple):
    """Frames that are read as one sample."""

    frames: int
    """T."""
    max_skip: int
    """Every k-th frame is taken, k uniform in 1..max_skip where the movie is long enough."""
    reverse_probability: float
    """Of playing a clip backwards."""


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
    clip: Clip | None = None,
    whole: bool = False,
    diameter_px: float = 0.0,
    categories: Sequence[str] = (),
    left_out: LeftOut | None = None,
) -> grain.MapDataset:
    """Makes the endless batches of crops of one process.

    They lie where `Places` says; what lies outside of the frame is the image's reflection, labelled -1.

    Args:
      sequences: of the store.
      shape: S, voxels to read per axis.
      ndim: 2 reads single planes, of a 3D movie too; 3 reads stacks.
      frames: for each sequence, the indices t of the frames to use.
      batch_size: samples of the global batch.
      process: index and number of processes, which divides the batch size.
      foreground_probability: in [0, 1].
      unknown_radius_um: around a marker without an outline, unlabelled pixels within this distance are unknown.
      max_cells: cells in a crop have labels below it: of more the largest are kept, and the others are unknown.
      seed: of all random choices.
      margin: voxels per axis by which a crop may reach beyond the frame, so that the frame's border comes to lie
        where the network looks after the margin is cut off.
      silver: whether silver outlines are used in places that gold ones leave open.
      clip: samples are clips of neighbouring frames, all of them to use, cut at one place; arrays then have T behind B.
      whole: samples are whole frames, resized to `shape` (2D).
      diameter_px: above 0, crops are read so large that, resized to `shape`, the frame's median cell has this diameter
        (2D; `diameters.frame_diameters`). The margin is that of the resized crop.
      categories: names of the categories of sequences, in the order of their numbers; () for none.
      left_out: counts the cells for which crops have no room.

    Returns:
      A data set of dicts: image (B, *S, C) float32, normalised by the frame's percentiles; labels (B, *S) int32,
      cells 1..K < max_cells, 0 background, -1 unknown; spacing (B, ndim) float32, micrometers; sample (B,) uint32,
      the global sample index modulo 2**32; where there are categories, category (B,) int32, -1 of a sequence without
      one. B is batch_size / number of processes.

    Raises:
      InputError: no movie has as many frames in a row as a clip; there is no frame, 3D crops are asked of a 2D
        movie or whole frames of stacks; a sequence's category is none of those given; a diameter is asked of stacks,
        clips or whole frames.
    """
    flat = (1,) * (3 - ndim)
    reader = _Reader(
        sequences=sequences,
        frames=frames,
        shape=(*flat, *shape),
        margin=(*(0 for _ in flat), *margin),
        ndim=ndim,
        foreground_probability=foreground_probability,
        unknown_radius_um=unknown_radius_um,
        max_cells=max_cells,
        seed=seed,
        silver=silver,
        clip=clip,
        whole=whole,
        diameter_px=diameter_px,
        categories=categories,
        left_out=left_out or LeftOut(),
    )
    return batched(batch_size, process, reader.read)


class _Reader:
    """Turns sample indices into crops."""

    def __init__(
        self,
        *,
        sequences: Sequence[StoredSequence],
        frames: Sequence[Sequence[int]],
        shape: tuple[int, ...],
        margin: tuple[int, ...],
        ndim: int,
        foreground_probability: float,
        unknown_radius_um: float,
        max_cells: int,
        seed: int,
        silver: bool,
        clip: Clip | None,
        whole: bool,
        diameter_px: float,
        categories: Sequence[str],
        left_out: LeftOut,
    ):
        self.sequences, self.left_out = sequences, left_out
        self.shape, self.ndim = shape, ndim
        self.unknown_radius_um, self.max_cells = unknown_radius_um, max_cells
        self.silver = silver
        tables = [s.foreground if silver else s.foreground[s.foreground[:, 6] != SILVER] for s in sequences]
        self.objects = [by_frame(table, s.shape[0]) for table, s in zip(tables, sequences, strict=True)]
        self.coverage = [by_frame(s.coverage, s.shape[0]) for s in sequences]
        self.annotation = [s.annotation_silver if silver else s.annotation for s in sequences]
        self.clip, self.whole = clip, whole
        self.categories = _numbers(sequences, categories) if categories else None
        for sequence in sequences:
            if whole and sequence.shape[2] > 1:
                raise InputError(
                    f"{sequence.name} is a movie of stacks of {sequence.shape[2]} planes, but whole frames are resized "
                    "in 2D: set --config.data.whole_frames=False"
                )
        objects = [[rows[:, 1:4] for rows in objects] for objects in self.objects]
        self.runs = []
        if clip is not None:
            self.runs = [_runs(one.frames, used) for one, used in zip(sequences, frames, strict=True)]
            frames = [_firsts(runs, clip.frames) for runs in self.runs]
            self._refuse_short(clip.frames, frames)
        make, self.scaled = WholeFrames if whole else Places, diameter_px > 0
        if self.scaled:
            if whole or clip is not None or ndim == 3:
                raise InputError(
                    "crops are brought to one diameter in single planes, not in stacks, clips or whole frames: set "
                    "--config.data.diameter_px=0"
                )
            scales = [found / diameter_px for found in frame_diameters(sequences, silver=silver)]
            make = functools.partial(ScaledPlaces, scales=scales)
        self.places = make(
            sequences,
            frames=frames,
            objects=objects,
            shape=shape,
            margin=margin,
            foreground_probability=foreground_probability,
            seed=seed,
        )

    def _refuse_short(self, length: int, frames: Sequence[Sequence[int]]) -> None:
        if any(frames):
            return
        longest = max((len(run) for runs in self.runs for run in runs), default=0)
        if not longest:
            return  # there is no frame at all, which `Places` says
        raise InputError(
            f"clips have {length} frames, but {self.sequences[0].name} and the other sequences have at most {longest} "
            f"annotated ones in a row to train on: set --config.clips.frames to {longest} or less, or copy what lacks"
        )

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads a batch: all reads are under way before the first is waited for."""
        samples = [self._frames(int(index)) for index in indices]
        pending = [(request, self._start(request)) for requests in samples for request in requests]
        images, labels = zip(*(self._finish(*one) for one in pending), strict=True)
        clip = () if self.clip is None else (self.clip.frames,)
        leading = (len(samples), *clip)
        image, label = np.stack(images), np.stack(labels)
        batch = {
            "image": image.reshape(*leading, *image.shape[1:]),
            "labels": label.reshape(*leading, *label.shape[1:]),
            "spacing": np.array([self._spacing(requests[0]) for requests in samples], np.float32),
            "sample": np.asarray(indices).astype(np.uint32),
        }
        if self.categories is not None:
            batch["category"] = self.categories[[requests[0].sequence for requests in samples]]
        return batch

    def _frames(self, index: int) -> list[Request]:
        """Returns where the frames of a sample lie."""
        if self.clip is None:
            return [self.places.request(index)]
        s, t = self.places.frame(index)
        random = self.places.random(_CLIPS, index)
        skip = int(random.integers(1, self.clip.max_skip + 1))
        run = next(run for run in self.runs[s] if t in run)
        skip = min(skip, (run[-1] - t) // max(self.clip.frames - 1, 1)) or 1
        backwards = random.random() < self.clip.reverse_probability
        # Around a cell of the clip's middle.
        request = self.places.request(index, later=skip * (self.clip.frames // 2))
        frames = [t + k * skip for k in range(self.clip.frames)]
        return [request._replace(t=t) for t in (reversed(frames) if backwards else frames)]

    def _spacing(self, request: Request) -> np.ndarray:
        """(ndim,) size of a voxel as it is shown."""
        sequence = self.sequences[request.sequence]
        spacing = np.array(sequence.spacing_um[3 - self.ndim :])
        if not (self.whole or self.scaled):
            return spacing
        shown = sequence.shape if self.whole else self.places.window(request.sequence, request.t)[0]
        return spacing * np.array(shown[-self.ndim :]) / self.shape[-self.ndim :]

    def _start(self, request: Request) -> dict[str, Any]:
        sequence = self.sequences[request.sequence]
        reads = {"image": sequence.image[(request.t, slice(None), *self.places.inside(request))].read()}
        around = self.places.inside(request, self._halo(request))
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
        outside = self.places.outside(request)
        image = normalise.normalise(reads["image"].result(), sequence.percentiles[t])
        labels, count = unknown.dense(self._labels(request, reads))
        if any(before or after for before, after in outside):
            image = np.pad(image, [(0, 0), *outside], mode="reflect")
            labels = np.pad(labels, outside, constant_values=-1)
        if self.whole or self.scaled:
            size = (self.shape[1], self.shape[2])
            image = resize.resize_on_host(image[:, 0], size)[:, None]
            # Small cells may lose their only pixels.
            labels, count = unknown.dense(resize.resize_labels(labels[0], size)[None])
        if count >= self.max_cells:
            where = f"sequence {sequence.name}, frame {sequence.frames[t]}"
            self.left_out.count(where, count, self.max_cells - 1)
            labels = keep_largest(labels, self.max_cells - 1)
        image = np.moveaxis(image, 0, -1)
        return (image[0], labels[0]) if self.ndim == 2 else (image, labels)

    def _labels(self, request: Request, reads: dict[str, Any]) -> np.ndarray:
        """Returns the labels of the part of the crop that lies in the frame, -1 where unknown."""
        sequence, t = self.sequences[request.sequence], request.t
        inside, around = self.places.inside(request), self.places.inside(request, self._halo(request))
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


def _numbers(sequences: Sequence[StoredSequence], categories: Sequence[str]) -> np.ndarray:
    """Returns (sequences,) int32, the place of each one's category, -1 for none."""
    for sequence in sequences:
        if sequence.category not in (None, *categories):
            raise InputError(
                f"{sequence.name} is of the category {sequence.category!r}, the config has {', '.join(categories)}: "
                "add it to config.data.categories, or prepare a store without it (--sequences)"
            )
    known = [None, *categories]
    return np.array([known.index(sequence.category) - 1 for sequence in sequences], np.int32)


def _runs(numbers: np.ndarray, used: Sequence[int]) -> list[range]:
    """Returns the runs of indices of frames to use whose numbers follow each other."""
    kept, present = sorted(used), set(used)
    starts = [t for t in kept if t - 1 not in present or numbers[t] != numbers[t - 1] + 1]
    ends = [t for t in kept if t + 1 not in present or numbers[t + 1] != numbers[t] + 1]
    return [range(first, last + 1) for first, last in zip(starts, ends, strict=True)]


def _firsts(runs: Sequence[range], length: int) -> list[int]:
    """Returns the frames at which a clip may begin."""
    return [t for run in runs for t in run[: max(0, len(run) - length + 1)]]
