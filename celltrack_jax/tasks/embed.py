"""Embedding: crops of cells -> unit vectors that are alike for one cell in several frames, judged by retrieval.

Shapes: N crops of a movie, B of a batch, S axes of a crop, K components of an embedding.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from celltrack_jax import models
from celltrack_jax.config import Config, from_mapping
from celltrack_jax.data import augment, cell_crops, places, store
from celltrack_jax.data.cell_crops import CropSpec, FrameEmbedder
from celltrack_jax.data.per_track import PerTrack
from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.lineage import Detections
from celltrack_jax.metrics import retrieval
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.ops import crops, similarity
from celltrack_jax.tracking.cells import MAX, MIN, Cells, measure_cells, select

_CHUNKS = (16, 64, 256)
"""Cells that are embedded at a time; a program is compiled for each."""
_COLUMN = {"segmentation": 2, "silver": 3}
"""Of `StoredSequence.coverage`, which tells the marker, and so the track, of each object."""
_KINDS = ("markers", *_COLUMN)
LOSSES = ("multi_similarity", "circle", "triplet")
"""Of `ops.similarity`."""
_MOVES = ("flip", "rot90", "affine", "elastic")
_LOOKS = ("gamma", "blur", "contrast", "noise", "renormalise", "brightness")
"""Kinds of augmentation: what moves voxels, and what changes their values."""


class Gallery(NamedTuple):
    """Crops of the tracked cells of all movies, by movie, frame and label."""

    values: np.ndarray
    """(N, *S) float16, as `Crops.values`: intensities on the common scale, neighbours' too."""
    inside: np.ndarray
    """(N, *S) bool."""
    track: np.ndarray
    """(N,) int32, numbers of tracks from 0, over all movies."""
    late: np.ndarray
    """(N,) bool, whether the frame is in the last part of its movie."""

    def select(self, index: np.ndarray) -> "Gallery":
        """Returns some of the crops."""
        return Gallery(*(column[index] for column in self))


def build(config: Config) -> "EmbedTask":
    """Makes the task from a config."""
    return EmbedTask(config)


