"""Edges in blocks against all at once, with their gradients; dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops.dropout import dropout
from celltrack_jax.ops.edges import over_edges

NODES = 5


def _function(weights, s, t, e, _):
    x = jnp.tanh(e["x"] @ weights + s * t)
    return dict(x=x), dict(square=x**2), s + jnp.sin(e["x"])


def _numbers(edges, seed):
    rng = np.random.default_rng(seed)
    senders, receivers = (jnp.asarray(rng.integers(0, NODES, edges), jnp.int32) for _ in range(2))
    shapes = (3, 3), (NODES, 3), (NODES, 3), (edges, 3)
    w, s, t, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return (w, s, t, dict(x=x)), (senders, receivers)


def _sum(arrays, ends, **kwargs):
    out = over_edges(_function, *arrays, *ends, nodes=NODES, **kwargs)
    return sum(jnp.sum(jnp.cos(x) * (1 + i)) for i, x in enumerate(jax.tree.leaves(out))), out


_value_and_gradients = jax.jit(jax.value_and_grad(_sum, has_aux=True), static_argnames=("block", "remat"))


@settings(max_examples=6, deadline=None)
@given(edges=st.sampled_from([0, 1, 7, 8]), block=st.sampled_from([1, 4, 7]), seed=st.integers(0, 99))
def test_blocks_give_the_sums_and_gradients_of_all_at_once(edges, block, seed):
    arrays, ends = _numbers(edges, seed)
    for kwargs in (dict(block=block), dict(block=0, remat=True)):
        ours = _value_and_gradients(arrays, ends, **kwargs)
        whole = _value_and_gradients(arrays, ends, block=0)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, whole)


def test_sums_are_those_of_a_loop_over_edges():
    (w, s, t, e), ends = _numbers(9, 0)
    (out, at_senders, at_receivers) = over_edges(_function, w, s, t, e, *ends, nodes=NODES, block=4)
    to_senders, to_receivers = np.zeros((NODES, 3)), np.zeros((NODES, 3))
    for i, (a, b) in enumerate(np.stack(ends, -1)):
        x = np.tanh(np.asarray(e["x"][i]) @ np.asarray(w) + np.asarray(s[a] * t[b]))
        np.testing.assert_allclose(out["x"][i], x, atol=1e-6)
        to_senders[a] += x**2
        to_receivers[b] += np.asarray(s[a]) + np.sin(e["x"][i])
    np.testing.assert_allclose(at_senders["square"], to_senders, atol=1e-5)
    np.testing.assert_allclose(at_receivers, to_receivers, atol=1e-5)


def test_every_block_draws_its_own_numbers_and_the_same_ones_backwards():
    ids = jnp.zeros(64, jnp.int32)

    def drop(_, __, ___, e, key):
        return dropout(key, e, 0.5), (), ()

    def total(e):
        out, _, _ = over_edges(drop, (), (), (), e, ids, ids, jax.random.key(0), nodes=1, block=16)
        return out.sum(), out

    gradient, out = jax.grad(total, has_aux=True)(jnp.ones((64, 8)))
    np.testing.assert_array_equal(gradient, out)
    blocks = np.asarray(out).reshape(4, -1)
    assert len(np.unique(blocks, axis=0)) == 4


@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_dropout_keeps_the_mean_and_zeroes_the_rate(rate):
    y = np.asarray(dropout(jax.random.key(1), jnp.ones((2000, 33)), rate))
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
    spread = (rate * (1 - rate) / y.size) ** 0.5
    assert abs((y == 0).mean() - rate) < 4 * spread
    halves = y[:, :16] == 0, y[:, 17:] == 0
    assert abs(np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1]) < 0.03


def test_no_key_is_no_dropout():
    x = jnp.arange(3.0)
    assert dropout(None, x, 0.5) is x
    assert dropout(jax.random.key(0), x, 0) is x
