"""Cells of a frame from what a network said of it: labels, and where it finds points, these too.

Shapes: *S a frame's spatial axes, D of them, C channels.
"""

import numpy as np

from celltrack_jax.inference.points import Points
from celltrack_jax.representations import PointRepresentation, Representation, VectorRepresentation


def gives_points(representation: Representation) -> bool:
    """Returns whether cells are read as points."""
    return isinstance(representation, PointRepresentation)


def gives_steps(representation: Representation) -> bool:
    """Returns whether points have a step to the next frame."""
    return isinstance(representation, PointRepresentation) and representation.learns_steps


def gives_vectors(representation: Representation) -> bool:
    """Returns whether channels have directions that are not turned back with a turned image."""
    return isinstance(representation, PointRepresentation) and representation.directed


def vector(representation: Representation) -> tuple[int, ...]:
    """Returns the channels that are the components of a vector, which are turned back with a turned image."""
    return representation.vector if isinstance(representation, VectorRepresentation) else ()


def read(
    representation: Representation, prediction: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, Points | None]:
    """Reads the cells of a frame; thread-safe.

    Args:
      representation: of the network.
      prediction: (*S, C) float32.
      lengths: (D,) voxel size in the unit of the representation's lengths.

    Returns:
      (*S) int32 labels, and the points that they stand for, where the representation finds points.
    """
    if not isinstance(representation, PointRepresentation):
        return representation.decode(prediction, lengths), None
    labels, found = representation.read(prediction, lengths)
    step = None if found.step is None else (found.step / lengths).astype(np.float32)
    return labels, Points(found.position, found.heat, step)
