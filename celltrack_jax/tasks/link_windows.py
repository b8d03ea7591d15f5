"""What linking is trained on: labelled windows of candidate graphs, and batches of them.

Shapes: N detections and E candidate edges of a movie; n nodes of a window.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from celltrack_jax.tasks.link_truth import Truth
from celltrack_jax.tracking import graph, learned, windows
from celltrack_jax.tracking.learned import EVENTS, GraphSpec, WindowSpec


class LabelSpec(NamedTuple):
    """Which candidates are labelled as links."""

    divisions: bool
    """Whether those from a mother to her daughters are."""
    beyond: bool
    """Whether links that are no candidates are made some, to learn from."""


class Window(NamedTuple):
    """A window of a movie's graph, which is cut when it is read: windows overlap, and all of them would not fit."""

    whole: windows.Graph
    ends: tuple[int, int]
    """First and last frame."""
    size: tuple[int, int]
    """Nodes and edges."""
    cutting: WindowSpec
    reach: int
    """Frames between the ends of an edge at most."""

    def read(self) -> windows.Graph:
        """Cuts it.

        Returns:
          Graph with, beside what `learned.movie_graph` gives, edges "label" float32, 1 for a true link; nodes "events"
          (n, 4) float32, the answers to `EVENTS`, and "weights" (n, 4) float32, 0 where the window does not show the
          answer.
        """
        return _answered(self.cutting.cut(self.whole, self.ends), self.ends, self.reach)


def labelled(truth: Truth, spec: GraphSpec, labels: LabelSpec, cutting: WindowSpec) -> list[Window]:
    """Divides a movie into windows with the answers, one from each frame on.

    Args:
      truth: of the movie.
      spec: of its candidate graph.
      labels: what a link is.
      cutting: length and buckets of windows.

    Raises:
      InputError: a window fits no bucket.
    """
    if len(truth.parents) == 0:
        return []
    parents = _taught(truth, labels, spec.candidates.max_gap)
    linked = np.flatnonzero(parents >= 0)
    beyond = graph.Candidates(parents[linked], linked) if labels.beyond else None
    whole, edges = learned.movie_graph(truth.cells, spec, beyond)
    label = graph.edge_labels(edges, parents).astype(np.float32)
    nodes, described = {**whole.nodes, "real": truth.real}, {**whole.edges, "label": label}
    whole = whole._replace(nodes=nodes, edges=described)
    found = []
    bare = whole._replace(nodes={}, edges={})
    for ends in windows.windows(whole.frame, cutting.length, 1):
        size = windows.cut(bare, ends).size
        learned.fitting(size, cutting.buckets, ends)
        found.append(Window(whole, ends, size, cutting, spec.candidates.max_gap + 1))
    return found


def _taught(truth: Truth, labels: LabelSpec, max_gap: int) -> np.ndarray:
    """The true predecessors (N,) that count as links."""
    parents, found = truth.parents, truth.cells.detections
    # Indices of -1 meet some detection, and stay -1.
    taught = found.frame - found.frame[parents] <= max_gap + 1
    if not labels.divisions:
        taught &= found.label == found.label[parents]
    return np.where(taught, parents, -1)


def _answered(window: windows.Graph, ends: tuple[int, int], reach: int) -> windows.Graph:
    """Adds to a window what its nodes are; whoever comes or goes within `reach` of its ends may go on beyond them."""
    label = window.edges["label"] > 0.5
    count = window.size[0]
    children = np.bincount(window.source[label], minlength=count)
    followed = np.bincount(window.target[label], minlength=count) > 0
    nodes = dict(window.nodes)
    real = nodes.pop("real")
    answers = {
        "divide": children > 1,
        "appear": ~followed & real,
        "disappear": (children == 0) & real,
        "false": ~real,
    }
    begins = (window.frame >= ends[0] + reach) | followed | ~real
    finishes = (window.frame <= ends[1] - reach) | (children > 0) | ~real
    shown = {
        "divide": finishes,
        "appear": begins,
        "disappear": finishes,
        "false": np.ones(count, bool),
    }
    nodes["events"] = np.stack([answers[name] for name in EVENTS], 1).astype(np.float32)
    nodes["weights"] = np.stack([shown[name] for name in EVENTS], 1).astype(np.float32)
    return window._replace(nodes=nodes)


class Reader:
    """Turns batch numbers into batches; batch i of all processes together is a function of i alone."""

    def __init__(
        self,
        graphs: Sequence[Window],
        buckets: Sequence[windows.Bucket],
        batch: int,
        process: tuple[int, int],
        seed: int,
    ):
        """Sorts windows by the bucket that they fill.

        Args:
          graphs: all windows.
          buckets: that each of them fits one of.
          batch: windows of the global batch.
          process: (index, count); each gets as many windows.
          seed: of what is drawn.
        """
        self._graphs, self._batch, self._process, self._seed = graphs, batch, process, seed
        fits = np.array([buckets.index(windows.bucket_of(graph.size, buckets)) for graph in graphs])
        self._buckets, self._members = list(buckets), [np.flatnonzero(fits == i) for i in range(len(buckets))]
        self._chance = np.bincount(fits, minlength=len(buckets)) / len(graphs)

    def read(self, number: int | np.int64) -> dict[str, np.ndarray]:
        """Draws the windows of a batch from one bucket, itself drawn in proportion to how many fill it."""
        rng = np.random.default_rng((self._seed, int(number)))
        bucket = rng.choice(len(self._buckets), p=self._chance)
        chosen = rng.choice(self._members[bucket], self._batch)
        samples = np.arange(self._batch) + int(number) * self._batch
        own = slice(self._process[0], None, self._process[1])
        arrays = learned.batch_arrays([self._graphs[i].read() for i in chosen[own]], self._buckets[bucket])
        return {**arrays, "sample": (samples[own] % 2**32).astype(np.uint32)}
