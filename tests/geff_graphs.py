"""GEFF groups as their reference package reads them."""

from pathlib import Path

import geff as geff_package
import numpy as np

from celltrack_jax.io.geff import Graph


def read(path: Path) -> Graph:
    """Reads a group that we wrote; the package checks its structure."""
    graph, _ = geff_package.read(str(path), structure_validation=True)
    names = ("t", "frame", "label", "z", "y", "x")
    nodes = sorted(graph.nodes, key=lambda node: (graph.nodes[node]["t"], graph.nodes[node]["label"]))
    table = np.array([[graph.nodes[node][name] for name in names] for node in nodes], np.float64)
    table = table.reshape(-1, len(names))
    place = {node: number for number, node in enumerate(nodes)}
    edges = np.array(sorted((place[a], place[b]) for a, b in graph.edges), np.int64).reshape(-1, 2)
    t, frame, label = table[:, :3].astype(np.int64).T
    scored = {(place[a], place[b]): p for a, b, p in graph.edges.data("probability") if p is not None}
    probability = np.array([scored.get((a, b), np.nan) for a, b in edges.tolist()], np.float32)
    return Graph(t, frame, label, table[:, 3:], edges, probability if scored else None)
