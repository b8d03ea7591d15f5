"""The scan over frames equals a plain loop over equations written out, and Flax's cell."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.ops import convlstm, convolution

B, T, Y, X, D, C = 2, 4, 5, 6, 3, 2


def _random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _weights(bias):
    kernels = 0.3 * _random(1, 3, 3, D, 4 * C), 0.3 * _random(2, 3, 3, C, 4 * C)
    return convlstm.Weights(*kernels, _random(3, 4 * C) if bias else None)


STATE = convlstm.State(_random(4, B, Y, X, C), _random(5, B, Y, X, C))
CLIP = _random(0, B, T, Y, X, D)


def _loop(x, weights, state, name, reverse=False, truncate=0):
    """Frame by frame, with one convolution of frame and hidden state together as the papers write it."""
    kernel = jnp.concatenate([weights.of_input, weights.of_hidden], 2)
    cell, hidden = state
    seen: list = [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        if truncate and (t + reverse) % truncate == 0:
            cell, hidden = jax.lax.stop_gradient((cell, hidden))
        gates = convolution.convolve_plainly(jnp.concatenate([x[:, t], hidden], -1), kernel)
        gates = gates if weights.bias is None else gates + weights.bias
        i, f, g, o = (gates[..., part * C : (part + 1) * C] for part in range(4))
        sigmoid = lambda a: 1 / (1 + jnp.exp(-a))  # noqa: E731
        if name == "standard":
            cell = sigmoid(f + 1) * cell + sigmoid(i) * jnp.tanh(g)
        else:
            cell = sigmoid(f) * cell + sigmoid(i) * g
        hidden = seen[t] = sigmoid(o) * jnp.tanh(cell)
    return jnp.stack(seen, 1), convlstm.State(cell, hidden)


def _value_and_gradients(function):
    weights = _random(6, B, T, Y, X, C), _random(7, B, Y, X, C)

    def loss(x, learned, state):
        seen, (cell, hidden) = function(x, learned, state)
        return jnp.sum(seen * weights[0]) + jnp.sum(cell * weights[1]) + jnp.sum(hidden**2), (seen, cell)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize(
    ("name", "reverse", "truncate"), [("standard", False, 0), ("czifan", True, 0), ("czifan", False, 2)]
)
def test_the_scan_equals_a_loop_in_values_and_gradients(name, reverse, truncate, remat):
    weights = _weights(name == "standard")
    settings = dict(truncate=truncate, reverse=reverse)
    ours = _value_and_gradients(
        lambda x, w, s: convlstm.recur(x, w, s, convlstm.CELLS[name], remat=remat, **settings)
    )
    theirs = _value_and_gradients(lambda x, w, s: _loop(x, w, s, name, **settings))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5),
        ours(CLIP, weights, STATE),
        theirs(CLIP, weights, STATE),
    )


@pytest.mark.parametrize("reverse", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("remat", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_gradient_passes_a_cut(reverse, remat):
    """With cuts every 2 of 5 frames, frame 2 sees 2 and 3 at most; the values are those without cuts."""
    clip = _random(0, B, 5, Y, X, D)

    def seen(x, truncate):
        settings = dict(truncate=truncate, reverse=reverse, remat=remat)
        return convlstm.recur(x, _weights(True), STATE, convlstm.CELLS["standard"], **settings)[0]

    np.testing.assert_allclose(seen(clip, 2), seen(clip, 0), atol=1e-6)
    for frame, sees in ((2, [2, 3] if reverse else [2]), (3, [3] if reverse else [2, 3])):
        gradient = jax.grad(lambda x: jnp.sum(seen(x, 2)[:, frame] ** 2))(clip)  # noqa: B023
        assert np.flatnonzero(jnp.abs(gradient).sum((0, 2, 3, 4))).tolist() == sees


def test_the_standard_cell_is_that_of_flax():
    """Flax orders gates i, g, f, o and gives both convolutions a bias; ours is their sum."""
    theirs = flax.linen.ConvLSTMCell(C, (3, 3))
    params = theirs.init(jax.random.key(0), STATE, CLIP[:, 0])
    params = jax.tree.map(lambda p: p + 0.1 * _random(p.size, *p.shape), params)

    def ordered(value):
        i, g, f, o = jnp.split(value, 4, -1)
        return jnp.concatenate([i, f, g, o], -1)

    of_input, of_hidden = (params["params"][name] for name in ("ih", "hh"))
    weights = convlstm.Weights(
        ordered(of_input["kernel"]),
        ordered(of_hidden["kernel"]),
        ordered(of_input["bias"] + of_hidden["bias"]),
    )
    carry = STATE
    expected = []
    for t in range(T):
        carry, hidden = theirs.apply(params, carry, CLIP[:, t])
        expected.append(hidden)
    cell = convlstm.CELLS["standard"]
    hidden, state = convlstm.recur(CLIP, weights, STATE, cell, truncate=0, reverse=False, remat=False)
    np.testing.assert_allclose(hidden, jnp.stack(expected, 1), atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), tuple(state), carry)
