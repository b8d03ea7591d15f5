import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops.votes import splat

compiled = jax.jit(splat, static_argnums=2)


def one_by_one(position, weight, shape):
    """Gives each node within 1 along all axes its share of each vote."""
    grid = np.zeros(shape)
    for node in np.ndindex(*shape):
        grid[node] = (weight * np.maximum(1 - np.abs(position - node), 0).prod(1)).sum()
    return grid


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(7, 9), (4, 5, 6)]))
def test_is_one_vote_after_the_other(seed, shape):
    rng = np.random.default_rng(seed)
    position = rng.uniform(-2, np.array(shape) + 1, (40, len(shape))).astype(np.float32)
    position[:5] = np.rint(position[:5])
    weight = rng.random(40).astype(np.float32)
    np.testing.assert_allclose(
        compiled(position, weight, shape), one_by_one(position, weight, shape), atol=1e-5
    )


def test_total_and_centroid_stay():
    rng = np.random.default_rng(0)
    position = rng.uniform(1, 8, (50, 2)).astype(np.float32)
    weight = rng.random(50).astype(np.float32)
    grid = np.asarray(compiled(position, weight, (10, 10)))
    nodes = np.argwhere(np.ones_like(grid))
    np.testing.assert_allclose(grid.sum(), weight.sum(), rtol=1e-5)
    np.testing.assert_allclose(
        (nodes * grid.reshape(-1, 1)).sum(0) / grid.sum(),
        (position * weight[:, None]).sum(0) / weight.sum(),
        rtol=1e-5,
    )
