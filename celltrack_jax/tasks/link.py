"""Linking: windows of a movie's candidate graph -> logits of links and events, judged by the links chosen with them.

Shapes: B windows of a batch, A nodes and C edges of their bucket; N detections, E candidate edges of a movie.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.special import expit

from celltrack_jax import models
from celltrack_jax.config import Config
from celltrack_jax.data import places, store
from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.metrics import links as agreement
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tasks import link_facts, link_losses, link_truth, link_windows
from celltrack_jax.tasks.link_augment import AugmentSpec, augment
from celltrack_jax.tasks.link_truth import Parts, Truth
from celltrack_jax.tasks.link_windows import LabelSpec
from celltrack_jax.tracking import choose, feature_sets, learned, windows
from celltrack_jax.tracking.cells import Cells, Embed
from celltrack_jax.tracking.imperfect import ImperfectSpec
from celltrack_jax.tracking.learned import EVENTS, GraphSpec, Near, WindowSpec
from celltrack_jax.tracking.scored_links import Links, Scored, free_ends


def build(config: Config) -> "LinkTask":
    """Makes the task from a config."""
    return LinkTask(config)


class LinkTask:
    """Learns which candidate edges are links; the Task protocol of `celltrack_jax.tasks`."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: reads seed, data, embedder, graph, features, labels, imperfect, augment, model, loss, evaluation,
            inference, linking.

        Raises:
          InputError: parts of it do not go together.
        """
        self.config = config
        data = config.data
        self.ndim = data.ndim
        features = config.features
        self.graph = GraphSpec(
            learned.candidates_of(**config.graph.to_dict()),
            feature_sets.node_set(features.nodes),
            feature_sets.edge_set(features.edges),
            float(features.diameter_um),
        )
        self.max_gap = self.graph.candidates.max_gap
        self.labels = LabelSpec(**config.labels.to_dict())
        self.augmentation = AugmentSpec(**config.augment.to_dict())
        self.imperfect = ImperfectSpec(**config.imperfect.to_dict(), max_gap=self.max_gap)
        buckets = tuple(windows.Bucket(*map(int, bucket)) for bucket in data.buckets)
        minmax = self.graph.nodes.in_voxels
        self.windows = WindowSpec(data.window, 1, buckets, minmax)
        whole = config.inference.window == 0
        length, stride = (
            (sys.maxsize // 2, 1) if whole else (config.inference.window, config.inference.stride)
        )
        self.linked_windows = WindowSpec(length, stride, buckets, minmax)
        self.choose = choose.chooser(**config.linking.to_dict())
        self._edge_loss = link_losses.edge_loss(config.loss.name)
        self._refuse_short_windows()
        if self.augmentation.turns and self.graph.nodes.in_voxels:
            raise InputError(
                f"augment.turns turns displacements, and features.nodes {features.nodes!r} say where a cell is: switch "
                "it off"
            )
        if self.ndim not in self.graph.nodes.planes:
            raise InputError(
                f"features.nodes {features.nodes!r} are of other movies than {self.ndim}D (config.data.ndim): choose "
                "another set"
            )
        self.embed: Embed | None = None
        self.embedding = int(config.model.embedding)
        if self.embedding and not config.embedder:
            raise InputError(
                f"model.embedding is {self.embedding} and there is no embedder: give --config.embedder=<work folder of a "
                "run of configs/ctc/embed.py>, or --config.model.embedding=0"
            )
        self._forward = jax.jit(self._predict, static_argnums=0)

    @property
    def embedder_run(self) -> str:
        """Work folder of the run that embeds cells; "" for none."""
        return self.config.embedder

    def use(self, embed: Embed) -> None:
        """Takes the embedder of that run; called before any data are read.

        Raises:
          InputError: it has other outputs than the network takes.
        """
        if embed.outputs != self.embedding:
            raise InputError(
                f"the embedder {self.embedder_run} has {embed.outputs} outputs and the network takes {self.embedding}: "
                f"give --config.model.embedding={embed.outputs}"
            )
        self.embed = embed

    def _refuse_short_windows(self) -> None:
        data, inference, reach = self.config.data, self.config.inference, self.max_gap + 1
        if data.window <= reach:
            raise InputError(
                f"data.window {data.window} holds no edge over {self.max_gap} frames: make it longer than "
                f"graph.max_gap + 1, {reach}"
            )
        if inference.window and not 1 <= inference.stride <= inference.window - reach:
            raise InputError(
                f"inference.window {inference.window} and inference.stride {inference.stride} leave edges over "
                f"{self.max_gap} frames in no window: make the stride at most window - graph.max_gap - 1"
            )

    def model(self, rngs: nnx.Rngs) -> Any:
        """Returns the network, called as `module(graph, key, train=)` on one padded window."""
        settings = self.config.model.to_dict()
        sizes = {
            "node_features": len(self.graph.nodes.columns),
            "edge_features": len(self.graph.edges.columns),
        }
        return models.build(settings.pop("name"), rngs, **sizes, **settings)

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
            "node/features": jax.ShapeDtypeStruct((*of_nodes, len(self.graph.nodes.columns)), float32),
            "node/events": jax.ShapeDtypeStruct((*of_nodes, len(EVENTS)), float32),
            "node/weights": jax.ShapeDtypeStruct((*of_nodes, len(EVENTS)), float32),
            "edge/features": jax.ShapeDtypeStruct((*of_edges, len(self.graph.edges.columns)), float32),
            "edge/label": jax.ShapeDtypeStruct(of_edges, float32),
            "sample": jax.ShapeDtypeStruct((batch,), jnp.uint32),
        } | self._embedding_spec(of_nodes)

    def _embedding_spec(self, of_nodes: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        if not self.embedding:
            return {}
        return {"node/embedding": jax.ShapeDtypeStruct((*of_nodes, self.embedding), jnp.float32)}

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process: windows of one bucket, drawn in proportion to how many fill it."""
        _, count = process
        batch = self.config.data.batch_size
        if batch % count:
            raise InputError(f"a batch of {batch} does not divide among {count} processes: change batch_size")
        reader = link_windows.Reader(
            self._training_windows, self.windows.buckets, batch, process, self.config.seed
        )
        return grain.MapDataset.source(places.Indices()).map(reader.read)

    def loss(
        self,
        apply: Callable[..., tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Turns and flips windows, predicts, and compares; all on the device."""
        del step

        def augmented(window: dict[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
            return augment(window, key, self.augmentation, self.graph.nodes, self.graph.edges.columns)

        batch = jax.vmap(augmented)(batch, keys)
        outputs, stats = _over_windows(apply, batch, keys)
        mask, label = batch["edge_mask"], batch["edge/label"]
        edge = self._edge_loss(outputs["edge"], label, mask)
        chosen = (outputs["edge"] > 0) == (label > 0.5)
        metrics = {"edge_loss": edge}
        event = jnp.zeros(())
        if self.config.loss.event_weight:
            of_events = link_losses.event_losses(outputs, batch)
            event = sum(of_events.values(), event)
            metrics |= {f"{name}_loss": value for name, value in of_events.items()}
        metrics["edge_accuracy"] = jnp.sum(chosen * mask) / jnp.maximum(jnp.sum(mask), 1)
        return edge + self.config.loss.event_weight * event, stats, metrics

    @staticmethod
    def _predict(model: FunctionalModel, variables: Variables, batch: dict[str, jax.Array]) -> Any:
        def apply(window: Any, key: None) -> Any:
            return model.apply(variables, window, key)

        return _over_windows(apply, batch, None)[0]

    def scorer(self, model: FunctionalModel, variables: Variables) -> learned.Apply:
        """Returns the compiled network; it is compiled once per bucket."""
        return lambda batch: self._forward(model, variables, batch)

    def data_facts(self) -> dict[str, Any]:
        """Returns what `fitting` compares other movies with."""
        candidates = self.graph.candidates
        radius = candidates.radius if isinstance(candidates, Near) else None
        return link_facts.facts(self._truths, self.graph.diameter, radius)

    def fitting(self, cells: Cells, trained: Mapping[str, Any]) -> Cells:
        """Returns the cells as the network may see them; says how they differ from those of the training.

        Args:
          cells: of a movie.
          trained: `data_facts` of the training.

        Raises:
          InputError: the network cannot link them.
        """
        self._check_planes(int(cells.shape[0]), "the movie")
        uses_light = any(
            name.startswith("intensity") for name in (*self.graph.nodes.columns, *self.graph.edges.columns)
        )
        needs_light = uses_light and self.augmentation.dark_probability == 0
        return link_facts.fitting(
            cells,
            trained,
            in_voxels=self.graph.nodes.in_voxels,
            needs_light=needs_light,
            fixed_um=self.graph.diameter_um,
        )

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
        found = learned.costs(whole, self.linked_windows, apply, stop)
        if found is None:
            return None
        scored = Scored(edges.source, edges.target, expit(-found.edge).astype(np.float32))
        found = free_ends(found, cells.detections.frame, first=ends[0], last=ends[1])
        return self.choose(cells, edges, found)._replace(scored=scored)

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Links held-out frames of true cells, as they are and made imperfect: LNK, F1 of links and of divisions."""
        apply = self.scorer(model, variables)
        scores: dict[str, float | None] = {}
        for share in self.config.evaluation.imperfect:
            rows = []
            for truth in self._held_out:
                judged = self._imperfect(truth, share)
                found = self.link(judged.cells, apply, judged.ends, stop)
                if found is None:
                    return None
                rows.append(agreement.agreement(found.parent, found.kept, judged.parents, judged.real))
            prefix = "" if share == 0 else f"imperfect_{share:g}/"
            measures = {**agreement.f1(rows), "lnk": agreement.lnk(rows)}
            scores |= {f"{prefix}{measure}": value for measure, value in measures.items()}
        known = [v for k, v in scores.items() if k.rsplit("/")[-1] == "lnk" and v is not None]
        scores["score"] = float(np.mean(known)) if known else None
        return scores

    def _imperfect(self, truth: Truth, share: float) -> Truth:
        """Drops so many cells, and adds as many false ones."""
        # Not the gap of this linker's own graph: all linkers are judged by the same links.
        gap = self.config.evaluation.max_gap
        spec = ImperfectSpec(share, share, 0.0, 0.0, 0.0, 0.0, gap)
        return link_truth.imperfect(truth, np.random.default_rng(1), spec)

    @functools.cached_property
    def _truths(self) -> list[Truth]:
        if not self.config.data.store:
            raise InputError("no data: give --config.data.store=<folder that launch.prepare wrote>")
        sequences = store.open_store(self.config.data.store)
        for sequence in sequences:
            self._check_planes(sequence.shape[2], sequence.name)
        self._check_embedded("the training")
        return [link_truth.read(sequence, self.embed) for sequence in sequences]

    def _check_embedded(self, what: str) -> None:
        if self.embedding and self.embed is None:
            raise ValueError(f"{what} needs the embedder {self.embedder_run}: call `use` first")

    def _check_planes(self, planes: int, what: str) -> None:
        # A movie without a frame has no planes.
        if planes and (planes > 1) != (self.ndim == 3):
            raise InputError(
                f"{what} has {planes} planes and this linker is {self.ndim}D (config.data.ndim): use one that was "
                "trained on such movies"
            )

    @functools.cached_property
    def _parts(self) -> list[Parts]:
        """What each movie is used for; says which ones are too short to be judged."""
        share, least = self.config.evaluation.holdout, self.windows.length
        parts = [link_truth.divide(truth.ends, share, least) for truth in self._truths]
        short = [truth.name for truth, of in zip(self._truths, parts, strict=True) if of.held_out is None]
        if len(short) == len(parts):
            raise InputError(
                f"no movie of {self.config.data.store} has the {least + 2} frames that it takes to hold out a window of "
                f"{least} (config.data.window): prepare longer movies, or make the window shorter"
            )
        if short:
            print(f"note: too short to be judged, trained on as a whole: {', '.join(short)}", flush=True)
        return parts

    @functools.cached_property
    def _held_out(self) -> list[Truth]:
        pairs = zip(self._truths, self._parts, strict=True)
        return [link_truth.part(truth, parts.held_out) for truth, parts in pairs if parts.held_out]

    @functools.cached_property
    def _training_windows(self) -> list[link_windows.Window]:
        """Windows of the movies as annotated, and of imperfect copies of them."""
        movies = list(zip(self._truths, self._parts, strict=True))
        jobs = [
            (truth, parts, place, copy)
            for place, (truth, parts) in enumerate(movies)
            for copy in range(1 + self.config.data.imperfect_copies)
        ]
        found = [window for part in threads.mapped(self._cut, jobs) for window in part]
        if not any(window.whole.edges["label"].any() for window in found):
            raise InputError(
                f"{self.config.data.store} has no links to learn from: prepare movies with tracks"
            )
        return found

    def _cut(self, job: tuple[Truth, Parts, int, int]) -> list[link_windows.Window]:
        whole, parts, place, copy = job
        # Divided first: false detections look like cells of the movie.
        truth = link_truth.part(whole, parts.training)
        if copy:
            rng = np.random.default_rng((self.config.seed, place, copy))
            # A fifth of the copies has no faults, others up to twice as many: the network sees how many there are.
            times = max(0.0, rng.uniform(-0.5, 2))
            rates = {
                name: times * getattr(self.imperfect, name) for name in ("drop", "false", "split", "merge")
            }
            truth = link_truth.imperfect(truth, rng, self.imperfect._replace(**rates))
        return link_windows.labelled(truth, self.graph, self.labels, self.windows)


def _over_windows(apply: Callable[..., Any], batch: dict[str, jax.Array], keys: jax.Array | None) -> Any:
    """Applies a network of one window to each of a batch."""
    of_nodes = [key for key in ("node/features", "node/embedding") if key in batch]

    def one(window: dict[str, jax.Array], key: jax.Array | None) -> Any:
        nodes = {name.removeprefix("node/"): window[name] for name in of_nodes}
        ends = window["senders"], window["receivers"]
        return apply(windows.flat_tuple(nodes, window["edge/features"], *ends), key)

    needed = {key: batch[key] for key in (*of_nodes, "edge/features", "senders", "receivers")}
    return jax.vmap(one, in_axes=(0, None if keys is None else 0))(needed, keys)
