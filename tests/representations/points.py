"""Points, and what a representation makes of them."""

from typing import Any

import jax
import numpy as np
from scipy import optimize

from celltrack_jax.representations import Found, Target
from tests.representations.arms import perfect

KINETOCHORES = ((20, 48, 48), np.array([0.3, 0.13, 0.13]))
"""Shape and spacing in µm."""


def lattice(shape: tuple[int, ...], step: tuple[float, ...], seed: int) -> np.ndarray:
    """Returns points (N, D) at most 0.45 pixels from a grid's nodes, of which none lies within 2 of the border; along
    the last axis no two of them are nearer than `step[-1]`."""
    rng = np.random.default_rng(seed)
    axes = [np.arange(3, size - 3, pitch) for size, pitch in zip(shape, step, strict=True)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    shift = rng.uniform(-0.45, 0.45, (*nodes.shape[:-2], 1, nodes.shape[-1]))
    return (nodes + shift).reshape(-1, len(shape)).astype(np.float32)


_point_target = jax.jit(lambda r, *args: r.point_target(*args), static_argnums=0)


def point_target(representation: Any, points: np.ndarray, known: np.ndarray, spacing: np.ndarray) -> Target:
    """Returns the target of one crop."""
    points = np.asarray(points, np.float32)
    return _point_target(
        representation, points, np.full_like(points, np.nan), known, np.asarray(spacing, np.float32)
    )


def answer(
    representation: Any, points: np.ndarray, shape: tuple[int, ...], spacing: np.ndarray
) -> np.ndarray:
    """Returns the raw output (*S, C) that says the points of one crop."""
    target = point_target(representation, points, np.zeros(shape, np.int32), spacing)
    return np.asarray(perfect(representation, target))


def errors(found: Found, points: np.ndarray, spacing: np.ndarray, gate: float) -> np.ndarray:
    """Returns the distances of one-to-one pairs of found and true points that lie within a gate."""
    apart = np.linalg.norm((found.position[:, None] - points) * spacing, axis=-1)
    pairs = optimize.linear_sum_assignment(np.minimum(apart, gate))
    return apart[pairs][apart[pairs] < gate]
