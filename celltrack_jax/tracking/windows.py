"""Windows of a movie's graph as padded `jraph.GraphsTuple`s of a few sizes, so that few programs are compiled.

The graph is made once for the movie; a window is two slices of it. Besides the models this file alone imports
jraph, which is no longer developed (with jax 0.10.2 `zero_out_padding` is broken, the rest works).

Shapes: N detections, E edges, W windows; A nodes and C edges of a bucket.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jraph
import numpy as np


class Graph(NamedTuple):
    """A movie, or a window of one; what it holds about nodes and edges is up to the task."""

    frame: np.ndarray
    """(N,) int64, ascending."""
    source: np.ndarray
    """(E,) int64."""
    target: np.ndarray
    """(E,) int64, ascending."""
    nodes: Mapping[str, np.ndarray]
    """Each (N, ...)."""
    edges: Mapping[str, np.ndarray]
    """Each (E, ...)."""

    @property
    def size(self) -> tuple[int, int]:
        """N and E."""
        return len(self.frame), len(self.source)


class Bucket(NamedTuple):
    """The size of padded graphs."""

    nodes: int
    """A; at least one is padding."""
    edges: int
    """C."""


def windows(frame: np.ndarray, length: int, stride: int) -> list[tuple[int, int]]:
    """Lists the windows of a movie; those without a detection are left out.

    Args:
      frame: (N,) integers, the frame of each detection, ascending.
      length: frames of a window, at least 1; a shorter movie is one window.
      stride: frames from window to window, at least 1; the last window ends with the movie, whatever the stride.

    Returns:
      (first, last) frame numbers, last inclusive.
    """
    if len(frame) == 0:
        return []
    begin, end = int(frame[0]), int(frame[-1]) - length + 1
    first = np.append(np.arange(begin, end, stride), max(begin, end))
    last = np.minimum(first + length - 1, frame[-1])
    held = np.searchsorted(frame, last, "right") > np.searchsorted(frame, first)
    return list(zip(first[held].tolist(), last[held].tolist(), strict=True))


def cut(graph: Graph, window: tuple[int, int]) -> Graph:
    """Returns the detections of a window of (first, last) frames, and the edges with both ends in it."""
    begin, end = np.searchsorted(graph.frame, window[0]), np.searchsorted(graph.frame, window[1], "right")
    here = slice(*np.searchsorted(graph.target, (begin, end)))
    kept = np.flatnonzero(graph.source[here] >= begin) + here.start
    return Graph(
        graph.frame[begin:end],
        graph.source[kept] - begin,
        graph.target[kept] - begin,
        {name: values[begin:end] for name, values in graph.nodes.items()},
        {name: values[kept] for name, values in graph.edges.items()},
    )


def pad(graphs: Sequence[Graph], bucket: Bucket) -> jraph.GraphsTuple:
    """Joins graphs and pads them with one more, which has all the padding nodes and edges, to the bucket's size.

    Args:
      graphs: with the same names of nodes and edges.
      bucket: that all of them together fit.

    Returns:
      numpy arrays: nodes and edges by name, (A, ...) and (C, ...), 0 in the padding; senders and receivers (C,)
      int32; n_node and n_edge (len(graphs) + 1,) int32; globals None.

    Raises:
      ValueError: they do not fit.
    """
    nodes, edges = (sum(sizes) for sizes in zip(*(graph.size for graph in graphs), strict=True))
    if nodes >= bucket.nodes or edges > bucket.edges:
        raise ValueError(
            f"{nodes} nodes and {edges} edges do not fit a bucket of {bucket.nodes} and {bucket.edges}, of which "
            "one node is padding: choose larger buckets"
        )
    joined = jraph.batch_np([_tuple(graph) for graph in graphs])
    return jraph.pad_with_graphs(joined, bucket.nodes, bucket.edges, len(graphs) + 1)


def flat_tuple(nodes: Mapping[str, Any], edges: Any, senders: Any, receivers: Any) -> jraph.GraphsTuple:
    """Returns what the networks take of one padded window; which nodes and edges are padding is left to the ends."""
    make: Any = jraph.GraphsTuple
    return make(
        nodes=dict(nodes),
        edges=edges,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=None,
        n_edge=None,
    )


def padding_masks(graph: jraph.GraphsTuple) -> tuple[jax.Array, jax.Array]:
    """Returns (A,) and (C,) bool, which nodes and which edges of a padded graph are real; for use in a jit too."""
    masks: Any = jraph.get_node_padding_mask(graph), jraph.get_edge_padding_mask(graph)
    return masks


def choose_buckets(sizes: np.ndarray, count: int) -> tuple[Bucket, ...]:
    """Chooses the sizes to which windows are padded.

    Of all ways to cut the windows, in the order of their edges and then nodes, into `count` runs with a bucket
    each, the one that pads the fewest nodes and edges together.

    Args:
      sizes: (W, 2) integers, nodes and edges of each window, or of each batch of windows.
      count: buckets at most.

    Returns:
      Buckets in ascending order of edges.

    Raises:
      ValueError: no window, or no bucket.
    """
    sizes = np.asarray(sizes, np.int64).reshape(-1, 2)
    if len(sizes) == 0 or count < 1:
        raise ValueError(f"{len(sizes)} windows cannot be padded to {count} sizes: give at least one of each")
    sizes, times = np.unique(sizes[:, ::-1], axis=0, return_counts=True)
    edges, nodes = sizes.T
    total = np.append(0, np.cumsum(times))
    # best[i]: least area of the first i sizes in so many runs; start[r][i]: where the last of r + 1 runs begins.
    best = np.append(0.0, np.full(len(edges), np.inf))
    start = np.zeros((min(count, len(edges)), len(edges) + 1), np.int64)
    for run in range(len(start)):
        longer = np.full(len(best), np.inf)
        for end in range(run + 1, len(best)):
            widest = np.maximum.accumulate(nodes[:end][::-1])[::-1]
            area = best[:end] + (edges[end - 1] + widest) * (total[end] - total[:end])
            start[run, end] = np.argmin(area)
            longer[end] = area[start[run, end]]
        best = longer
    borders = [len(edges)]
    for run in reversed(range(len(start))):
        borders.append(int(start[run, borders[-1]]))
    runs = [slice(a, b) for a, b in itertools.pairwise(reversed(borders))]
    return tuple(Bucket(int(nodes[run].max()) + 1, int(edges[run].max())) for run in runs)


def bucket_of(size: tuple[int, int], buckets: Sequence[Bucket]) -> Bucket:
    """Returns the bucket with the fewest nodes and edges together that N nodes and E edges fit.

    Raises:
      ValueError: none is large enough.
    """
    fitting = [bucket for bucket in buckets if size[0] < bucket.nodes and size[1] <= bucket.edges]
    if not fitting:
        raise ValueError(
            f"{size[0]} nodes and {size[1]} edges fit none of the buckets {[tuple(b) for b in buckets]}, of which "
            "one node is padding: choose larger buckets or shorter windows"
        )
    return min(fitting, key=sum)


def _tuple(graph: Graph) -> jraph.GraphsTuple:
    nodes, edges = graph.size
    # Its annotations know jax arrays alone.
    make: Any = jraph.GraphsTuple
    return make(
        nodes=dict(graph.nodes),
        edges=dict(graph.edges),
        senders=graph.source.astype(np.int32),
        receivers=graph.target.astype(np.int32),
        globals=None,
        n_node=np.array([nodes], np.int32),
        n_edge=np.array([edges], np.int32),
    )
