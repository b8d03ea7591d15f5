"""Bands of crops whose cells are cut, against loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.data import edges


@pytest.mark.parametrize("depth", [(), (3,)])
@pytest.mark.parametrize("seed", range(3))
def test_cells_are_unknown_along_edges_that_cut_them(depth, seed):
    known = np.random.default_rng(seed).choice([-1, 0], size=(*depth, 13, 11), p=[0.3, 0.7]).astype(np.int32)
    expected = np.empty((*depth, 11, 9), np.int32)
    for *z, y, x in np.ndindex(expected.shape):
        beyond = [known[*z, end, x + 1] for near, end in ((y < 3, 0), (y >= 8, -1)) if near]
        beyond += [known[*z, y + 1, end] for near, end in ((x < 3, 0), (x >= 6, -1)) if near]
        expected[*z, y, x] = -1 if 0 in beyond else known[*z, y + 1, x + 1]
    np.testing.assert_array_equal(edges.without_cut_cells(jnp.asarray(known), 3), expected)
