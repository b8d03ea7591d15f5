"""The learned tracker's work before any network: features, candidate graph, labels and edge features of a movie.

100,000 cells in 100 frames, as dense as cells that almost touch, each moving by a tenth of its diameter a frame.
There is no peer: the original (Ben-Haim & Riklin-Raviv, ECCV 2022) may not be run here.
"""

from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Detections, Lineage
from celltrack_jax.tracking import graph, handmade, windows
from celltrack_jax.tracking.cells import Cells
from launch.benches import timing

FRAMES = 100
CELLS = 1000
"""In each frame."""
PITCH, RADIUS = 24, 9
"""Pixels from cell to cell, and of a cell."""
STEP = 0.1
"""Standard deviation of a cell's movement, in diameters a frame."""
GAP, NEIGHBOURS = 1, 6
LENGTH = 10
"""Frames of a window, one at each frame."""
REPEATS = 3


def run(against: str | None) -> list[dict[str, Any]]:
    """Times candidates with labels, then all features, then the cutting of windows.

    Raises:
      InputError: a peer is asked for.
    """
    if against is not None:
        raise InputError(f"bench graph: no peer {against!r}; leave --against out")
    cells, lineage = movie()
    found, diameter = cells.detections, 2.0 * RADIUS

    def link() -> tuple[graph.Candidates, np.ndarray]:
        edges = graph.candidates(found, radius_um=diameter, max_gap=GAP, max_neighbours=NEIGHBOURS)
        return edges, graph.edge_labels(edges, graph.true_parents(found, found.label, lineage))

    def describe() -> tuple[np.ndarray, np.ndarray]:
        return handmade.physical(cells, diameter), graph.edge_features(cells, edges, diameter)

    edges, labels = link()
    nodes, described = describe()
    whole = windows.Graph(
        found.frame, edges.source, edges.target, {"features": nodes}, {"features": described, "label": labels}
    )
    chosen = windows.windows(found.frame, LENGTH, 1)
    kinds = {
        "candidates and labels": (link, {"edges": len(labels), "true": int(labels.sum())}),
        "features of cells and edges": (describe, {}),
        "cutting windows": (lambda: [windows.cut(whole, one) for one in chosen], {"windows": len(chosen)}),
    }
    return [
        timing.alone_row(f"{name}, {len(found.frame)} cells", timing.alone(call, REPEATS, warmup=0)) | numbers
        for name, (call, numbers) in kinds.items()
    ]


def movie() -> tuple[Cells, Lineage]:
    """Makes discs that walk at random, and their tracks."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(CELLS)))
    start = np.stack(np.divmod(np.arange(CELLS), side), 1) * PITCH + PITCH // 2
    walk = np.cumsum(rng.normal(size=(FRAMES, CELLS, 2)) * STEP * 2 * RADIUS, 0)
    place = np.clip(start + walk, RADIUS, side * PITCH - RADIUS - 1).reshape(-1, 2)
    count = len(place)
    frame, label = (axis.reshape(-1) for axis in np.indices((FRAMES, CELLS)))
    position = np.concatenate([np.zeros((count, 1)), place], 1)
    volume = np.pi * RADIUS**2 * np.exp(rng.normal(size=count) * 0.1)
    covariance = np.zeros((count, 3, 3), np.float32)
    covariance[:, [1, 2], [1, 2]] = volume[:, None] / np.pi / 4
    centre, reach = np.rint(position).astype(np.int64), np.array([0, RADIUS, RADIUS])
    light = rng.random((count, 4), np.float32)
    cells = Cells(
        Detections(frame, label + 1, position, volume),
        covariance,
        centre - reach,
        centre + reach + 1,
        light,
        np.array([1, side * PITCH, side * PITCH]),
        np.ones(3),
        np.zeros((count, 0), np.float32),
    )
    return cells, Lineage.from_rows([(n + 1, 0, FRAMES - 1, 0) for n in range(CELLS)])
