"""Sets of hand-made features by name, as configs choose them.

Shapes: N detections of a movie, F features of one.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.tracking import graph, handmade
from celltrack_jax.tracking.cells import Cells


class NodeSet(NamedTuple):
    """Features of a detection."""

    columns: tuple[str, ...]
    """F names; of those that say where in the frame, "_z", "_y" or "_x" is the last part."""
    make: Callable[[Cells, float], np.ndarray]
    """All cells of a movie, and the diameter in µm that one typically has -> (N, F) float32."""
    in_voxels: bool
    """Whether lengths and places are in voxels, and each graph then scales them to [0, 1] (`handmade.minmax`)."""
    planes: tuple[int, ...]
    """Dimensions of the movies that it is made of."""


def node_set(name: str) -> NodeSet:
    """Returns a set of features.

    Raises:
      InputError: there is no such set.
    """
    return _named(NODES, name, "nodes")


def edge_columns(name: str) -> tuple[str, ...]:
    """Returns what `graph.edge_features` makes, or nothing for "none".

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
        columns, lambda cells, _: handmade.ben_haim2022(cells, kind), True, (3 if kind == "3d" else 2,)
    )


NODES = {
    "physical": NodeSet(handmade.PHYSICAL, handmade.physical, False, (2, 3)),
    "ben_haim2022_2d": _original("2d", "y", "x"),
    "ben_haim2022_3d": _original("3d", "z", "y", "x"),
    "ben_haim2022_patch": _original("patch", "y", "x"),
}
EDGES = {"physical": graph.EDGE_FEATURES, "none": ()}


def _named(sets, name, what):
    if name not in sets:
        raise InputError(f"features.{what} {name!r} is none of {', '.join(sets)}")
    return sets[name]
