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


def ious(truth: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Returns each true cell's best IoU, (K,)."""
    joint = np.zeros((truth.max() + 1, result.max() + 1), np.int64)
    np.add.at(joint, (truth.reshape(-1), result.reshape(-1)), 1)
    union = joint.sum(1)[:, None] + joint.sum(0) - joint
    return (joint / np.maximum(union, 1))[1:, 1:].max(1, initial=0)


def ellipses(shape: tuple[int, int], radii: tuple[float, float], seed: int) -> np.ndarray:
    """Returns (Y, X) int32: ellipses on a jittered grid, some of which touch, with half axes between two lengths."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    pitch = 2.1 * max(radii)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for cy in np.arange(pitch / 2, shape[0], pitch):
        for cx in np.arange(pitch / 2, shape[1], pitch):
            a, b = rng.uniform(radii[0], radii[1], 2)
            turn = rng.uniform(0, np.pi)
            u, v = y - cy - rng.uniform(-2, 2), x - cx - rng.uniform(-2, 2)
            u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
            labels[((u / a) ** 2 + (v / b) ** 2 < 1) & (labels == 0)] = labels.max() + 1
    return labels


def branched(size: int, count: int, seed: int) -> np.ndarray:
    """Returns (size, size) int32: bodies of radius 5 with five thin arms of 15 to 30 pixels, as astrocytes have."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    for label in range(1, count + 1):
        cy, cx = rng.uniform(30, size - 30, 2)
        cell = np.hypot(y - cy, x - cx) < 5
        for angle in rng.uniform(0, 2 * np.pi, 5):
            length = np.arange(0, rng.uniform(15, 30), 0.5)
            turned = angle + np.cumsum(rng.normal(0, 0.05, len(length)))
            for dy, dx in zip(length * np.sin(turned), length * np.cos(turned), strict=True):
                cell |= np.hypot(y - cy - dy, x - cx - dx) < 1.6
        labels[cell & (labels == 0)] = label
    return dense(labels)
