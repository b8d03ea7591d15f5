"""Peaks by large square windows, as an early decoder of centroid maps took them (docs/originals.md, 1.5).

Of two cells nearer than the least distance it finds one, however clearly their peaks stand apart, and each peak
comes at the first pixel of the plateau that the filter spreads it to, not at its centre. It is here to be compared
with: `peaks.find_peaks` has neither fault.

Shapes: Y, X of the map; H, W of the canvas, three times as large; K peaks (static); D the least distance.
"""

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops.peaks import Peaks


def find_windowed_peaks(heat: jax.Array, *, filter_size: int, min_distance: int, count: int) -> Peaks:
    """Spreads each maximum over a square, then takes pixels from the highest down, each clearing a square.

    The map is mirrored into a canvas of three by three tiles, and only peaks in the middle one are returned. All
    tiles take part in the search, as what is cleared decides which pixels of a plateau remain elsewhere. Equal
    pixels come in the order of rows. There is no threshold but the canvas's minimum.

    Args:
      heat: (Y, X) float32.
      filter_size: side of the maximum filter in pixels, static; 20 in the original. An even one reaches a pixel
        farther up and left.
      min_distance: D in pixels, static; 30 in the original. Pixels lower than another within D (in the larger of
        the two axes' distances) are no peaks, and peaks are at least D apart.
      count: K, static. Peaks beyond the K highest are lost.

    Returns:
      Peaks with whole-numbered positions and the heights of the filtered map.
    """
    canvas = jnp.pad(jnp.asarray(heat), [(size, size) for size in heat.shape], mode="symmetric")
    spread = _window_max(canvas, filter_size // 2, filter_size - 1 - filter_size // 2)
    is_peak = (spread == _window_max(spread, min_distance, min_distance)) & (spread > spread.min())
    for axis, size in enumerate(canvas.shape):
        place = lax.broadcasted_iota(jnp.int32, canvas.shape, axis)
        is_peak &= (place >= min_distance) & (place < size - min_distance)
    return _take(jnp.where(is_peak, spread, -jnp.inf), min_distance, count)


def _window_max(x: jax.Array, before: int, after: int) -> jax.Array:
    """(H, W): maximum over the pixels from `before` to `after` along both axes, in steps that double the reach."""
    for axis in range(x.ndim):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (before, after)
        x = jnp.pad(x, pad, constant_values=-jnp.inf)
        reach, wanted = 1, before + after + 1
        while reach < wanted:
            step = min(reach, wanted - reach)
            stop = x.shape[axis] - step
            x = jnp.maximum(*(lax.slice_in_dim(x, k, k + stop, axis=axis) for k in (0, step)))
            reach += step
    return x


def _take(candidates: jax.Array, min_distance: int, count: int) -> Peaks:
    """Takes the highest candidate of the (H, W) canvas and clears those nearer than D, again and again.

    The rows' maxima are kept, so that a peak costs a look at 2 D - 1 rows rather than at the canvas. One
    read and one write of these let XLA keep the canvas in place.
    """
    tile = jnp.array(candidates.shape) // 3
    margin = max(min_distance - 1, 0)
    left = jnp.pad(candidates, margin, constant_values=-jnp.inf)
    none = Peaks(jnp.zeros((count, 2)), jnp.zeros(count), jnp.zeros(count, bool), jnp.zeros((), bool))

    def take(state):
        left, highest, peaks, taken = state
        row = jnp.argmax(highest)
        first = row - margin
        rows = lax.dynamic_slice_in_dim(left, first, 2 * margin + 1)
        column = jnp.argmax(rows[margin])
        pixel = jnp.stack([row, column]) - margin - tile
        here = jnp.all((pixel >= 0) & (pixel < tile))
        place = jnp.where(here, taken, count)
        peaks = Peaks(
            peaks.position.at[place].set(pixel.astype(jnp.float32), mode="drop"),
            peaks.score.at[place].set(highest[row], mode="drop"),
            peaks.valid.at[place].set(True, mode="drop"),
            taken + here >= count,
        )
        rows = jnp.where(jnp.abs(jnp.arange(rows.shape[1]) - column) <= margin, -jnp.inf, rows)
        left = lax.dynamic_update_slice_in_dim(left, rows, first, 0)
        highest = lax.dynamic_update_slice(highest, rows.max(1), (first,))
        return left, highest, peaks, taken + here

    def remain(state):
        _, highest, _, taken = state
        return (highest.max() > -jnp.inf) & (taken < count)

    return lax.while_loop(remain, take, (left, left.max(1), none, jnp.int32(0)))[2]
