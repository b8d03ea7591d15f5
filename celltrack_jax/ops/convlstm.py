"""Convolutional LSTM over the frames of a clip (Shi et al. 2015, arXiv:1506.04214, without peepholes).

Shapes: B batch, T frames, *S spatial axes, *K kernel, C channels of the state, D of the input; channels last. Gates are
4 C channels: input, forget, candidate, output.

With * a convolution, a = x_t * V + b + h_(t-1) * W and s the sigmoid: c_t = s(a_f + r) c_(t-1) + s(a_i) k(a_g) and
h_t = s(a_o) tanh(c_t), where the cell says the candidate's k and the constant r.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops import convolution


class Cell(NamedTuple):
    """What differs between the ConvLSTMs of the field."""

    tanh: bool
    """Whether the candidate passes a tanh; otherwise it is linear."""
    remember: float
    """Is added to the forget gate before its sigmoid."""
    bias: bool
    """Whether the gates have a bias."""


CELLS = {
    "standard": Cell(tanh=True, remember=1.0, bias=True),
    "czifan": Cell(tanh=False, remember=0.0, bias=False),
}
"""That of Flax's ConvLSTMCell, and that of the PyTorch code most segmentations of cells with a ConvLSTM derive from."""


class State(NamedTuple):
    """What goes from frame to frame."""

    cell: jax.Array
    """(B, *S, C) float32: sums over many frames."""
    hidden: jax.Array
    """(B, *S, C) of the compute dtype."""


class Weights(NamedTuple):
    """Of the compute dtype."""

    of_input: jax.Array
    """(*K, D, 4 C)."""
    of_hidden: jax.Array
    """(*K, C, 4 C)."""
    bias: jax.Array | None
    """(4 C,)."""


def recur(
    x: jax.Array, weights: Weights, state: State, cell: Cell, *, truncate: int, reverse: bool, remat: bool
) -> tuple[jax.Array, State]:
    """Reads a clip.

    Only what depends on the frame before runs frame by frame: the input's convolution, its gradients, and the gradient
    of the hidden state's kernel are those of all frames at once.

    Args:
      x: (B, T, *S, D) floats of the compute dtype.
      weights: as `Weights`.
      state: before the clip.
      cell: the equations.
      truncate: no gradient passes from frames 0, truncate, 2 truncate, ... to what is before them (behind them where
        `reverse`); 0 lets all pass.
      reverse: reads the clip from its last frame to its first.
      remat: keeps nothing but the states for the backward pass, which then computes the gates of one frame at a time
        again, from x.

    Returns:
      hidden states (B, T, *S, C), and the state behind the last frame that was read.
    """
    frames = jnp.arange(x.shape[1])
    cuts = (frames + reverse) % truncate == 0 if truncate else jnp.zeros(x.shape[1], bool)
    if remat:
        return _recur_again(x, weights, state, cell, cuts, reverse)
    read: Any = _scan(_of_input(x, weights), weights.of_hidden, weights.bias, state, cuts, cell, reverse)
    return jnp.moveaxis(read[0], 0, 1), read[1]


def _of_input(x: jax.Array, weights: Weights) -> jax.Array:
    """(T, B, *S, 4 C), without bias."""
    gates = convolution.convolve(x.reshape(-1, *x.shape[2:]), weights.of_input)
    return jnp.moveaxis(gates.reshape(*x.shape[:2], *gates.shape[1:]), 1, 0)


def _recur_again(x, weights, state, cell, cuts, reverse):
    @jax.checkpoint
    def step(state, frame):
        x, cut = frame
        state = jax.tree.map(lambda value: jnp.where(cut, lax.stop_gradient(value), value), state)
        gates = _sum(_of_input(x[:, None], weights)[0], state.hidden, weights.of_hidden, weights.bias)
        state = _next(gates, state.cell, cell, x.dtype)
        return state, state.hidden

    state, hidden = lax.scan(step, state, (jnp.moveaxis(x, 1, 0), cuts), reverse=reverse)
    return jnp.moveaxis(hidden, 0, 1), state


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _scan(gates, kernel, bias, state, cuts, cell, reverse) -> Any:
    """(T, B, *S, 4 C) gates from the input to (T, B, *S, C) hidden states and the last state."""
    return _scan_forward(gates, kernel, bias, state, cuts, cell, reverse)[0]


