"""Statistics and their application against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.ops import normalisation


def _normalised(x, axes):
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + normalisation.EPSILON)


@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("space", [(7, 5), (2, 3, 4), (1, 1), (1, 2)])
def test_groups_are_normalised_alone(groups, space):
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (2, *space, 12))
    scale, offset = rng.normal(size=12), rng.normal(size=12)
    grouped = x.reshape(2, *space, groups, -1)
    axes = (*range(1, 1 + len(space)), -1)
    expected = _normalised(grouped, axes).reshape(x.shape) * scale + offset
    x = jnp.asarray(x, jnp.float32)
    out = normalisation.normalise(x, *normalisation.group_statistics(x, groups), scale, offset)
    np.testing.assert_allclose(out, expected, atol=3e-3 if np.prod(space) == 1 else 1e-4)


def test_batch_statistics_are_those_of_every_pixel_of_the_batch():
    x = np.random.default_rng(0).normal(1, 2, (3, 4, 5, 6)).astype(np.float32)
    mean, variance = normalisation.batch_statistics(jnp.asarray(x))
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(variance, x.var((0, 1, 2)), rtol=1e-5)


def test_bfloat16_is_summed_in_float32():
    # 300 x 300 ones: a bfloat16 sum stops growing at 256.
    x = jnp.ones((1, 300, 300, 4), jnp.bfloat16)
    mean, variance = normalisation.group_statistics(x, 2)
    assert mean.dtype == variance.dtype == jnp.float32
    np.testing.assert_allclose(mean, 1, rtol=1e-6)
    out = normalisation.normalise(x, mean, variance, jnp.ones(4), jnp.full(4, 0.5))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), 0.5, atol=1e-2)
