"""Label maps for the tests of representations."""

import numpy as np


def touching_cells(
    shape: tuple[int, ...], spacing: tuple[float, ...], radius: float, seed: int
) -> np.ndarray:
    """Returns (*S) int32: balls around jittered grid points, cut where they meet, ids dense from 1.

    Most cells touch others; lengths are in the unit of the spacing.
    """
    rng = np.random.default_rng(seed)
    pitch = 1.6 * radius
    axes = [np.arange(0.5 * pitch, n * s, pitch) for n, s in zip(shape, spacing, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    points += rng.uniform(-0.15, 0.15, points.shape) * radius
    points = points[rng.random(len(points)) < 0.85]
    grid = np.stack(
        np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"), -1
    )
    distance = np.linalg.norm(grid[..., None, :] - points, axis=-1)
    return dense(np.where(distance.min(-1) <= radius, distance.argmin(-1) + 1, 0))


def dense(labels: np.ndarray) -> np.ndarray:
    """Returns labels numbered 1..K in their order; 0 and -1 stay."""
    ids = np.unique(labels[labels > 0])
    return np.where(labels > 0, np.searchsorted(ids, labels) + 1, labels).astype(np.int32)


def seg_score(truth: np.ndarray, result: np.ndarray) -> float:
    """Returns the mean over true cells of the IoU with the result that covers more than half of it, else 0."""
    joint = np.zeros((truth.max() + 1, result.max() + 1), np.int64)
    np.add.at(joint, (truth.reshape(-1), result.reshape(-1)), 1)
    true_size, size = joint.sum(1), joint.sum(0)
    scores = []
    for cell in range(1, len(true_size)):
        best = int(joint[cell].argmax())
        covered = best > 0 and 2 * joint[cell, best] > true_size[cell]
        scores.append(
            joint[cell, best] / (true_size[cell] + size[best] - joint[cell, best]) if covered else 0.0
        )
    return float(np.mean(scores))