def _scan_forward(gates, kernel, bias, state, cuts, cell, reverse):
    def step(state, gates, _):
        gates = _sum(gates, state.hidden, kernel, bias)
        after = _next(gates, state.cell, cell, gates.dtype)
        return after, gates, (after.hidden, state.cell)

    after, gates, (hidden, cells) = _over_frames(step, state, gates, None, reverse)
    return (hidden, after), (gates, cells, hidden, kernel, bias, state.hidden, cuts)


def _scan_backward(cell, reverse, saved, gradient):
    gates, cells, hidden, kernel, bias, first, cuts = saved
    of_hidden, of_state = gradient

    def step(of_state, gates, frame):
        before, of_hidden, cut = frame
        _, pull_back = jax.vjp(lambda gates, before: _next(gates, before, cell, gates.dtype), gates, before)
        of_gates, of_cell = pull_back(State(of_state.cell, of_state.hidden + of_hidden))
        # The convolution is linear in the hidden state: its gradient is that at zeros.
        _, pull_back = jax.vjp(lambda hidden: convolution.convolve(hidden, kernel), jnp.zeros_like(first))
        of_state = State(of_cell, *pull_back(of_gates))
        return (
            jax.tree.map(lambda value: jnp.where(cut, jnp.zeros_like(value), value), of_state),
            of_gates,
            None,
        )

    of_state, of_gates, _ = _over_frames(step, of_state, gates, (cells, of_hidden, cuts), not reverse)
    seen = [hidden[1:], first[None]] if reverse else [first[None], hidden[:-1]]
    seen = jnp.concatenate(seen).reshape(-1, *first.shape[1:])
    _, pull_back = jax.vjp(lambda kernel: convolution.convolve(seen, kernel), kernel)
    of_kernel = pull_back(of_gates.reshape(-1, *of_gates.shape[2:]))[0]
    of_bias = None if bias is None else jnp.sum(of_gates, range(of_gates.ndim - 1))
    return of_gates, of_kernel, of_bias, of_state, None


_scan.defvjp(_scan_forward, _scan_backward)


def _over_frames(step, carry, gates, others, reverse):
    """Scans `step(carry, gates of a frame, others of it) -> (carry, gates, outputs)`; new gates replace the old ones.

    They are the largest arrays: a second one is neither allocated nor filled with zeros.
    """

    def body(carried, frame):
        carry, gates = carried
        t, other = frame
        carry, new, outputs = step(carry, lax.dynamic_index_in_dim(gates, t, keepdims=False), other)
        return (carry, lax.dynamic_update_index_in_dim(gates, new, t, 0)), outputs

    frames = jnp.arange(len(gates))
    (carry, gates), outputs = lax.scan(body, (carry, gates), (frames, others), reverse=reverse)
    return carry, gates, outputs


def _sum(gates, hidden, kernel, bias):
    gates += convolution.convolve(hidden, kernel)
    return gates if bias is None else gates + bias


def _next(gates, before, cell, dtype):
    """The state from the gates' sums (B, *S, 4 C) and the cell state before them; computed in float32."""
    i, f, g, o = jnp.split(gates.astype(before.dtype), 4, -1)
    g = jnp.tanh(g) if cell.tanh else g
    c = jax.nn.sigmoid(f + cell.remember) * before + jax.nn.sigmoid(i) * g
    return State(c, (jax.nn.sigmoid(o) * jnp.tanh(c)).astype(dtype))
