"""Star-convex cells: rays from a pixel, and how far along each of them its cell reaches.

Rays are directions in physical space, so that pixels of any spacing need no case of their own. The ends of the rays
of one pixel are the corners of a polygon or polyhedron (Schmidt et al., MICCAI 2018; Weigert et al., WACV 2020).

Shapes: S spatial axes (Y, X) or (Z, Y, X), D of them, n rays, P pixels, K points.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import spatial

from celltrack_jax.ops.distance import largest_of_batch

_OUTSIDE = -2
"""Label around the map."""
_CHUNK = 8192
"""Pixels whose rays are followed at once."""
_FAR = 1e6
"""Where a point that is none lies, in the unit of the spacing."""


@functools.cache
def directions(axes: int, count: int) -> np.ndarray:
    """Unit vectors (n, D) float64: even angles in 2D from x to y, a golden spiral from the lowest z up in 3D."""
    if axes == 2:
        angle = 2 * np.pi * np.arange(count) / count
        rays = np.stack([np.sin(angle), np.cos(angle)], 1)
    else:
        z = np.linspace(-1, 1, count)
        angle = np.arange(count) * (3 - np.sqrt(5)) * np.pi
        rho = np.sqrt(1 - z**2)
        rays = np.stack([z, rho * np.sin(angle), rho * np.cos(angle)], 1)
    rays.setflags(write=False)
    return rays


@functools.cache
def faces(axes: int, count: int) -> np.ndarray:
    """The rays (F, D) int32 between whose ends the faces of a shape are spanned: the convex hull of the directions."""
    if axes == 2:
        found = np.stack([np.arange(count), np.roll(np.arange(count), -1)], 1)
    else:
        found = spatial.ConvexHull(directions(axes, count)).simplices
    found = found.astype(np.int32)
    found.setflags(write=False)
    return found


def lengths_at(
    labels: jax.Array, pixel: jax.Array, spacing: jax.Array, *, rays: int, max_length: float | jax.Array
) -> jax.Array:
    """Follows the rays of some pixels until they leave the pixel's label.

    Rays start at the centre of a pixel, so that each ray crosses the same sequence of pixels, at the same lengths,
    wherever it starts: the sequence is walked once for all pixels (Amanatides and Woo, Eurographics 1987), and lengths
    are exact. Where a ray passes through an edge or corner it does not enter the pixels that only touch it there.

    Args:
      labels: (*S) int32; 0 and -1 (unknown) are labels like any other.
      pixel: (P, D) int32 index.
      spacing: (D,) float32; may be traced.
      rays: n.
      max_length: in the unit of the spacing; sets the number of steps.

    Returns:
      (P, n) float32, in the unit of the spacing; negative where the ray is at least so long: it runs into the map's
      border or unknown pixels, or exceeds `max_length`.
    """
    padded = jnp.pad(labels, 1, constant_values=_OUTSIDE)
    stride = jnp.array(np.cumprod([1, *padded.shape[:0:-1]])[::-1].astype(np.int32))
    start = ((pixel + 1) * stride).sum(-1)[:, None]
    flat = padded.reshape(-1)
    own = flat[start]
    speed = jnp.asarray(directions(labels.ndim, rays), jnp.float32) / spacing
    gap = 1 / jnp.abs(speed)
    way = jnp.where(speed < 0, -stride, stride)
    least = 1e-4 * jnp.min(spacing)

    def step(_: jax.Array, state: tuple) -> tuple:
        crossed, offset, length = state
        reached = (crossed + 0.5) * gap
        next_one = jax.nn.one_hot(reached.argmin(1), labels.ndim, dtype=jnp.int32)
        now, crossed, offset = reached.min(1), crossed + next_one, offset + (next_one * way).sum(1)
        stays = ((crossed + 0.5) * gap).min(1) - now > least
        there = flat.at[start + offset].get(mode="clip")
        leaves = (length == 0) & stays & (there != own)
        return crossed, offset, jnp.where(leaves, jnp.where(there < 0, -now, now), length)

    steps = jnp.floor(max_length * jnp.abs(speed) + 0.5).sum(1).max().astype(jnp.int32) + labels.ndim
    steps = largest_of_batch(jnp.minimum(steps, sum(padded.shape)))
    nothing = jnp.zeros((rays, labels.ndim), jnp.int32)
    empty = jnp.zeros((len(pixel), rays), jnp.float32)
    length = lax.fori_loop(0, steps, step, (nothing, nothing[:, 0], empty))[2]
    return jnp.where((length == 0) | (jnp.abs(length) > max_length), -max_length, length)


def label_lengths(
    labels: jax.Array,
    spacing: jax.Array,
    *,
    rays: int,
    max_length: float | jax.Array,
    grid: tuple[int, ...],
) -> jax.Array:
    """Lengths of the rays of all pixels of cells, or of those of them that lie on a grid.

    Only pixels of cells are followed, in chunks of a fixed size, as many as there are.

    Args:
      labels: (*S) int32: cells 1.., 0 background, -1 unknown.
      spacing: (D,) float32; may be traced.
      rays: n.
      max_length: as in `lengths_at`.
      grid: step of the grid along each axis; the first pixel lies on it.

    Returns:
      (*S / grid, n) float32, as in `lengths_at`; 0 where no cell is.
    """
    here = labels[tuple(slice(None, None, step) for step in grid)]
    count, chunk = here.size, min(_CHUNK, here.size)
    cell = here.reshape(-1) > 0
    listed = jnp.nonzero(cell, size=count + -count % chunk, fill_value=count)[0].astype(jnp.int32)

    def follow(k: jax.Array, lengths: jax.Array) -> jax.Array:
        place = lax.dynamic_slice_in_dim(listed, k * chunk, chunk)
        pixel = jnp.stack(jnp.unravel_index(jnp.minimum(place, count - 1), here.shape), -1) * jnp.array(grid)
        rows = lengths_at(labels, pixel, spacing, rays=rays, max_length=max_length)
        return lengths.at[place].set(rows, mode="drop", indices_are_sorted=True)

    chunks = largest_of_batch((cell.sum() + chunk - 1) // chunk)
    lengths = lax.fori_loop(0, chunks, follow, jnp.zeros((count, rays), jnp.float32))
    return lengths.reshape(*here.shape, rays)


def ball_lengths(
    points: jax.Array,
    shape: tuple[int, ...],
    spacing: jax.Array,
    *,
    rays: int,
    radius: float,
    neighbours: int,
    grid: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
    """Lengths of the rays in balls around points, in closed form; balls that meet are cut at the plane between them.

    Args:
      points: (K, D) float32 index, also outside of the map; NaN for none.
      shape: *S.
      spacing: (D,) float32.
      rays: n.
      radius: of the balls, in the unit of the spacing.
      neighbours: so many nearest other points may cut a ball.
      grid: as in `label_lengths`.

    Returns:
      (*S / grid) float32 distance of each pixel to the nearest point, and (*S / grid, n) float32 lengths, 0 where no
      ball is.
    """
    centre = jnp.where(jnp.isnan(points), _FAR, points * spacing)
    line = [
        jnp.arange(0, size, step) * spacing[a] for a, (size, step) in enumerate(zip(shape, grid, strict=True))
    ]
    position = jnp.stack(jnp.meshgrid(*line, indexing="ij"), -1)
    square = functools.reduce(
        jnp.add,
        (
            jnp.square(
                jnp.expand_dims(along - centre[:, a, None], [1 + b for b in range(len(shape)) if b != a])
            )
            for a, along in enumerate(line)
        ),
    )
    owner = square.argmin(0)
    away = position - centre[owner]
    ray = jnp.asarray(directions(len(shape), rays), jnp.float32)
    along = _dot(away, ray)
    to_centre = jnp.square(away).sum(-1)
    length = jnp.sqrt(jnp.maximum(jnp.square(along) - to_centre[..., None] + radius**2, 0.0)) - along
    for normal in _to_others(centre, neighbours):
        to_other = normal[owner]
        to_plane = 0.5 * jnp.square(to_other).sum(-1) - (away * to_other).sum(-1)
        towards = _dot(to_other, ray)
        length = jnp.where(towards > 0, jnp.minimum(length, to_plane[..., None] / towards), length)
    distance = jnp.sqrt(to_centre)
    return distance, jnp.where(distance[..., None] < radius, length, 0.0)


def _to_others(centre: jax.Array, neighbours: int) -> list[jax.Array]:
    """(K, D) each: the ways to the nearest other point, the second nearest, and so on."""
    way = centre - centre[:, None]
    square = jnp.square(way).sum(-1) + _FAR**2 * jnp.eye(len(centre))
    nearest = lax.top_k(-square, min(neighbours, len(centre) - 1))[1]
    return [way[jnp.arange(len(centre)), nearest[:, k]] for k in range(nearest.shape[1])]


def _dot(vector: jax.Array, ray: jax.Array) -> jax.Array:
    """(..., D) by (n, D): (..., n), summed axis by axis so that it fuses with what follows."""
    return functools.reduce(jnp.add, (vector[..., a, None] * ray[:, a] for a in range(ray.shape[1])))
