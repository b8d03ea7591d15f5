"""Dense prediction: crops of frames -> a map of cells, judged on whole held-out frames.

Shapes: B batch, S spatial axes (Y, X in 2D; Z, Y, X in 3D), R the read size (S plus margins), C channels.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from celltrack_jax import models, representations
from celltrack_jax.config import Config, from_mapping
from celltrack_jax.data import augment, normalise, pipeline, store
from celltrack_jax.data.annotation import KINDS
from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics import ctc, instances
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tracking import features, links, tracks

HEAD = "cells"
"""Name of the network's head."""


def build(config: Config) -> "DenseTask":
    """Makes the task from a config."""
    return DenseTask(config)


class DenseTask:
    """Learns one representation of the cells from crops; the Task protocol of `celltrack_jax.tasks`."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: reads seed, data, augment, model, representation, evaluation, tracking.
        """
        self.config = config
        self.crop = tuple(config.data.crop)
        self.ndim = len(self.crop)
        self.channels = config.data.channels
        self.representation = representations.build(**config.representation.to_dict())
        if config.representation.get("max_cells", config.data.max_cells) != config.data.max_cells:
            raise InputError(
                f"representation.max_cells is {config.representation.max_cells} and data.max_cells "
                f"{config.data.max_cells}: set data.max_cells alone, the other one follows it"
            )
        self.augmentation = from_mapping(augment.AugmentSpec, config.augment.to_dict(), "augment")
        network = nnx.eval_shape(lambda: self.model(nnx.Rngs(0)))
        self.stride, self.halo = network.stride, network.receptive_radius
        self._forward = jax.jit(self._predict, static_argnums=0)
        if any(size % stride for size, stride in zip(self.crop, self.stride, strict=True)):
            raise InputError(f"data.crop {self.crop} is not a multiple of the model's stride {self.stride}")
        space = config.mesh.space
        if space > 1 and self.crop[0] % (space * self.stride[0]):
            # Where a coarse level splits unevenly, the partitioner (jax 0.10.2) makes gradients that are wrong by half
            # a percent of the largest, at the same loss.
            raise InputError(
                f"data.crop {self.crop} over mesh.space={space}: its first axis has to be a multiple of "
                f"{space * self.stride[0]}, so that each level of the network splits evenly"
            )

    def model(self, rngs: nnx.Rngs) -> Any:
        """Returns the network, (B, *S, C) -> {"cells": (B, *S, representation.channels)}."""
        settings = self.config.model.to_dict()
        heads = {HEAD: self.representation.channels}
        return models.build(settings.pop("name"), rngs, in_channels=self.channels, heads=heads, **settings)

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the global batch."""
        batch, read = self.config.data.batch_size, self._read_size()
        return {
            "image": jax.ShapeDtypeStruct((batch, *read, self.channels), jnp.float32),
            "labels": jax.ShapeDtypeStruct((batch, *read), jnp.int32),
            "spacing": jax.ShapeDtypeStruct((batch, self.ndim), jnp.float32),
            "sample": jax.ShapeDtypeStruct((batch,), jnp.uint32),
        }

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process, drawn from the frames that are not held out."""
        data = self.config.data
        return pipeline.crops(
            self._sequences,
            shape=self._read_size(),
            margin=data.margin,
            ndim=self.ndim,
            frames=[self._split(sequence)[0] for sequence in self._sequences],
            batch_size=data.batch_size,
            process=process,
            foreground_probability=data.foreground_probability,
            unknown_radius_um=data.unknown_diameters * (data.diameter_um or self._diameter_um()),
            max_cells=data.max_cells,
            silver=data.silver,
            seed=self.config.seed,
        )

    def loss(
        self,
        apply: Callable[[jax.Array], tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Augments, makes targets, predicts and compares; all on the device."""

        def prepare(image: jax.Array, labels: jax.Array, spacing: jax.Array, key: jax.Array) -> Any:
            image, labels = augment.augment(image, labels, key, size=self.crop, spec=self.augmentation)
            return image, self.representation.target(labels, spacing / jnp.min(spacing))

        image, target = jax.vmap(prepare)(batch["image"], batch["labels"], batch["spacing"], keys)
        outputs, stats = apply(image)
        value, metrics = self.representation.loss(outputs[HEAD], target, step)
        return value, stats, metrics

    def predictor(self, model: FunctionalModel, variables: Variables) -> Callable[[Any], jax.Array]:
        """Returns the compiled network, (B, *S, C) normalised float32 -> (B, *S, representation.channels)."""
        return lambda image: self._forward(model, variables, image)

    @staticmethod
    def _predict(model: FunctionalModel, variables: Variables, image: jax.Array) -> jax.Array:
        return model.apply(variables, image)[0][HEAD]

    @staticmethod
    def lengths(spacing_um: np.ndarray) -> np.ndarray:
        """Returns voxel sizes (ndim,) in units of the smallest: what the representation's lengths count in.

        They then mean the same whether or not the microscope's spacing is known; anisotropy is kept.
        """
        return np.asarray(spacing_um, np.float64) / np.min(spacing_um)

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Scores held-out frames: CTC and instance measures, for the images as they are and with less contrast."""
        forward = self.predictor(model, variables)
        scores: dict[str, float | None] = {}
        for contrast in self.config.evaluation.contrasts:
            rows = []
            for sequence in self._sequences:
                row = self._score(sequence, forward, contrast, stop)
                if stop():
                    return None
                rows += [row] if row else []
            prefix = "" if contrast == 1 else f"contrast_{contrast:g}/"
            for key in rows[0] if rows else ():
                values = [row[key] for row in rows if row[key] is not None]
                scores[prefix + key] = float(np.mean(values)) if values else None
        # Held-out frames may lack outlines or tracks: what is judged of OP_CTB's two halves decides then.
        halves = [v for k, v in scores.items() if k.rsplit("/")[-1] in ("SEG", "TRA") and v is not None]
        scores["score"] = float(np.mean(halves)) if halves else None
        return scores

    def _score(
        self, sequence: store.StoredSequence, forward: Callable, contrast: float, stop: Callable[[], bool]
    ) -> dict[str, float | None] | None:
        held_out = self._split(sequence)[1][: self.config.evaluation.max_frames]
        if not held_out:
            return None
        labelled = list(self._segment(sequence, held_out, forward, contrast, stop))
        if stop() or not labelled:
            return None
        spacing = np.asarray(sequence.spacing_um)
        found = features.detections_from_masks(labelled, spacing)
        parent = links.hungarian(found, **self.config.tracking.to_dict())
        painter = tracks.TrackPainter(
            found, parent, [t for t, _ in labelled], spacing, fill_gaps=True, min_length=1
        )
        painted = {t: painter.paint(t, labels) for t, labels in labelled}
        return _measures(sequence, held_out, painted, painter.lineage(), self._window(sequence))

    def _segment(
        self,
        sequence: store.StoredSequence,
        frames: list[int],
        forward: Callable,
        contrast: float,
        stop: Callable[[], bool],
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (frame number, labels) of the evaluation window; decoding overlaps the next forward pass."""
        window = self._window(sequence)
        spacing = self.lengths(np.asarray(sequence.spacing_um)[-self.ndim :])

        def predictions() -> Iterator[tuple[int, jax.Array]]:
            for t in frames:
                if stop():
                    return
                image = np.moveaxis(_normalised(sequence, t, window, contrast), 0, -1)
                image = image[0] if self.ndim == 2 else image
                pads = [(0, -size % stride) for size, stride in zip(image.shape, self.stride, strict=False)]
                yield t, forward(np.pad(image, [*pads, (0, 0)], mode="symmetric")[None])

        inside = tuple(slice(part.stop - part.start) for part in window[-self.ndim :])

        def decode(predicted: tuple[int, jax.Array]) -> tuple[int, np.ndarray]:
            t, prediction = predicted
            labels = self.representation.decode(np.asarray(prediction[0])[inside], spacing)
            return int(sequence.frames[t]), labels

        yield from threads.mapped(decode, predictions(), 2)

    def _window(self, sequence: store.StoredSequence) -> tuple[slice, ...]:
        """The part of a frame that is judged: the centre, at most `evaluation.window` voxels per axis."""
        sizes = sequence.shape[2:]
        limit = (1,) * (3 - self.ndim) + tuple(self.config.evaluation.window)
        starts = [max(0, (size - most) // 2) for size, most in zip(sizes, limit, strict=True)]
        return tuple(
            slice(start, start + min(size, most))
            for start, size, most in zip(starts, sizes, limit, strict=True)
        )

    def _read_size(self) -> tuple[int, ...]:
        margin = self.config.data.margin
        return tuple(size + 2 * extra for size, extra in zip(self.crop, margin, strict=True))

    @functools.cached_property
    def _sequences(self) -> list[store.StoredSequence]:
        if not self.config.data.store:
            raise InputError("no data: give --config.data.store=<folder that launch.prepare wrote>")
        sequences = store.open_store(self.config.data.store)
        for sequence in sequences:
            if not sequence.has_images:
                raise InputError(
                    f"{sequence.name} has no images: a segmenter needs them; copy them beside the annotation, and "
                    "prepare another store"
                )
            if sequence.shape[1] != self.channels:
                raise InputError(
                    f"{sequence.name} has {sequence.shape[1]} channels, the config {self.channels}: "
                    f"set --config.data.channels={sequence.shape[1]}"
                )
        return sequences

    def _diameter_um(self) -> float:
        """Median diameter of the outlined cells, as discs in 2D movies and balls in stacks."""
        diameters = []
        for sequence in self._sequences:
            outlined = sequence.foreground[:, 6] != KINDS.index("markers")
            size = sequence.foreground[outlined, 5] * float(np.prod(sequence.spacing_um[1:]))
            if sequence.shape[2] == 1:
                diameters.append(2 * np.sqrt(size / math.pi))
            else:
                diameters.append(np.cbrt(6 * size * sequence.spacing_um[0] / math.pi))
        every = np.concatenate(diameters)
        if len(every):
            return float(np.median(every))
        if all(kind in ("none", "full") for sequence in self._sequences for kind in sequence.annotation):
            return 0.0  # nothing is unknown
        raise InputError(
            f"{self.config.data.store} holds no outlined cell that would tell how far a marked one reaches: "
            "give --config.data.diameter_um=<a cell's diameter>"
        )

    def _split(self, sequence: store.StoredSequence) -> tuple[list[int], list[int]]:
        """Frames to train on and held-out ones, ascending.

        Held out are the last `evaluation.holdout` of those that are annotated, and of those that are outlined: where
        only the middle of a movie is outlined, its end alone would not tell how good outlines are. In a store of
        single images, whose sequences are too short to divide, the last images are held out.
        """
        annotated = {each.name: self._annotated(each) for each in self._sequences}
        if not any(self._last(frames) for frames in annotated.values()):
            every = [(name, t) for name, frames in annotated.items() for t in frames]
            held = {t for name, t in self._last(every) if name == sequence.name}
        else:
            frames = annotated[sequence.name]
            held = {*self._last(frames), *self._last([t for t in frames if self._outlined(sequence, t)])}
        return [t for t in annotated[sequence.name] if t not in held], sorted(held)

    def _last(self, items: list) -> list:
        return items[len(items) - math.floor(len(items) * self.config.evaluation.holdout) :]

    def _outlined(self, sequence: store.StoredSequence, t: int) -> bool:
        silver = self.config.data.silver and _labelled(sequence, "silver", t)
        return silver or _labelled(sequence, "segmentation", t)

    def _annotated(self, sequence: store.StoredSequence) -> list[int]:
        kinds = sequence.annotation_silver if self.config.data.silver else sequence.annotation
        return [t for t, kind in enumerate(kinds) if kind != "none"]


def less_contrast(image: np.ndarray, contrast: float, seed: int) -> np.ndarray:
    """Scales the signal about the background and adds the noise that scaling took away.

    Args:
      image: (C, Z, Y, X) counts; integers are rounded again, which in 8 bits is most of the noise.
      contrast: factor; 1 changes nothing.
      seed: of the added noise.

    Returns:
      (C, Z, Y, X) float32 with the background's noise as before and the signal `contrast` times as strong.
    """
    if contrast == 1:
        return image.astype(np.float32)
    axes = (1, 2, 3)
    counts, image = image.dtype.kind in "iu", image.astype(np.float32)
    background = np.median(image, axes, keepdims=True)
    # The spread of the darker half is the background's noise: cells are brighter than it.
    noise = (background - np.percentile(image, 15.9, axes, keepdims=True)) * math.sqrt(1 - contrast**2)
    random = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    dim = background + contrast * (image - background) + noise * random
    return np.rint(dim) if counts else dim


def _measures(
    sequence: store.StoredSequence,
    frames: list[int],
    result: dict[int, np.ndarray],
    lineage: Lineage,
    window: tuple[slice, ...],
) -> dict[str, float | None]:
    """CTC measures from the tracking markers, instance measures from fully segmented frames."""
    tracking, segmentation, complete = [], [], []
    for t in frames:
        number = int(sequence.frames[t])
        found = result[number].reshape([part.stop - part.start for part in window])
        if _labelled(sequence, "markers", t):
            tracking.append(ctc.overlap(_truth(sequence, "markers", t, window), found, number))
        planes = _annotated_planes(sequence, t, window)
        if _labelled(sequence, "segmentation", t) and planes:
            truth = _truth(sequence, "segmentation", t, window)
            segmentation.append(ctc.overlap(truth[planes], found[planes], number))
            if sequence.annotation[t] == "full":
                complete.append(segmentation[-1])
    truth_lineage = _seen(tracking, sequence.lineage)
    scores = ctc.ctc_measures(tracking or None, truth_lineage, lineage, segmentation or None)
    chosen = {key: scores[key] for key in ("SEG", "DET", "TRA", "LNK", "OP_CSB", "OP_CTB")}
    if complete:
        whole = instances.instance_measures(complete, thresholds=(0.5, 0.75))
        chosen |= {"AP50": whole["AP"][0.5], "F1_50": whole["F1"][0.5], "PQ": whole["PQ"]}
    return chosen


def _normalised(
    sequence: store.StoredSequence, t: int, window: tuple[slice, ...], contrast: float
) -> np.ndarray:
    """Returns the window of a frame, (C, *window) float32, scaled by the percentiles of the whole frame."""
    if contrast == 1:
        image = np.asarray(sequence.image[(t, slice(None), *window)].read().result())
        return normalise.normalise(image, sequence.percentiles[t])
    frame = less_contrast(np.asarray(sequence.image[t].read().result()), contrast, seed=t)
    return normalise.normalise(frame[(slice(None), *window)], normalise.percentiles(frame))


def _labelled(sequence: store.StoredSequence, kind: str, t: int) -> bool:
    return kind in sequence.labelled and bool(sequence.labelled[kind][t])


def _truth(sequence: store.StoredSequence, kind: str, t: int, window: tuple[slice, ...]) -> np.ndarray:
    return np.asarray(sequence.labels[kind][(t, 0, *window)].read().result(), np.int64)


def _annotated_planes(sequence: store.StoredSequence, t: int, window: tuple[slice, ...]) -> list[int]:
    """Returns the segmented planes of a frame, counted from the window's first one."""
    shown = range(window[0].start, window[0].stop)
    return [z - shown.start for z in sequence.planes.get(t, shown) if z in shown]


def _seen(overlaps: list[Any], lineage: Lineage | None) -> Lineage | None:
    """Cuts a lineage to what the judged windows show: tracks by their first and last seen frame."""
    if lineage is None or not overlaps:
        return None
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for overlap in overlaps:
        for label in overlap.ref_label.tolist():
            first.setdefault(label, overlap.frame)
            last[label] = overlap.frame
    parents = dict(zip(lineage.label.tolist(), lineage.parent.tolist(), strict=True))
    rows = []
    for label, begin in first.items():
        parent = parents.get(label, 0)
        rows.append((label, begin, last[label], parent if parent in last and last[parent] < begin else 0))
    return Lineage.from_rows(rows)
