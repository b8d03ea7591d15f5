"""Blocks become channels and back without loss, in the documented order."""

import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.ops.blocks import depth_to_space, space_to_depth


@pytest.mark.parametrize("window", [(2, 2), (1, 1), (1, 2, 2), (2, 3, 1)])
def test_depth_to_space_inverts_space_to_depth(window):
    x = jnp.arange(2 * np.prod([4 * w for w in window]) * 3, dtype=jnp.float32)
    x = x.reshape(2, *(4 * w for w in window), 3)
    packed = space_to_depth(x, window)
    assert packed.shape == (2, *(4,) * len(window), 3 * np.prod(window))
    np.testing.assert_array_equal(depth_to_space(packed, window), x)


def test_a_block_is_read_row_by_row():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(x, (2, 2))[0, 0, 1], [2, 3, 6, 7])
