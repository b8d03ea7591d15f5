"""A trained network applied to a movie's candidate graph: logits of links and events, averaged over windows.

Shapes: N detections, E candidate edges; A nodes and C edges of a bucket, B windows of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.tracking import graph, handmade, links, windows
from celltrack_jax.tracking.cells import Cells
from celltrack_jax.tracking.feature_sets import EdgeSet, NodeSet
from celltrack_jax.tracking.scored_links import Costs

EVENTS = ("divide", "appear", "disappear", "false")
"""Questions about a node."""
Apply = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]
"""The network: a batch of `batch_arrays` -> "edge" (B, C) and one (B, A) per event, logits."""


class Near(NamedTuple):
    """The nearest detections are candidates; see `graph.candidates`."""

    radius: float
    """Farthest step of a cell between neighbouring frames, in cell diameters."""
    max_gap: int
    """Frames in which a cell may be missed."""
    max_neighbours: int
    """Sources of one target in one frame, at most."""

    def edges(self, cells: Cells, diameter_um: float) -> graph.Candidates:
        """Returns the candidates of a movie."""
        return graph.candidates(
            cells.detections,
            radius_um=self.radius * diameter_um,
            max_gap=self.max_gap,
            max_neighbours=self.max_neighbours,
        )


class Box(NamedTuple):
    """All detections in a box of the next frame are candidates; see `graph.candidates_box`."""

    scale: float
    """Half the box's sides, in extents."""
    extent: tuple[int, ...]
    """z y x in voxels; empty takes the largest bounding box of the movie."""

    @property
    def max_gap(self) -> int:
        """Frames in which a cell may be missed."""
        return 0

    def edges(self, cells: Cells, diameter_um: float) -> graph.Candidates:
        """Returns the candidates of a movie."""
        del diameter_um
        extent = np.array(self.extent) if self.extent else None
        return graph.candidates_box(cells, extent=extent, scale=self.scale)


class GraphSpec(NamedTuple):
    """How a movie becomes a graph."""

    candidates: Near | Box
    nodes: NodeSet
    """Features of detections."""
    edges: EdgeSet
    """Features of candidates."""
    diameter_um: float
    """What a cell counts as wide; 0 measures it in each movie (`links.typical_diameter`)."""

    def diameter(self, cells: Cells) -> float:
        """Returns the unit in which the lengths of a movie count, in µm."""
        return self.diameter_um or links.typical_diameter(cells.detections)


class WindowSpec(NamedTuple):
    """How a movie is cut."""

    length: int
    """Frames of a window."""
    stride: int
    """Frames from window to window."""
    buckets: tuple[windows.Bucket, ...]
    """Sizes that windows are padded to, ascending."""
    minmax: bool = False
    """Whether the features of a window's nodes are scaled to [0, 1]."""

    def cut(self, whole: windows.Graph, ends: tuple[int, int]) -> windows.Graph:
        """Returns the window of (first, last) frames of a movie."""
        part = windows.cut(whole, ends)
        if not self.minmax:
            return part
        return part._replace(nodes={**part.nodes, "features": handmade.minmax(part.nodes["features"])})


def candidates_of(name: str, **settings: Any) -> Near | Box:
    """Returns how candidates are found.

    Args:
      name: "near" or "box".
      settings: the fields of `Near` or `Box`, all of them.

    Raises:
      InputError: there is no such way, or it takes other settings.
    """
    kinds: dict[str, Any] = {"near": Near, "box": Box}
    if name not in kinds:
        raise InputError(f"graph.name {name!r} is none of {', '.join(kinds)}")
    if set(settings) != set(kinds[name]._fields):
        raise InputError(
            f"config.graph has {', '.join(sorted(settings))} beside its name; {name} takes "
            f"{', '.join(kinds[name]._fields)}"
        )
    if len(settings.get("extent", ())) not in (0, 3):
        raise InputError(
            f"graph.extent {settings['extent']} is not z, y, x: give three numbers of voxels, or none"
        )
    return kinds[name](**{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})


def movie_graph(
    cells: Cells, spec: GraphSpec, also: graph.Candidates | None = None
) -> tuple[windows.Graph, graph.Candidates]:
    """Makes the graph of a movie, once.

    Args:
      cells: of the movie.
      spec: which are joined, and what is told about them.
      also: further candidates.

    Returns:
      A graph whose nodes and edges have "features", and whose nodes have the cells' "embedding" where they have one;
      and its edges.
    """
    diameter = spec.diameter(cells)
    edges = spec.candidates.edges(cells, diameter)
    if also is not None:
        edges = graph.with_links(edges, also)
    nodes, described = (
        {"features": features.make(cells, diameter, edges)} for features in (spec.nodes, spec.edges)
    )
    if cells.embedding.shape[1]:
        nodes["embedding"] = cells.embedding
    return windows.Graph(cells.detections.frame, edges.source, edges.target, nodes, described), edges


