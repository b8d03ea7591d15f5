"""Diameters of cells, by which images are brought to one scale. numpy only.

The diameter of a frame is the median of its cells' sqrt(area) / (sqrt(pi) / 2), in pixels (docs/originals.md, 3.4).
"""

from collections.abc import Sequence

import numpy as np

from celltrack_jax.data.annotation import KINDS
from celltrack_jax.data.store import StoredSequence
from celltrack_jax.errors import InputError
from celltrack_jax.ops.diameters import of_sizes


def diameter_px(areas: np.ndarray) -> float | None:
    """Returns the diameter of cells (N,) of these areas in pixels; None where there is none."""
    return of_sizes(areas, 2) or None


def frame_diameters(sequences: Sequence[StoredSequence], *, silver: bool) -> list[np.ndarray]:
    """Measures the frames of 2D sequences.

    A frame without outlined cells has the diameter of its sequence's cells, a sequence without any that of its
    category's, or else of all.

    Args:
      sequences: of the store.
      silver: whether silver outlines count.

    Returns:
      (T,) float64 of each sequence.

    Raises:
      InputError: there is no outlined cell at all, or a sequence has several planes.
    """
    for sequence in sequences:
        if sequence.shape[2] > 1:
            raise InputError(
                f"{sequence.name} is a movie of stacks of {sequence.shape[2]} planes, but areas tell the diameter in 2D "
                "alone: set --config.data.diameter_px=0"
            )
    left_out = [KINDS.index("markers")] + ([] if silver else [KINDS.index("silver")])
    areas = [s.foreground[~np.isin(s.foreground[:, 6], left_out)][:, [0, 5]] for s in sequences]
    everything = diameter_px(np.concatenate([np.zeros(0), *(rows[:, 1] for rows in areas)]))
    if everything is None:
        raise InputError(
            "the store has no outlined cell that would tell a diameter: set --config.data.diameter_px=0, or prepare a "
            "store with masks"
        )
    found = []
    for sequence, rows in zip(sequences, areas, strict=True):
        alike = [
            other[:, 1]
            for one, other in zip(sequences, areas, strict=True)
            if one.category == sequence.category
        ]
        usual = diameter_px(rows[:, 1]) or diameter_px(np.concatenate(alike)) or everything
        own = [diameter_px(rows[rows[:, 0] == t, 1]) or usual for t in range(sequence.shape[0])]
        found.append(np.array(own, np.float64))
    return found