class EmbedTask:
    """Learns to tell cells apart; the Task protocol of `celltrack_jax.tasks`."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: reads seed, data, crops, augment, model, loss, train.accumulate, evaluation.

        Raises:
          InputError: parts of it do not go together.
        """
        self.config = config
        self.crops = from_mapping(CropSpec, config.crops.to_dict(), "crops")
        augmentation = from_mapping(augment.AugmentSpec, config.augment.to_dict(), "augment")
        self.moves, self.looks = (
            replace(augmentation, **{f"{kind}_probability": 0.0 for kind in off}) for off in (_LOOKS, _MOVES)
        )
        self.ndim = self.crops.ndim
        self.outputs = int(config.model.outputs)
        self._compare = _loss_of(**config.loss.to_dict())
        data = config.data
        if data.classes < 2 or data.per_class < 2 or data.batch_size != data.classes * data.per_class:
            raise InputError(
                f"data.batch_size {data.batch_size} has to be data.classes {data.classes} times data.per_class "
                f"{data.per_class}, both at least 2"
            )
        if config.train.accumulate > 1:
            raise InputError(
                f"train.accumulate {config.train.accumulate} divides batches into parts, and embeddings are compared "
                "with those of the whole batch: set it to 1, and lower data.classes and data.batch_size instead"
            )
        if data.labels not in _KINDS:
            raise InputError(f"data.labels {data.labels!r}: choose one of {', '.join(_KINDS)}")

    def model(self, rngs: nnx.Rngs) -> Any:
        """Returns the network, (B, *S, 1) -> (B, K) unit vectors."""
        settings = self.config.model.to_dict()
        return models.build(settings.pop("name"), rngs, ndim=self.ndim, **settings)

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the global batch."""
        batch = self.config.data.batch_size
        return {
            "image": jax.ShapeDtypeStruct((batch, *self.crops.size), jnp.float16),
            "labels": jax.ShapeDtypeStruct((batch, *self.crops.size), jnp.bool_),
            "track": jax.ShapeDtypeStruct((batch,), jnp.int32),
            "sample": jax.ShapeDtypeStruct((batch,), jnp.uint32),
        }

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process: a few cells of each of a few tracks, which are not held out."""
        place, count = process
        data = self.config.data
        if data.batch_size % count:
            raise InputError(
                f"a batch of {data.batch_size} does not divide among {count} processes: change batch_size"
            )
        gallery = self._training
        try:
            sampler = PerTrack(
                gallery.track,
                classes=data.classes,
                per_class=data.per_class,
                far_share=data.far_share,
                seed=self.config.seed,
            )
        except ValueError as error:
            raise InputError(
                f"{data.store} has too few tracks to learn from ({error}): prepare more movies, or lower "
                "--config.data.classes and --config.data.batch_size"
            ) from None

        def read(number: int | np.int64) -> dict[str, np.ndarray]:
            own = slice(place, None, count)
            chosen = gallery.select(sampler.batch(int(number))[own])
            samples = (np.arange(data.batch_size) + int(number) * data.batch_size)[own]
            return {
                "image": chosen.values,
                "labels": chosen.inside,
                "track": chosen.track,
                "sample": (samples % 2**32).astype(np.uint32),
            }

        return grain.MapDataset.source(places.Indices()).map(read)

    def loss(
        self,
        apply: Callable[[jax.Array], tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Augments crops, embeds them and compares all with all; all on the device.

        Flips, turns and whatever else moves voxels are the same for all samples of a track: that a cell keeps its
        orientation tells it from others, and would be unlearned.
        """
        del step
        track, size = batch["track"], self.crops.size
        # Of the least sample, wherever it is: the order of a batch is another for each number of processes.
        samples = jnp.where(track[:, None] == track, batch["sample"], jnp.uint32(2**32 - 1))
        shared = keys[jnp.argmin(samples, 1)]

        def prepare(values: jax.Array, inside: jax.Array, moves: jax.Array, looks: jax.Array) -> jax.Array:
            image, labels = values[..., None].astype(jnp.float32), inside.astype(jnp.int32)
            image, labels = augment.augment(image, labels, moves, size=size, spec=self.moves)
            image, labels = augment.augment(image, labels, looks, size=size, spec=self.looks)
            values = image[..., 0] if self.crops.light else jnp.ones(size)
            return cell_crops.shown(crops.Crops(values, labels == 1))

        outputs, stats = apply(jax.vmap(prepare)(batch["image"], batch["labels"], shared, keys))
        alike = similarity.similarities(outputs)
        value, kept = self._compare(alike, track)
        same = track[:, None] == track
        others = same & ~jnp.eye(len(track), dtype=bool)
        metrics = {
            "similarity_same": jnp.sum(alike * others) / jnp.sum(others),
            "similarity_other": jnp.sum(alike * ~same) / jnp.sum(~same),
            "kept": kept.astype(jnp.float32),
        }
        return value, stats, metrics

    def embedder(self, model: FunctionalModel, variables: Variables) -> FrameEmbedder:
        """Returns what embeds the cells of whole frames."""
        return FrameEmbedder(
            functools.partial(self._predict, model), variables, self.crops, self.outputs, _CHUNKS
        )

    @staticmethod
    def _predict(model: FunctionalModel, variables: Variables, image: jax.Array) -> jax.Array:
        return model.apply(variables, image)[0].astype(jnp.float32)

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Looks up each crop of the held-out tracks among all of them: MAP@R and precision at 1."""
        gallery = self._held_out
        rows = [np.zeros((0, self.outputs), np.float32)]
        for part, size in crops.chunks(len(gallery.track), _CHUNKS):
            if stop():
                return None
            pad = [(0, size - (part.stop - part.start))] + [(0, 0)] * self.ndim
            values, inside = (np.pad(x[part], pad) for x in (gallery.values, gallery.inside))
            rows.append(np.asarray(self._forward(model, variables, values, inside)))
        embedding = np.concatenate(rows)[: len(gallery.track)]  # the last chunk's padding is behind
        score = retrieval.map_at_r(embedding, gallery.track)
        first = retrieval.precision_at_1(embedding, gallery.track)
        return {"map_at_r": score, "precision_at_1": first, "score": score}

    @functools.cached_property
    def _forward(self) -> Callable[..., jax.Array]:
        def embed(
            model: FunctionalModel, variables: Variables, values: jax.Array, inside: jax.Array
        ) -> jax.Array:
            image = cell_crops.shown(crops.Crops(values.astype(jnp.float32), inside))
            return self._predict(model, variables, image)

        return jax.jit(embed, static_argnums=0)

    @property
    def _training(self) -> Gallery:
        """Crops of tracks that are not held out, without the last part of each movie."""
        gallery = self._gallery
        return gallery.select(np.flatnonzero(~self._is_held(gallery.track) & ~gallery.late))

    @functools.cached_property
    def _held_out(self) -> Gallery:
        """Crops of the held-out tracks in all frames, evenly thinned to `evaluation.max_crops`."""
        gallery = self._gallery
        held = np.flatnonzero(self._is_held(gallery.track))
        most = self.config.evaluation.max_crops
        if len(held) > most:
            held = held[np.linspace(0, len(held) - 1, most).astype(int)]
        kept = gallery.select(held)
        names, count = np.unique(kept.track, return_counts=True)
        return kept.select(np.isin(kept.track, names[count > 1]))

    def _is_held(self, track: np.ndarray) -> np.ndarray:
        """Every so many-th track, as they begin: early and late ones alike."""
        share = self.config.evaluation.holdout_tracks
        return np.floor((track + 1) * share + 1e-9) > np.floor(track * share + 1e-9)

    @functools.cached_property
    def _gallery(self) -> Gallery:
        if not self.config.data.store:
            raise InputError("no data: give --config.data.store=<folder that launch.prepare wrote>")
        found, tracks = [], 0
        for sequence in store.open_store(self.config.data.store):
            self._check(sequence)
            one = _read(sequence, self.config.data.labels, self.crops, self.config.evaluation.holdout_frames)
            found.append(one._replace(track=one.track + tracks))
            tracks += int(one.track.max(initial=-1)) + 1
        return Gallery(*(np.concatenate(columns) for columns in zip(*found, strict=True)))

    def _check(self, sequence: store.StoredSequence) -> None:
        kind = self.config.data.labels
        if sequence.lineage is None or kind not in sequence.labels:
            raise InputError(
                f"{sequence.name} has no tracks or no {kind}: an embedder learns from masks that TRA markers name "
                "(--config.data.labels)"
            )
        if (sequence.shape[2] > 1) != (self.ndim == 3):
            raise InputError(
                f"{sequence.name} has {sequence.shape[2]} planes and config.crops.size {self.ndim} axes: take "
                "configs/ctc/embed.py:2d or :3d"
            )
        if self.crops.light and not sequence.has_images:
            raise InputError(
                f"{sequence.name} has no images: give --config.crops.light=False to compare masks alone"
            )


def _loss_of(name: str, **settings: Any) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns one of `LOSSES` with its settings, all of which have to be given."""
    if name not in LOSSES:
        raise InputError(f"loss.name {name!r}: choose one of {', '.join(LOSSES)}")
    loss = getattr(similarity, name)
    wanted = {key for key, one in inspect.signature(loss).parameters.items() if one.kind is one.KEYWORD_ONLY}
    if set(settings) != wanted:
        raise InputError(
            f"config.loss has {', '.join(sorted(settings)) or 'nothing'} beside its name; {name} takes "
            f"{', '.join(sorted(wanted))}"
        )
    return functools.partial(loss, **settings)


def _read(sequence: store.StoredSequence, kind: str, spec: CropSpec, late_share: float) -> Gallery:
    """Cuts out all tracked cells of a movie; tracks are numbered as they begin."""
    places = np.flatnonzero(sequence.labelled[kind]).tolist()

    def frames() -> Any:
        return threads.mapped(lambda t: store.read_frame(sequence, kind, t), places)

    cells = measure_cells(frames(), np.asarray(sequence.spacing_um))
    owner = _owners(sequence, kind, cells.detections)
    tracked = np.flatnonzero(owner > 0)
    values, inside = _cut(frames(), select(cells, tracked), spec)
    lineage: Any = sequence.lineage
    begin = dict(zip(lineage.label.tolist(), lineage.begin.tolist(), strict=True))
    order = sorted(set(owner[tracked].tolist()), key=lambda label: (begin.get(label, 0), label))
    number = {label: i for i, label in enumerate(order)}
    border = sequence.frames[-1] - math.ceil(late_share * len(sequence.frames))
    return Gallery(
        values,
        inside,
        np.array([number[label] for label in owner[tracked].tolist()], np.int32),
        cells.detections.frame[tracked] > border,
    )


def _cut(frames: Iterable[Any], cells: Cells, spec: CropSpec) -> tuple[np.ndarray, np.ndarray]:
    """The crops of all cells of a movie: float16 values and bool (N, *S), see `Gallery`."""
    count = len(cells.low)
    values, inside = np.zeros((count, *spec.size), np.float16), np.zeros((count, *spec.size), bool)
    movie = (
        float(cells.intensity[:, MIN].min(initial=np.inf)),
        float(cells.intensity[:, MAX].max(initial=-np.inf)),
    )
    for number, labels, seen in frames:
        first, end = np.searchsorted(cells.detections.frame, (number, number + 1))
        image = seen if spec.light else None
        between = cell_crops.span(image, spec, movie)
        image = None if image is None else image.astype(np.float32)
        for part, size in crops.chunks(end - first, _CHUNKS):
            rows = np.arange(first, end)[part]
            pad = (0, size - len(rows))
            ids = np.pad(cells.detections.label[rows], pad).astype(labels.dtype)
            low, high = (np.pad(x[rows, -spec.ndim :], (pad, (0, 0))) for x in (cells.low, cells.high))
            found = _cut_frame(image, labels, ids, low.astype(np.int32), high.astype(np.int32), between, spec)
            values[rows], inside[rows] = (np.asarray(x)[: len(rows)] for x in found)
    return values, inside


_cut_frame = jax.jit(cell_crops.cut, static_argnums=6)


def _owners(sequence: store.StoredSequence, kind: str, found: Detections) -> np.ndarray:
    """The track (N,) of each object, 0 for none: its own label, or the least marker that it covers."""
    if kind == "markers":
        return found.label
    covered: dict[tuple[int, int], int] = {}
    for row in sequence.coverage.tolist():
        covered.setdefault((int(sequence.frames[row[0]]), row[_COLUMN[kind]]), row[1])
    objects = zip(found.frame.tolist(), found.label.tolist(), strict=True)
    return np.array([covered.get(one, 0) for one in objects], np.int64)
