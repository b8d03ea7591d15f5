"""Linking: windows of a movie's candidate graph -> logits of links and events, judged by the links chosen with them.

Shapes: B windows of a batch, A nodes and C edges of their bucket; N detections, E candidate edges of a movie.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.special import expit

from celltrack_jax import models
from celltrack_jax.config import Config
from celltrack_jax.data import pipeline, store
from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tracking import graph, handmade, learned, windows
from celltrack_jax.tracking.cells import Cells, measure_cells, select
from celltrack_jax.tracking.ilp import ilp
from celltrack_jax.tracking.imperfect import ImperfectSpec, degrade
from celltrack_jax.tracking.learned import EVENTS, GraphSpec, WindowSpec
from celltrack_jax.tracking.scored_links import Links, Scored, free_ends

_DY, _DX = (graph.EDGE_FEATURES.index(name) for name in ("dy", "dx"))
_FROM_LIGHT = tuple(i for i, name in enumerate(handmade.PHYSICAL) if name.startswith("intensity"))
_FROM_LIGHT_EDGES = tuple(i for i, name in enumerate(graph.EDGE_FEATURES) if name.startswith("intensity"))


class Truth(NamedTuple):
    """A movie of true cells."""

    name: str
    cells: Cells
    parents: np.ndarray
    """(N,) int64, see `graph.true_parents`."""


def build(config: Config) -> "LinkTask":
    """Makes the task from a config."""
    return LinkTask(config)


class LinkTask:
    """Learns which candidate edges are links; the Task protocol of `celltrack_jax.tasks`."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: reads seed, data, graph, imperfect, augment, model, loss, evaluation, linking.
        """
        self.config = config
        data = config.data
        self.ndim = data.ndim
        self.graph = GraphSpec(**config.graph.to_dict())
        buckets = tuple(windows.Bucket(*map(int, bucket)) for bucket in data.buckets)
        self.windows = WindowSpec(data.window, data.stride, buckets)
        self.imperfect = ImperfectSpec(**config.imperfect.to_dict(), max_gap=self.graph.max_gap)
        if data.window <= self.graph.max_gap + 1 or data.stride > data.window - self.graph.max_gap - 1:
            raise InputError(
                f"data.window {data.window} and data.stride {data.stride} leave edges over {self.graph.max_gap} frames "
                "in no window: make the stride at most window - graph.max_gap - 1"
            )
        self._forward = jax.jit(self._predict, static_argnums=0)

    def model(self, rngs: nnx.Rngs) -> Any:
        """Returns the network, called as `module(graph, key, train=)` on one padded window."""
        settings = self.config.model.to_dict()
        if settings.get("dtype") == "auto":
            settings["dtype"] = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return models.build(
            settings.pop("name"),
            rngs,
            node_features=len(handmade.PHYSICAL),
            edge_features=len(graph.EDGE_FEATURES),
            **settings,
        )

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the global batch in the largest bucket."""
        return self.batch_specs()[-1]

    def batch_specs(self) -> list[dict[str, jax.ShapeDtypeStruct]]:
        """Returns shapes and dtypes of the global batch, one per bucket."""
        return [self._spec(bucket) for bucket in self.windows.buckets]

    def _spec(self, bucket: windows.Bucket) -> dict[str, jax.ShapeDtypeStruct]:
        batch = self.config.data.batch_size
        of_nodes, of_edges = (batch, bucket.nodes), (batch, bucket.edges)
        float32, int32 = jnp.float32, jnp.int32
        return {
            "senders": jax.ShapeDtypeStruct(of_edges, int32),
            "receivers": jax.ShapeDtypeStruct(of_edges, int32),
            "node_mask": jax.ShapeDtypeStruct(of_nodes, jnp.bool_),
            "edge_mask": jax.ShapeDtypeStruct(of_edges, jnp.bool_),
            "node/features": jax.ShapeDtypeStruct((*of_nodes, len(handmade.PHYSICAL)), float32),
            "node/events": jax.ShapeDtypeStruct((*of_nodes, len(EVENTS)), float32),
            "node/weights": jax.ShapeDtypeStruct((*of_nodes, len(EVENTS)), float32),
            "edge/features": jax.ShapeDtypeStruct((*of_edges, len(graph.EDGE_FEATURES)), float32),
            "edge/label": jax.ShapeDtypeStruct(of_edges, float32),
            "sample": jax.ShapeDtypeStruct((batch,), jnp.uint32),
        }

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process: windows of one bucket, drawn in proportion to how many fill it."""
        place, count = process
        batch = self.config.data.batch_size
        if batch % count:
            raise InputError(f"a batch of {batch} does not divide among {count} processes: change batch_size")
        reader = _Reader(self._training_windows, self.windows.buckets, batch, place, count, self.config.seed)
        return grain.MapDataset.source(pipeline.Indices()).map(reader.read)

    def loss(
        self,
        apply: Callable[..., tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Turns and flips windows, predicts, and compares; all on the device."""
        del step
        batch = jax.vmap(self._augment)(batch, keys)
        outputs, stats = _over_windows(apply, batch, keys)
        mask = batch["edge_mask"]
        of_edges = optax.sigmoid_binary_cross_entropy(outputs["edge"], batch["edge/label"])
        edge = jnp.sum(of_edges * mask) / jnp.maximum(jnp.sum(batch["edge/label"]), 1)
        logits = jnp.stack([outputs[name] for name in EVENTS], -1)
        weights = batch["node/weights"] * batch["node_mask"][..., None]
        of_nodes = optax.sigmoid_binary_cross_entropy(logits, batch["node/events"]) * weights
        event = jnp.sum(of_nodes, (0, 1)) / jnp.maximum(jnp.sum(weights, (0, 1)), 1)
        chosen = (outputs["edge"] > 0) == (batch["edge/label"] > 0.5)
        metrics = {"edge_loss": edge, **{f"{name}_loss": event[i] for i, name in enumerate(EVENTS)}}
        metrics["edge_accuracy"] = jnp.sum(chosen * mask) / jnp.maximum(jnp.sum(mask), 1)
        return edge + self.config.loss.event_weight * jnp.sum(event), stats, metrics

    def _augment(self, window: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """One of the eight symmetries of a frame, a little noise, and now and then no intensities."""
        spec = self.config.augment
        flips, blur, dark = jax.random.split(key, 3)
        nodes, edges = window["node/features"], window["edge/features"]
        mirror_y, mirror_x, swap = jax.random.bernoulli(flips, 0.5, (3,))
        dy, dx = edges[:, _DY], edges[:, _DX]
        dy, dx = jnp.where(mirror_y, -dy, dy), jnp.where(mirror_x, -dx, dx)
        dy, dx = jnp.where(swap, dx, dy), jnp.where(swap, dy, dx)
        edges = edges.at[:, _DY].set(dy).at[:, _DX].set(dx)
        nodes = nodes + spec.noise * jax.random.normal(blur, nodes.shape)
        lit = jax.random.bernoulli(dark, 1 - spec.dark_probability)
        nodes = nodes.at[:, _FROM_LIGHT].multiply(lit)
        edges = edges.at[:, _FROM_LIGHT_EDGES].multiply(lit)
        return {**window, "node/features": nodes, "edge/features": edges}

    @staticmethod
    def _predict(model: FunctionalModel, variables: Variables, batch: dict[str, jax.Array]) -> Any:
        def apply(window: Any, key: None) -> Any:
            return model.apply(variables, window, key)

        return _over_windows(apply, batch, None)[0]

    def scorer(self, model: FunctionalModel, variables: Variables) -> learned.Apply:
        """Returns the compiled network; it is compiled once per bucket."""
        return lambda batch: self._forward(model, variables, batch)

    def link(
        self,
        cells: Cells,
        apply: learned.Apply,
        ends: tuple[int, int],
        stop: Callable[[], bool] = lambda: False,
    ) -> Links | None:
        """Scores a movie and chooses its links.

        Args:
          cells: of the movie.
          apply: of `scorer`.
          ends: numbers of the movie's first and last frame.
          stop: polled.

        Returns:
          The links, with the network's probabilities of the candidates; None when told to stop.

        Raises:
          InputError: the movie is 3D and the network was trained on 2D, or the reverse.
        """
        self._check_planes(int(cells.shape[0]), "the movie")
        if len(cells.detections.frame) == 0:
            return Links(np.zeros(0, np.int64), np.zeros(0, bool))
        whole, edges = learned.movie_graph(cells, self.graph)
        found = learned.costs(whole, self.windows, apply, stop)
        if found is None:
            return None
        scored = Scored(edges.source, edges.target, expit(-found.edge).astype(np.float32))
        found = free_ends(found, cells.detections.frame, first=ends[0], last=ends[1])
        settings = self.config.linking.to_dict()
        found = found._replace(false=found.false + settings.pop("false_penalty"))
        links = ilp(cells.detections.frame, edges.source, edges.target, found, **settings)
        return links._replace(scored=scored)

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Links held-out frames of true cells, as they are and made imperfect; F1 of links and of divisions."""
        apply = self.scorer(model, variables)
        scores: dict[str, float | None] = {}
        for share in self.config.evaluation.imperfect:
            rows = []
            for truth in self._held_out:
                cells, parents, real = self._imperfect(truth, share)
                frames = cells.detections.frame
                if len(frames) == 0:
                    continue
                found = self.link(cells, apply, (int(frames[0]), int(frames[-1])), stop)
                if found is None:
                    return None
                rows.append(_agreement(found, parents, real))
            prefix = "" if share == 0 else f"imperfect_{share:g}/"
            total = {key: sum(row[key] for row in rows) for key in (rows[0] if rows else ())}
            for what in ("links", "divisions", "false"):
                scores[f"{prefix}{what}"] = _f1(
                    *(total.get(f"{what}_{part}", 0) for part in ("hit", "missed", "wrong"))
                )
        judged = [v for k, v in scores.items() if k.rsplit("/")[-1] == "links" and v is not None]
        scores["score"] = float(np.mean(judged)) if judged else None
        return scores

    def _imperfect(self, truth: Truth, share: float) -> tuple[Cells, np.ndarray, np.ndarray]:
        """Drops so many cells, and adds as many false ones; see `degrade`."""
        spec = ImperfectSpec(share, share, 0.0, 0.0, 0.0, 0.0, self.graph.max_gap)
        return degrade(truth.cells, truth.parents, np.random.default_rng(1), spec)

    @functools.cached_property
    def _truths(self) -> list[Truth]:
        if not self.config.data.store:
            raise InputError("no data: give --config.data.store=<folder that launch.prepare wrote>")
        sequences = store.open_store(self.config.data.store)
        for sequence in sequences:
            self._check_planes(sequence.shape[2], sequence.name)
        return [_read_truth(sequence) for sequence in sequences]

    def _check_planes(self, planes: int, what: str) -> None:
        # A movie without a frame has no planes.
        if planes and (planes > 1) != (self.ndim == 3):
            raise InputError(
                f"{what} has {planes} planes and this linker is {self.ndim}D (config.data.ndim): use one that was "
                "trained on such movies"
            )

    @property
    def _held_out(self) -> list[Truth]:
        return [_frames_of(truth, *self._split(truth)[1]) for truth in self._truths]

    def _split(self, truth: Truth) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last frame to train on, and to judge with: the last part of each movie."""
        frame = truth.cells.detections.frame
        begin, end = int(frame[0]), int(frame[-1])
        held = max(self.windows.length, math.ceil(self.config.evaluation.holdout * (end - begin + 1)))
        border = max(begin, end - held)
        return (begin, border), (border + 1 if border > begin else begin, end)

    @functools.cached_property
    def _training_windows(self) -> list[windows.Graph]:
        """Windows of the movies as annotated, and of imperfect copies of them."""
        jobs = [
            (truth, place, copy)
            for place, truth in enumerate(self._truths)
            for copy in range(1 + self.config.data.imperfect_copies)
        ]
        found = [window for part in threads.mapped(self._cut, jobs) for window in part]
        if not found:
            raise InputError(
                f"{self.config.data.store} has no links to learn from: prepare movies with tracks"
            )
        return found

    def _cut(self, job: tuple[Truth, int, int]) -> list[windows.Graph]:
        truth, place, copy = job
        cells, parents, real = truth.cells, truth.parents, np.ones(len(truth.parents), bool)
        if copy:
            rng = np.random.default_rng((self.config.seed, place, copy))
            # From copies without faults to some with twice as many: a network sees in its window how many there are.
            times = rng.uniform(0, 2)
            rates = {
                name: times * getattr(self.imperfect, name) for name in ("drop", "false", "split", "merge")
            }
            cells, parents, real = degrade(cells, parents, rng, self.imperfect._replace(**rates))
        (first, last), _ = self._split(truth)
        cells, parents, real = _part(cells, parents, real, first, last)
        if len(parents) == 0:
            return []
        whole, edges = learned.movie_graph(cells, self.graph)
        nodes = {**whole.nodes, "real": real}
        labels = graph.edge_labels(edges, parents).astype(np.float32)
        whole = whole._replace(nodes=nodes, edges={**whole.edges, "label": labels})
        cuts = windows.windows(whole.frame, self.windows.length, 1)
        return [self._learnable(windows.cut(whole, window), window) for window in cuts]

    def _learnable(self, part: windows.Graph, window: tuple[int, int]) -> windows.Graph:
        """Adds to a window what its nodes are, as far as the window shows it."""
        learned.fitting(part.size, self.windows.buckets, window)
        label = part.edges["label"] > 0.5
        count = part.size[0]
        children = np.bincount(part.source[label], minlength=count)
        followed = np.bincount(part.target[label], minlength=count) > 0
        real = part.nodes["real"]
        events = np.stack([children > 1, ~followed & real, (children == 0) & real, ~real], 1)
        # Whoever comes or goes within reach of the window's ends may have been, or be, beyond them.
        reach = self.graph.max_gap + 1
        begins = (part.frame >= window[0] + reach) | followed | ~real
        ends = (part.frame <= window[1] - reach) | (children > 0) | ~real
        weights = np.stack([ends, begins, ends, np.ones(count, bool)], 1)
        nodes = {
            "features": part.nodes["features"],
            "events": events.astype(np.float32),
            "weights": weights.astype(np.float32),
        }
        return part._replace(nodes=nodes)


class _Reader:
    """Turns batch numbers into batches; batch i of all processes together is a function of i alone."""

    def __init__(
        self,
        graphs: Sequence[windows.Graph],
        buckets: Sequence[windows.Bucket],
        batch: int,
        place: int,
        count: int,
        seed: int,
    ):
        self.graphs, self.batch, self.place, self.count, self.seed = graphs, batch, place, count, seed
        fits = [buckets.index(windows.bucket_of(graph.size, buckets)) for graph in graphs]
        self.members = {bucket: np.flatnonzero(np.array(fits) == i) for i, bucket in enumerate(buckets)}
        self.buckets = list(buckets)
        sizes = np.array([len(self.members[bucket]) for bucket in buckets], float)
        self.chance = sizes / sizes.sum()

    def read(self, number: int | np.int64) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, int(number)))
        bucket = self.buckets[rng.choice(len(self.buckets), p=self.chance)]
        chosen = rng.choice(self.members[bucket], self.batch)
        samples = np.arange(self.batch) + int(number) * self.batch
        own = slice(self.place, None, self.count)
        arrays = learned.batch_arrays([self.graphs[i] for i in chosen[own]], bucket)
        return {**arrays, "sample": (samples[own] % 2**32).astype(np.uint32)}


