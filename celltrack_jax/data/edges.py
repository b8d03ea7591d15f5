"""Where a crop ends and where its frame ends.

Shapes: S spatial axes of a crop (Y, X or Z, Y, X), D of them.
"""

import jax
import jax.numpy as jnp

from celltrack_jax.data.augment import UNKNOWN


def without_cut_cells(known: jax.Array, width: int) -> jax.Array:
    """Makes a band along a crop's edges in the y-x plane unknown, except where the edge is the frame's.

    The middle of a box that the frame cuts is the middle of what is seen of the cell; that of a cell that the crop alone
    cuts is not. A network that is taught both learns neither.

    Args:
      known: (*S) int32, but y and x with a rim of one pixel more on each side, -1 where that lies outside of the frame.
      width: pixels of the band.

    Returns:
      (*S) int32.
    """
    crop = known[..., 1:-1, 1:-1]
    cut = jnp.zeros(crop.shape, bool)
    for axis, beyond in ((-2, known[..., 1:-1]), (-1, known[..., 1:-1, :])):
        size = crop.shape[axis]
        place = jax.lax.broadcasted_iota(jnp.int32, crop.shape, crop.ndim + axis)
        first, last = (jnp.take(beyond, jnp.array([k]), axis) >= 0 for k in (0, size + 1))
        cut |= ((place < width) & first) | ((place >= size - width) & last)
    return jnp.where(cut, UNKNOWN, crop)
