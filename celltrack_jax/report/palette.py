"""Colours of tracks, the same in the pictures and in the lineage tree.

Shapes: K tracks.
"""

import numpy as np

from celltrack_jax.lineage import Lineage
from celltrack_jax.report.lineage_tree import layout

TRACK_COLOURS = (
    "#3d8fe0", "#d9661f", "#2b9b69", "#cc5fb4", "#a0841a", "#7b80ee", "#16979c", "#e5566a", "#6f952b", "#b06fdd",
)  # fmt: skip
"""Each has a contrast of at least 3:1 with white and with a dark page (tested), and neighbours differ in hue."""


def colour_index(lineage: Lineage) -> np.ndarray:
    """(K,) int64 into TRACK_COLOURS: neighbours in the lineage tree, so siblings too, get different ones."""
    index = np.empty(len(lineage.label), np.int64)
    index[np.argsort(layout(lineage).row, kind="stable")] = np.arange(len(index)) % len(TRACK_COLOURS)
    return index


def rgb(colour: str) -> np.ndarray:
    """(3,) uint8 of "#rrggbb"."""
    return np.frombuffer(bytes.fromhex(colour.removeprefix("#")), np.uint8)
