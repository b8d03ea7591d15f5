"""Values and gradients of an operation, to be compared with another way to compute it."""

import jax
import jax.numpy as jnp
import numpy as np


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def value_and_gradients(function, x, kernel):
    """A scalar that weighs every output differently, so that a misplaced pixel shows."""

    def loss(x, kernel):
        y = function(x, kernel)
        return jnp.sum(random(9, *y.shape) * jnp.sin(y))

    return jax.jit(function)(x, kernel), *jax.jit(jax.grad(loss, (0, 1)))(x, kernel)


def assert_equal(ours, reference):
    for a, b in zip(ours, reference, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
