"""Sets of hand-made features by name, as configs choose them.

Shapes: N detections and E candidates of a movie, F and G features of one.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.tracking import graph, handmade
from celltrack_jax.tracking.cells import Cells
from celltrack_jax.tracking.completeness import UNMATCHED, unmatched_shares


class NodeSet(NamedTuple):
    """Features of a detection."""

    columns: tuple[str, ...]
    """F names; of those that say where in the frame, "_z", "_y" or "_x" is the last part."""
    make: Callable[[Cells, float, graph.Candidates], np.ndarray]
    """All cells of a movie, the diameter in µm that one typically has, and candidates -> (N, F) float32."""
    in_voxels: bool
    """Whether lengths and places are in voxels, and each graph then scales them to [0, 1] (`handmade.minmax`)."""
    planes: tuple[int, ...]
    """Dimensions of the movies that it is made of."""


class EdgeSet(NamedTuple):
    """Features of a candidate."""

    columns: tuple[str, ...]
    """G names."""
    make: Callable[[Cells, float, graph.Candidates], np.ndarray]
    """As `NodeSet.make` -> (E, G) float32."""


def node_set(name: str) -> NodeSet:
    """Returns a set of features.

    Raises:
      InputError: there is no such set.
    """
    return _named(NODES, name, "nodes")


def edge_set(name: str) -> EdgeSet:
    """Returns a set of features.

    Raises:
      InputError: there is no such set.
    """
    return _named(EDGES, name, "edges")


def _original(kind, *axes: str) -> NodeSet:
    places = [f"{what}_{axis}" for what in ("low", "high", "centroid") for axis in axes]
    light = "intensity_max", "intensity_mean", "intensity_min"
    columns = "frame", "area", *places, "axis_major", "axis_minor", *light
    if kind == "patch":
        columns = "frame", *places[-len(axes) :], *light
    return NodeSet(
        columns, lambda cells, _, __: handmade.ben_haim2022(cells, kind), True, (3 if kind == "3d" else 2,)
    )


def _physical(cells: Cells, diameter_um: float, edges: graph.Candidates) -> np.ndarray:
    shares = unmatched_shares(cells.detections.frame, cells.detections.position_um, edges)
    return np.concatenate([handmade.physical(cells, diameter_um), shares], 1)


def _without_size(columns: tuple[str, ...], make: Callable) -> tuple[tuple[str, ...], Callable]:
    """Leaves out what depends on how large a cell, or its marker, is."""
    sizes = "log_volume", "log_axis", "touches_border", "box_overlap"
    kept = [i for i, name in enumerate(columns) if not name.startswith(sizes)]

    def made(cells: Cells, diameter_um: float, edges: graph.Candidates) -> np.ndarray:
        return make(handmade.as_points(cells), diameter_um, edges)[:, kept]

    return tuple(columns[i] for i in kept), made


def _edges(cells: Cells, diameter_um: float, edges: graph.Candidates) -> np.ndarray:
    return graph.edge_features(cells, edges, diameter_um)


def _no_edges(_: Cells, __: float, edges: graph.Candidates) -> np.ndarray:
    return np.zeros((len(edges.source), 0), np.float32)


_PHYSICAL = (*handmade.PHYSICAL, *UNMATCHED)
NODES = {
    "physical": NodeSet(_PHYSICAL, _physical, False, (2, 3)),
    "points": NodeSet(*_without_size(_PHYSICAL, _physical), False, (2, 3)),
    "ben_haim2022_2d": _original("2d", "y", "x"),
    "ben_haim2022_3d": _original("3d", "z", "y", "x"),
    "ben_haim2022_patch": _original("patch", "y", "x"),
}
"""physical: sizes, intensities and neighbours; points: these without sizes, for markers; and the original's."""
EDGES = {
    "physical": EdgeSet(graph.EDGE_FEATURES, _edges),
    "points": EdgeSet(*_without_size(graph.EDGE_FEATURES, _edges)),
    "none": EdgeSet((), _no_edges),
}


def _named(sets, name, what):
    if name not in sets:
        raise InputError(f"features.{what} {name!r} is none of {', '.join(sets)}")
    return sets[name]