def _over_windows(apply: Callable[..., Any], batch: dict[str, jax.Array], keys: jax.Array | None) -> Any:
    """Applies a network of one window to each of a batch."""

    def one(window: dict[str, jax.Array], key: jax.Array | None) -> Any:
        nodes = {"features": window["node/features"]}
        ends = window["senders"], window["receivers"]
        return apply(windows.flat_tuple(nodes, window["edge/features"], *ends), key)

    needed = {key: batch[key] for key in ("node/features", "edge/features", "senders", "receivers")}
    return jax.vmap(one, in_axes=(0, None if keys is None else 0))(needed, keys)


def _read_truth(sequence: store.StoredSequence) -> Truth:
    """Measures the tracked cells of a movie.

    Raises:
      InputError: it has no tracks.
    """
    if sequence.lineage is None or "markers" not in sequence.labels:
        raise InputError(
            f"{sequence.name} has no tracks: a tracker learns from TRA markers and man_track.txt"
        )
    frames = np.flatnonzero(sequence.labelled["markers"])
    flat = sequence.shape[2] == 1

    def read(t: int) -> tuple[int, np.ndarray, np.ndarray | None]:
        labels = np.asarray(sequence.labels["markers"][t, 0].read().result())
        image = np.asarray(sequence.image[t, 0].read().result()) if sequence.has_images else None
        if flat:
            labels, image = labels[0], None if image is None else image[0]
        return int(sequence.frames[t]), labels, image

    cells = measure_cells(
        threads.mapped(read, frames.tolist(), threads.cores()), np.asarray(sequence.spacing_um)
    )
    parents = graph.true_parents(cells.detections, cells.detections.label, sequence.lineage)
    return Truth(sequence.name, cells, parents)


