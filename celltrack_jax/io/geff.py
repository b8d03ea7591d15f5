"""GEFF, the graph exchange file format for tracks: one node per cell and frame, one edge per link.

Node properties: t (index into the image's time axis), z, y, x (centroid, micrometers where the spacing is known),
label (id in the frame's mask), frame (number as in the file names). Edge property, where a network gave it:
probability. Shapes: N nodes, E edges.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.lineage import Lineage


class Graph(NamedTuple):
    """Cells and the links between them; nodes are sorted by (t, label)."""

    t: np.ndarray
    """(N,) int64, index into the image's time axis."""
    frame: np.ndarray
    """(N,) int64, frame number as in the file names."""
    label: np.ndarray
    """(N,) int64, id in that frame's mask."""
    position: np.ndarray
    """(N, 3) float64, z, y, x: micrometers, or voxels where the spacing is unknown."""
    edges: np.ndarray
    """(E, 2) int64, indices of nodes, earlier and later, sorted."""
    probability: np.ndarray | None = None
    """(E,) float32 of each edge to be right, NaN where unknown; None where nothing is known."""


def graph(
    t: np.ndarray,
    frame: np.ndarray,
    label: np.ndarray,
    position: np.ndarray,
    lineage: Lineage | None,
    probability: np.ndarray | None = None,
) -> Graph:
    """Links cells by a lineage whose tracks carry the masks' labels.

    A link is made within a track and from a parent's last cell to its daughters' first, over the frames between
    them only where all of these are among the given ones: what happened in a frame that is missing is not known.

    Args:
      t: (N,) indices into the time axis.
      frame: (N,) frame numbers, which may have gaps.
      label: (N,) track labels.
      position: (N, 3).
      lineage: None gives no edges.
      probability: (N,) float32 of each cell's link to the one before it, NaN where unknown.

    Raises:
      ValueError: the lineage links cells backwards; `ctc_rules.check_track_file` finds such ones in files.
    """
    order = np.lexsort((label, t))
    t, frame, label = (np.asarray(column, np.int64)[order] for column in (t, frame, label))
    position = np.asarray(position, np.float64)[order]
    links = []
    if lineage is not None:
        # Nodes of a track are in the order of time, as `order` sorts by t first.
        members: dict[int, list[int]] = {}
        for node, name in enumerate(label.tolist()):
            members.setdefault(name, []).append(node)
        for name, parent in zip(lineage.label.tolist(), lineage.parent.tolist(), strict=True):
            nodes = members.get(name, [])
            links += itertools.pairwise(nodes)
            if nodes and parent in members:
                links.append((members[parent][-1], nodes[0]))
    edges = np.array(sorted(links), np.int64).reshape(-1, 2)
    steps = np.diff(t[edges], axis=1)[:, 0]
    if (steps <= 0).any():
        earlier, later = edges[np.argmin(steps)]
        raise ValueError(
            f"track {label[earlier]} in frame {frame[earlier]} cannot be linked to track {label[later]} in frame "
            f"{frame[later]}"
        )
    # Among frames that are all there, the number grows by as much as the index does.
    seen = np.diff(frame[edges], axis=1)[:, 0] == steps
    edges = edges[seen]
    if probability is None or np.isnan(probability).all():
        return Graph(t, frame, label, position, edges)
    return Graph(t, frame, label, position, edges, probability[order][edges[:, 1]])


def write(path: Path, tracks: Graph, *, spacing_known: bool, image: str | None, labels: str | None) -> None:
    """Writes a graph as a GEFF group (zarr v3).

    Args:
      path: of the group, which must not exist.
      tracks: the graph.
      spacing_known: whether positions are in micrometers.
      image: the images relative to `path`, for viewers; None where they are not at hand.
      labels: the label group relative to `path`, whose ids the node property "label" carries; None where there is none.
    """
    import geff_spec  # pulls in zarr, networkx and pydantic, 0.6 s: only who writes tracks pays
    from geff import core_io

    unit = "micrometer" if spacing_known else "pixel"
    related = []
    if image is not None:
        related.append(geff_spec.RelatedObject(type="image", path=image))
    if labels is not None:
        related.append(geff_spec.RelatedObject(type="labels", path=labels, node_prop="label"))
    metadata = geff_spec.GeffMetadata(
        directed=True,
        axes=[
            geff_spec.Axis(name="t", type="time", unit="frame"),
            *(geff_spec.Axis(name=axis, type="space", unit=unit) for axis in "zyx"),
        ],
        node_props_metadata={},
        edge_props_metadata={},
        related_objects=related,
    )
    z, y, x = tracks.position.T
    columns = {"t": tracks.t, "z": z, "y": y, "x": x, "label": tracks.label, "frame": tracks.frame}
    scores = {}
    if tracks.probability is not None:
        unknown = np.isnan(tracks.probability)
        scores["probability"] = {
            "values": np.where(unknown, np.float32(0), tracks.probability),
            "missing": unknown if unknown.any() else None,
        }
    core_io.write_arrays(
        str(path),
        np.arange(len(tracks.t), dtype=np.uint64),
        {name: {"values": np.ascontiguousarray(values), "missing": None} for name, values in columns.items()},
        tracks.edges.astype(np.uint64),
        scores,
        metadata,
        zarr_format=3,
    )
