"""Points drawn as balls. numpy only.

Shapes: N points, S spatial axes (Y, X) or (Z, Y, X), D of them.
"""

import numpy as np


def draw_balls(
    position: np.ndarray, shape: tuple[int, ...], spacing: np.ndarray, radius: float
) -> np.ndarray:
    """Draws points as balls; where balls meet, each pixel goes to the nearest point.

    Args:
      position: (N, D) index.
      shape: *S.
      spacing: (D,).
      radius: in its unit; the pixel that holds a point is always drawn.

    Returns:
      (*S) int32, 1..N in the order of the points.
    """
    labels = np.zeros(shape, np.int32)
    reach = [int(radius / size) + 1 for size in spacing]
    around = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(
        -1, len(shape)
    )
    middle = np.clip(np.rint(position).astype(int), 0, np.array(shape) - 1)
    pixel = middle[:, None] + around
    distance = np.linalg.norm((pixel - position[:, None]) * spacing, axis=-1)
    drawn = (distance <= radius) | ~around.any(-1)
    drawn &= ((pixel >= 0) & (pixel < shape)).all(-1)
    point, place = np.nonzero(drawn)
    # What is written last stays: the nearest.
    order = np.argsort(-distance[point, place], kind="stable")
    labels[tuple(pixel[point, place][order].T)] = point[order] + 1
    return labels