def _frames_of(truth: Truth, first: int, last: int) -> Truth:
    cells, parents, _ = _part(truth.cells, truth.parents, truth.parents >= 0, first, last)
    return Truth(truth.name, cells, parents)


def _part(
    cells: Cells, parents: np.ndarray, real: np.ndarray, first: int, last: int
) -> tuple[Cells, np.ndarray, np.ndarray]:
    """The detections of some frames; predecessors before them are none."""
    begin, end = np.searchsorted(cells.detections.frame, (first, last + 1))
    inside = np.arange(begin, end)
    moved = parents[inside] - begin
    return select(cells, inside), np.where(moved < 0, -1, moved), real[inside]


def _agreement(found: Links, parents: np.ndarray, real: np.ndarray) -> dict[str, int]:
    """Counts right, missed and wrong links, divisions and rejections."""
    linked, true = found.parent >= 0, parents >= 0
    hit = int((linked & (found.parent == parents)).sum())
    row = {"links_hit": hit, "links_missed": int(true.sum()) - hit, "links_wrong": int(linked.sum()) - hit}
    ours, theirs = (_mothers(each) for each in (found.parent, parents))
    right = len(ours & theirs)
    row |= {
        "divisions_hit": right,
        "divisions_missed": len(theirs) - right,
        "divisions_wrong": len(ours) - right,
    }
    rejected = int((~found.kept & ~real).sum())
    row |= {"false_hit": rejected, "false_missed": int((~real).sum()) - rejected}
    return row | {"false_wrong": int((~found.kept).sum()) - rejected}


def _mothers(parents: np.ndarray) -> set[tuple[int, ...]]:
    """Each division as (mother, daughter, daughter)."""
    daughters: dict[int, list[int]] = {}
    for child in np.flatnonzero(parents >= 0).tolist():
        daughters.setdefault(int(parents[child]), []).append(child)
    return {(mother, *children) for mother, children in daughters.items() if len(children) > 1}


def _f1(hit: int, missed: int, wrong: int) -> float | None:
    return 2 * hit / (2 * hit + missed + wrong) if hit + missed + wrong else None
