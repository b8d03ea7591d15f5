"""Points drawn as balls and ellipsoids. numpy only.

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


def draw_ellipsoids(
    position: np.ndarray, radii: np.ndarray, shape: tuple[int, ...], spacing: np.ndarray
) -> np.ndarray:
    """Draws points as ellipsoids along the axes; where they meet, each pixel goes to the one it lies deepest in.

    Args:
      position: (N, D) index.
      radii: (N, D) semi-axes, positive, in the unit of the spacing; the pixel that holds a point is always drawn.
      shape: *S.
      spacing: (D,).

    Returns:
      (*S) int32, 1..N in the order of the points; of equally deep ones the first.
    """
    labels = np.zeros(shape, np.int32)
    depth = np.full(shape, np.inf)
    for k, (point, radius) in enumerate(zip(position, radii / spacing, strict=True)):
        own = np.clip(np.rint(point).astype(int), 0, np.array(shape) - 1)
        low = np.clip(np.minimum(np.ceil(point - radius).astype(int), own), 0, None)
        high = np.minimum(np.maximum(np.floor(point + radius).astype(int), own) + 1, shape)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij")
        square = np.square((np.stack(grid, -1) - point) / radius).sum(-1)
        drawn = square <= 1
        drawn[tuple(own - low)] = True
        drawn &= square < depth[window]
        labels[window][drawn] = k + 1
        depth[window][drawn] = square[drawn]
    return labels
