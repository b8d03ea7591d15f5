"""Resampling of images and label maps in the image plane.

Shapes: Y, X the plane that is read, y, x the plane that is made, P anything sampled per pixel (channels,
z planes), D = 2 plane axes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def plane_coordinates(read: Sequence[int], size: Sequence[int], matrix: jax.Array) -> jax.Array:
    """Source coordinates of an affine map about the common centre of the two planes.

    Args:
      read: (Y, X).
      size: (y, x); the made plane lies in the middle of the read one.
      matrix: (2, 2) float32, from made to read offsets from the centre, axes in the order y, x.

    Returns:
      (2, y, x) float32 pixel coordinates in the read plane; whole numbers, exactly, for the identity.
    """
    middle = [(n - 1) / 2 for n in size]
    offset = jnp.stack(
        jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) - m for n, m in zip(size, middle, strict=True)),
                     indexing="ij")
    )  # fmt: skip
    centre = jnp.array([(r - n) // 2 + m for r, n, m in zip(read, size, middle, strict=True)], jnp.float32)
    # Not an einsum: bfloat16 matrix units would move pixels.
    return (matrix[:, :, None, None] * offset[None]).sum(1) + centre[:, None, None]


def spline_field(control: jax.Array, size: Sequence[int], spacing: int) -> jax.Array:
    """Smooth field through a cubic B-spline of control values.

    Args:
      control: (D, *control_points(size, spacing)) float32.
      size: (y, x).
      spacing: pixels between control points.

    Returns:
      (D, y, x) float32.
    """
    rows, columns = (jnp.asarray(_spline_matrix(n, spacing)) for n in size)
    along_y = (rows[None, :, :, None] * control[:, None]).sum(2)
    # Products and sums, not matrix products, whose code for these odd sizes takes XLA 2 s to compile on CPUs.
    return (along_y[:, :, None] * columns).sum(-1)


def control_points(size: Sequence[int], spacing: int) -> tuple[int, ...]:
    """Control points that `spline_field` needs per axis."""
    return tuple((n - 1) // spacing + 4 for n in size)


def sample_linear(values: jax.Array, coordinates: jax.Array) -> jax.Array:
    """Bilinear samples; outside, the image is mirrored about its edge pixels.

    One gather per corner with flattened indices: 0.5 ms for 4x256x256 on two CPU cores, where gathers of
    2x2 windows took 1.2 ms and packing labels with the image 1.6 ms.

    Args:
      values: (Y, X, *P) float32.
      coordinates: (2, y, x) float32 pixel coordinates.

    Returns:
      (y, x, *P) float32; exactly the pixel at whole coordinates.
    """
    height, width = values.shape[:2]
    y, x = (_mirrored(c, n) for c, n in zip(coordinates, (height, width), strict=True))
    y0, x0 = jnp.floor(y), jnp.floor(x)
    weight_y, weight_x = (
        (c - c0).reshape(*c.shape, *[1] * (values.ndim - 2)) for c, c0 in ((y, y0), (x, x0))
    )
    y0, x0 = y0.astype(jnp.int32), x0.astype(jnp.int32)
    y1, x1 = jnp.minimum(y0 + 1, height - 1), jnp.minimum(x0 + 1, width - 1)
    flat = values.reshape(height * width, *values.shape[2:])

    def pixel(row: jax.Array, column: jax.Array) -> jax.Array:
        return flat.at[row * width + column].get(mode="promise_in_bounds")

    above = pixel(y0, x0) * (1 - weight_x) + pixel(y0, x1) * weight_x
    below = pixel(y1, x0) * (1 - weight_x) + pixel(y1, x1) * weight_x
    return above * (1 - weight_y) + below * weight_y


def sample_nearest(labels: jax.Array, coordinates: jax.Array, outside: int) -> jax.Array:
    """Nearest samples of a label map.

    Args:
      labels: (Y, X, *P) integers.
      coordinates: (2, y, x) float32 pixel coordinates.
      outside: value where the nearest pixel lies outside the map.

    Returns:
      (y, x, *P) of the labels' dtype.
    """
    height, width = labels.shape[:2]
    row, column = (jnp.floor(c + 0.5).astype(jnp.int32) for c in coordinates)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    flat = labels.reshape(height * width, *labels.shape[2:])
    inside = inside.reshape(*inside.shape, *[1] * (labels.ndim - 2))
    return jnp.where(inside, flat.at[index].get(mode="promise_in_bounds"), outside)


def _mirrored(coordinate: jax.Array, size: int) -> jax.Array:
    """Folds coordinates into [0, size - 1]; those inside stay exactly as they are."""
    last = size - 1
    inside = (coordinate >= 0) & (coordinate <= last)
    if last == 0:
        return jnp.zeros_like(coordinate)
    folded = last - jnp.abs(last - jnp.mod(coordinate, 2 * last))
    return jnp.where(inside, coordinate, folded)


def _spline_matrix(size: int, spacing: int) -> np.ndarray:
    """(size, control points) float32 weights of the uniform cubic B-spline."""
    position = np.arange(size) / spacing
    first = np.floor(position).astype(int)
    t = position - first
    blend = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    matrix = np.zeros((size, (size - 1) // spacing + 4), np.float32)
    for k in range(4):
        matrix[np.arange(size), first + k] = blend[:, k]
    return matrix