def batch_arrays(graphs: Sequence[windows.Graph], bucket: windows.Bucket) -> dict[str, np.ndarray]:
    """Pads windows to one size, each for itself.

    Args:
      graphs: B windows with equal names.
      bucket: that each of them fits.

    Returns:
      senders and receivers (B, C) int32, node_mask (B, A) and edge_mask (B, C) bool, and node/<name> (B, A, ...),
      edge/<name> (B, C, ...). Padding edges lead from the first padding node to itself.
    """
    columns: list[dict[str, np.ndarray]] = []
    for one in graphs:
        padded: Any = windows.pad([one], bucket)
        nodes, edges = one.size
        ends = {"senders": padded.senders, "receivers": padded.receivers}
        row: dict[str, np.ndarray] = {name: index.astype(np.int32) for name, index in ends.items()}
        row["node_mask"], row["edge_mask"] = np.arange(bucket.nodes) < nodes, np.arange(bucket.edges) < edges
        row |= {f"node/{name}": values for name, values in padded.nodes.items()}
        row |= {f"edge/{name}": values for name, values in padded.edges.items()}
        columns.append(row)
    return {key: np.stack([row[key] for row in columns]) for key in columns[0]}


def costs(
    whole: windows.Graph, spec: WindowSpec, apply: Apply, stop: Callable[[], bool] = lambda: False
) -> Costs | None:
    """Scores a movie window by window; where windows overlap, their logits are averaged.

    Args:
      whole: the movie's graph.
      spec: how it is cut; its stride has to be at most the length, or edges would be in no window.
      apply: the network.
      stop: polled before each window.

    Returns:
      Negative logits: what `ilp` takes. Of a network that judges links alone, events cost nothing, and no detection
      is false. None when told to stop.
    """
    nodes, edges = whole.size
    sums = {"edge": np.zeros(edges)}
    times = {"edge": np.zeros(edges), "node": np.zeros(nodes)}
    # An edge over a gap lies in a window only if both of its ends do.
    for window in windows.windows(whole.frame, spec.length, spec.stride):
        if stop():
            return None
        part = spec.cut(whole, window)
        arrays = batch_arrays([part], _roomy(part.size, spec.buckets))
        # Fetched whole: to cut a device array is a program of its own for each size of a window.
        found = {name: np.asarray(values)[0] for name, values in apply(arrays).items()}
        here = np.searchsorted(whole.frame, window[0]) + np.arange(part.size[0])
        first, last = np.searchsorted(whole.target, (here[0], here[-1] + 1))
        inside = np.flatnonzero(whole.source[first:last] >= here[0]) + first
        sums["edge"][inside] += found["edge"][: part.size[1]]
        times["edge"][inside] += 1
        for name in EVENTS if "false" in found else ():
            sums.setdefault(name, np.zeros(nodes))[here] += found[name][: part.size[0]]
        times["node"][here] += 1
    mean = {name: np.full(nodes, np.inf if name == "false" else 0.0) for name in EVENTS}
    mean |= {name: -values / times["node"] for name, values in sums.items() if name != "edge"}
    edge = np.where(times["edge"] > 0, -sums["edge"] / np.maximum(times["edge"], 1), np.inf)
    return Costs(edge=edge, **mean)


def _roomy(size: tuple[int, int], buckets: Sequence[windows.Bucket]) -> windows.Bucket:
    """The smallest bucket that a window fits; the largest one doubled until it does, for crowds unlike those known."""
    largest = max(buckets, key=sum)
    doubled = [windows.Bucket(largest.nodes << i, largest.edges << i) for i in range(1, 40)]
    return windows.bucket_of(size, [*buckets, *doubled])


def fitting(
    size: tuple[int, int], buckets: Sequence[windows.Bucket], window: tuple[int, int]
) -> windows.Bucket:
    """Returns the smallest bucket that a window fits.

    Raises:
      InputError: there is none; the message says which size is missing.
    """
    try:
        return windows.bucket_of(size, buckets)
    except ValueError:
        largest = buckets[-1]
        raise InputError(
            f"frames {window[0]} to {window[1]} hold {size[0]} cells and {size[1]} candidate links, the largest bucket "
            f"{largest.nodes} and {largest.edges}: add a larger one, as in "
            f"'--config.data.buckets=(({size[0] + 1},{size[1]}),)', or shorten --config.data.window"
        ) from None
