"""Detection: crops of frames -> a heat map of points, judged on whole held-out frames, or on another store.

Shapes: B batch, S spatial axes (Y, X in 2D; Z, Y, X in 3D), D of them, R the read size (S plus margins), K cells of a
crop, C channels.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.config import Config, from_mapping
from celltrack_jax.data import augment, edges, point_crops, store
from celltrack_jax.data.inputs import Input, present, read_inputs
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.representations import PointRepresentation, Target
from celltrack_jax.tasks import point_scores
from celltrack_jax.tasks.frames import HEAD, FrameTask, labelled
from celltrack_jax.tasks.point_scores import LINKERS, PointFrame
from celltrack_jax.tracking.sisters import Sisters

UNITS = ("px", "um")
_ROWS = 128
OWN = "own"
"""The decoder of the representation itself: its scores have no prefix."""


def build(config: Config) -> "DetectTask":
    """Makes the task from a config."""
    return DetectTask(config)


class DetectTask(FrameTask):
    """Learns where cells are from points; the Task protocol of `celltrack_jax.tasks`."""

    representation: PointRepresentation

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: reads seed, data, augment, model, representation, evaluation, tracking.
        """
        super().__init__(config)
        if not isinstance(self.representation, PointRepresentation) or self.representation.axes != self.ndim:
            raise InputError(
                f'config.representation: the task "detect" needs one that learns from points, as "heatmap" does, with '
                f"axes={self.ndim}, as many as data.crop has"
            )
        self.around: tuple[int, ...] = tuple(getattr(self.representation, "around", ()))
        """Offsets of other frames whose points are targets too."""
        if config.data.unit not in UNITS:
            raise InputError(f"data.unit is {config.data.unit!r}: one of {UNITS}")
        if not 0 < config.data.fraction <= 1:
            raise InputError(f"data.fraction is {config.data.fraction}: a share of the frames, in (0, 1]")
        cut_px, margin = config.data.cut_px, tuple(config.data.margin)
        if not 0 <= 2 * cut_px < min(self.crop[-2:]):
            raise InputError(
                f"data.cut_px is {cut_px}: set it to a cell's radius, less than half of data.crop {self.crop}, or to 0"
            )
        if cut_px and min(margin[-2:]) < 1:
            raise InputError(
                f"data.cut_px {cut_px} asks what lies beyond a crop, but data.margin {margin} reads none of it: set "
                "that to 1 or more, or data.cut_px to 0"
            )
        _check_evaluation(config, self.representation)
        if config.evaluation.sisters:
            if config.data.unit != "um":
                raise InputError("evaluation.sisters are in µm: set data.unit to 'um', or sisters to {}")
            from_mapping(Sisters, config.evaluation.sisters.to_dict(), "evaluation.sisters")
        kind, settings = type(self.representation), dataclasses.asdict(self.representation)
        self.decoders: dict[str, PointRepresentation] = {
            name: from_mapping(kind, settings | changes, f"evaluation.decoders.{name}")
            for name, changes in {OWN: {}, **config.evaluation.decoders.to_dict()}.items()
        }

    def _inputs(self) -> tuple[Input, ...]:
        return read_inputs(self.config.data.inputs, self.channels)

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the global batch."""
        batch, read = self.config.data.batch_size, self._read_size()
        points = (batch, self.config.data.max_cells, self.ndim)
        around = (batch, len(self.around), *points[1:])
        return {
            "image": jax.ShapeDtypeStruct((batch, *read, len(self.inputs)), jnp.float32),
            "labels": jax.ShapeDtypeStruct((batch, *read), jnp.int32),
            "points": jax.ShapeDtypeStruct(points, jnp.float32),
            "steps": jax.ShapeDtypeStruct(points, jnp.float32),
            **({"around": jax.ShapeDtypeStruct(around, jnp.float32)} if self.around else {}),
            "spacing": jax.ShapeDtypeStruct((batch, self.ndim), jnp.float32),
            "sample": jax.ShapeDtypeStruct((batch,), jnp.uint32),
        }

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process, drawn from the frames that are not held out."""
        data = self.config.data
        return point_crops.crops(
            self._sequences,
            shape=self._read_size(),
            margin=data.margin,
            frames=self._taught(),
            batch_size=data.batch_size,
            process=process,
            foreground_probability=data.foreground_probability,
            max_cells=data.max_cells,
            seed=self.config.seed,
            inputs=self.inputs,
            around=self.around,
        )

    def loss(
        self,
        apply: Callable[..., tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Augments image and points, makes targets, predicts and compares; all on the device."""
        image, target = jax.vmap(self.prepared)({key: batch[key] for key in batch if key != "sample"}, keys)
        outputs, stats = self._outputs(apply, image, keys)
        value, metrics = self.representation.loss(outputs[HEAD], target, step)
        return value, stats, metrics

    def prepared(self, one: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Target]:
        """Augments one sample and makes its target.

        Args:
          one: of `batch_spec`, without the axis of samples.
          key: random.

        Returns:
          image (*S, C) float32, and the representation's target.
        """
        cut_px = self.config.data.cut_px
        rim = (*(0,) * (self.ndim - 2), 1, 1) if cut_px else (0,) * self.ndim
        size = tuple(length + 2 * extra for length, extra in zip(self.crop, rim, strict=True))
        moved = augment.geometry(one["labels"].shape, key, size=size, spec=self.augmentation)
        image, known = moved.image(one["image"]), moved.labels(one["labels"])
        if cut_px:
            image, known = image[..., 1:-1, 1:-1, :], edges.without_cut_cells(known, cut_px)
        image = augment.light(image, key, spec=self.augmentation)
        points, after = moved.points(jnp.stack([one["points"], one["points"] + one["steps"]]))
        first = jnp.array(rim, points.dtype)
        spacing = one["spacing"]
        if self.config.data.unit == "px":
            spacing = spacing / jnp.min(spacing)
        more = (moved.points(one["around"]) - first,) if self.around else ()
        target = self.representation.point_target(points - first, after - points, known, spacing, *more)
        return image, target

    @property
    def needs_spacing(self) -> bool:
        """Whether movies have to say how large a voxel is: where lengths are in µm."""
        return self.config.data.unit == "um"

    def lengths(self, spacing_um: np.ndarray) -> np.ndarray:
        """Returns voxel sizes (D,) in the unit of the representation's lengths: `data.unit`, pixels being the smallest.

        Args:
          spacing_um: (D,).
        """
        return (
            np.asarray(spacing_um, np.float64)
            if self.config.data.unit == "um"
            else super().lengths(spacing_um)
        )

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Scores held-out frames, once per decoder, and, where wanted, the decoders on the true maps themselves."""
        forward = self.predictor(model, variables)
        decoders, scores = self.decoders, {}
        if self.config.evaluation.calibrate:
            decoders = self._calibrated(forward, stop)
            scores |= {f"{_prefix(name)}threshold": each.threshold for name, each in decoders.items()}
        judged: dict[str, list[list[PointFrame]]] = {}
        for sequence, frames in self._judged():
            movie: dict[str, list[PointFrame]] = {}
            for t, output in self._predictions(sequence, frames, forward, 1.0, stop):
                predicted, markers = output(), self._markers(sequence, t)
                read = {name: self._frame(sequence, t, predicted, each) for name, each in decoders.items()}
                if self.config.evaluation.oracle:
                    true_map = self._true_map(sequence, t)
                    for name, each in self.decoders.items():
                        read[f"{name}/oracle"] = self._frame(sequence, t, true_map, each)
                for name, frame in read.items():
                    movie.setdefault(name, []).append(frame._replace(markers=markers))
            if stop():
                return None
            for name, found in movie.items():
                judged.setdefault(name, []).append(found)
        for name, movies in judged.items():
            measures = point_scores.measures(
                movies, self.config.evaluation.to_dict(), self.config.tracking.to_dict()
            )
            scores |= {_prefix(name) + key: value for key, value in measures.items()}
        scores["score"] = scores.get(f"F1_{self.config.evaluation.radius:g}")
        return scores

    def _calibrated(self, forward: Callable, stop: Callable[[], bool]) -> dict[str, PointRepresentation]:
        """Chooses the threshold of each decoder on some of the frames that were trained on."""
        evaluation = self.config.evaluation
        every = [(s, t) for s, frames in enumerate(self._taught()) for t in frames]
        if not every:
            raise InputError(
                f"evaluation.calibrate is {evaluation.calibrate}, but {self.config.data.store} has no frame to train on, "
                "by which thresholds would be chosen: set it to 0, or evaluation.holdout lower"
            )
        chosen = [every[k] for k in np.linspace(0, len(every) - 1, evaluation.calibrate).astype(int)]
        found: dict[tuple[str, float], list[PointFrame]] = {}
        for s, t in chosen:
            for _, output in self._predictions(self._sequences[s], [t], forward, 1.0, stop):
                predicted = output()
                for name, each in self.decoders.items():
                    for threshold in evaluation.thresholds if each.has_threshold else ():
                        arm = dataclasses.replace(each, threshold=threshold)
                        frame = self._frame(self._sequences[s], t, predicted, arm)
                        found.setdefault((name, threshold), []).append(frame)
        best: dict[str, tuple[float, float]] = {}
        for (name, threshold), frames in found.items():
            f1 = point_scores.f1(frames, evaluation.radius)
            best[name] = max(best.get(name, (-1.0, 0.0)), (f1, threshold))
        return {
            name: dataclasses.replace(each, threshold=best[name][1]) if name in best else each
            for name, each in self.decoders.items()
        }

    def _frame(
        self, sequence: store.StoredSequence, t: int, output: np.ndarray, decoder: PointRepresentation
    ) -> PointFrame:
        spacing = np.asarray(sequence.spacing_um)[-self.ndim :]
        lengths = self.lengths(spacing)
        found = decoder.points(output, lengths)
        row, position = self._points(sequence, t)
        return PointFrame(
            frame=int(sequence.frames[t]),
            truth=position,
            label=sequence.points[row, 4].astype(np.int64),
            found=found.position.astype(np.float64),
            step=None if found.step is None else found.step / lengths,
            pixel=lengths,
            markers=None,
            lineage=sequence.lineage,
        )

    def _markers(self, sequence: store.StoredSequence, t: int) -> np.ndarray | None:
        """(*S) labels of the evaluation window, where cells are marked by areas."""
        if not labelled(sequence, "markers", t):
            return None
        window = self._window(sequence)
        markers = np.asarray(sequence.labels["markers"][(t, 0, *window)].read().result())
        return markers.reshape([part.stop - part.start for part in window[-self.ndim :]])

    def _points(self, sequence: store.StoredSequence, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Points of a frame that lie in the evaluation window: rows (n,) of the table, and their index (n, D) in it."""
        row = np.flatnonzero(sequence.points[:, 0] == t)
        window = self._window(sequence)
        position = sequence.points[row, 1:4] - [part.start for part in window]
        size = np.array([part.stop - part.start for part in window])
        inside = ((position >= -0.5) & (position < size - 0.5)).all(1)
        return row[inside], position[inside, -self.ndim :]

    def _true_map(self, sequence: store.StoredSequence, t: int) -> np.ndarray:
        """What a perfect network answers for the evaluation window of a frame: (*S, channels)."""
        row, position = self._points(sequence, t)
        steps = point_crops.steps(sequence)[row, -self.ndim :]
        times = [present(sequence.frames, t, offset) for offset in self.around]
        times = [time if sequence.pointed[time] else t for time in times]
        tables = [position, steps, *(self._points(sequence, time)[1] for time in times)]
        # Few sizes, for each is a program.
        most = max(1, *map(len, tables))
        padded = np.full((len(tables), -(-most // _ROWS) * _ROWS, self.ndim), np.nan, np.float32)
        for into, table in zip(padded, tables, strict=True):
            into[: len(table)] = table
        window = self._window(sequence)[-self.ndim :]
        known = np.zeros([part.stop - part.start for part in window], np.int32)
        spacing = self.lengths(np.asarray(sequence.spacing_um)[-self.ndim :]).astype(np.float32)
        more = (padded[2:],) if self.around else ()
        return np.asarray(self._oracle(*padded[:2], known, spacing, *more))

    @functools.cached_property
    def _oracle(self) -> Callable[..., jax.Array]:
        return jax.jit(lambda *given: self.representation.perfect(self.representation.point_target(*given)))

    def _judged(self) -> Iterator[tuple[store.StoredSequence, list[int]]]:
        """Yields sequences and those of their frames that are judged."""
        evaluation = self.config.evaluation
        pairs = [(one, frames[: evaluation.max_frames]) for one, frames in self._held_out() if frames]
        yield from pairs[: evaluation.max_sequences]

    def _taught(self) -> list[list[int]]:
        """Frames to train on, by sequence, or an even share of them."""
        data, frames = self.config.data, super()._taught()
        every = [(s, t) for s, taught in enumerate(frames) for t in taught]
        kept = (
            {every[int(k / data.fraction)] for k in range(max(1, int(len(every) * data.fraction)))}
            if every
            else set()
        )
        return [[t for t in taught if (s, t) in kept] for s, taught in enumerate(frames)]

    def _opened(self, path: str) -> list[store.StoredSequence]:
        """Opens a store of which some frames have points."""
        sequences = super()._opened(path)
        unknown = [one.name for one in sequences if not one.spacing_known]
        if self.needs_spacing and unknown:
            raise InputError(
                f"{path}: the size of a voxel of {unknown[0]} is not known, and data.unit is 'um': prepare it again with "
                "--spacing=z,y,x"
            )
        kernel = getattr(self.representation, "kernel", None)
        for one in sequences if kernel is not None and set(kernel.spacing) != {1.0} else ():
            size = self.lengths(np.asarray(one.spacing_um)[-self.ndim :])
            if not np.allclose(kernel.spacing, size, rtol=0.01):
                raise InputError(
                    f"{path}: voxels of {one.name} are {_shown(size)} large, but representation.kernel.spacing is "
                    f"{_shown(kernel.spacing)}: set it to theirs, or to ones for sigmas in voxels"
                )
        if not any(one.pointed.any() for one in sequences):
            raise InputError(
                f"{path}: of no frame is every cell known as a point, so there is nothing to detect: prepare a store of "
                "boxes, of markers, or of masks that are complete"
            )
        return sequences

    def _annotated(self, sequence: store.StoredSequence) -> list[int]:
        return np.flatnonzero(sequence.pointed).tolist()


def _check_evaluation(config: Config, representation: PointRepresentation) -> None:
    """Raises InputError for what would be left out of the scores without a word."""
    evaluation = config.evaluation
    if evaluation.radius not in evaluation.radii:
        raise InputError(
            f"evaluation.radius {evaluation.radius} is none of evaluation.radii {evaluation.radii}: the score is the F1 "
            "within it, so add it there"
        )
    distances = tuple(evaluation.density_edges)
    if any(low >= high for low, high in itertools.pairwise((0, *distances))):
        raise InputError(
            f"evaluation.density_edges {distances}: give positive distances that ascend, or () for none"
        )
    if evaluation.original_rules and representation.axes != 3:
        raise InputError(
            "evaluation.original_rules are of stacks: set it to False where data.crop has two axes"
        )
    unknown = [name for name in evaluation.linkers if name not in LINKERS]
    if unknown:
        raise InputError(f"evaluation.linkers {unknown}: take them of {LINKERS}")
    if "steps" in evaluation.linkers and not representation.learns_steps:
        raise InputError(
            'evaluation.linkers "steps" follows steps that are not learned: set representation.step_weight, to 0.1 for '
            "instance, or leave that linker out"
        )


def _shown(sizes: Iterable[float]) -> str:
    return ",".join(f"{size:g}" for size in sizes)


def _prefix(name: str) -> str:
    return "".join(f"{part}/" for part in name.split("/") if part != OWN)
