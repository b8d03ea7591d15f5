"""Averages over symmetries are equivariant, and leave alone what is equivariant already."""

import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.ops.symmetry import averaged, symmetries
from tests.inference.toys import Toy


def image(ndim: int) -> np.ndarray:
    """A batch of two square images with one channel."""
    return np.random.default_rng(0).random((2, *(4,) * (ndim - 2), 8, 8, 1), np.float32)


MOVES = {
    "flip x": lambda x: jnp.flip(x, -2),
    "flip y": lambda x: jnp.flip(x, -3),
    "turn": lambda x: jnp.rot90(x, 1, (-3, -2)),
}


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("move", MOVES)
def test_the_average_over_all_symmetries_is_equivariant(ndim, move):
    toy, turn, x = Toy(ndim), MOVES[move], jnp.asarray(image(ndim))
    mean = averaged(toy, symmetries(flips=True, rotations=True))
    np.testing.assert_allclose(mean(turn(x)), turn(mean(x)), atol=1e-5)
    # The toy alone is not.
    assert np.abs(np.asarray(toy(turn(x))) - turn(toy(x))).max() > 1e-2


def test_the_average_over_flips_is_equivariant_to_flips_alone():
    toy, x = Toy(2), jnp.asarray(image(2))
    mean = averaged(toy, symmetries(flips=True, rotations=False))
    np.testing.assert_allclose(mean(MOVES["flip y"](x)), MOVES["flip y"](mean(x)), atol=1e-5)
    assert np.abs(mean(MOVES["turn"](x)) - MOVES["turn"](mean(x))).max() > 1e-2


@pytest.mark.parametrize(("flips", "rotations", "count"), [(0, 0, 1), (1, 0, 4), (0, 1, 4), (1, 1, 8)])
def test_each_symmetry_is_applied_once(flips, rotations, count):
    chosen = symmetries(bool(flips), bool(rotations))
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    seen = []
    averaged(lambda turned: seen.append(np.asarray(turned)) or turned, chosen)(x)
    if count > 1:
        assert len({(one.shape, one.tobytes()) for one in seen}) == len(seen) == count
    np.testing.assert_allclose(averaged(lambda turned: turned, chosen)(x), x, atol=1e-6)


def slopes(image):
    """A network that is equivariant: a scalar, and the vector of slopes."""
    x = jnp.asarray(image)[..., 0]
    return jnp.stack([x, *jnp.gradient(x, axis=tuple(range(1, x.ndim)))], -1)


@pytest.mark.parametrize("ndim", [2, 3])
def test_vectors_are_turned_back_with_the_image(ndim):
    chosen, x = symmetries(flips=True, rotations=True), jnp.asarray(image(ndim))
    vector = tuple(range(1, 1 + ndim))
    np.testing.assert_allclose(averaged(slopes, chosen, vector)(x), slopes(x), atol=1e-5)
    assert np.abs(averaged(slopes, chosen)(x) - slopes(x)).max() > 0.1
