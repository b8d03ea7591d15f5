"""The default network of the learned tracker: messages along and against time over the candidate links.

Shapes: N nodes (detections), E edges (candidate links, from the earlier detection to the later one), F and G features of
a node and of an edge, W and K channels of a node and of an edge.

Every block starts with a normalisation and adds to what it got (residual updates, He et al. 2016, arXiv:1603.05027), so
that depth costs no signal. What an edge sends is gated by itself, and a node divides the sum of its messages by one
plus the sum of their gates, as the self loop of PDN-Conv does (Rozemberczki et al. 2021, arXiv:2010.12878): a crowd of
unlikely links does not drown the likely one.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jraph
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.errors import InputError
from celltrack_jax.ops.dropout import dropout
from celltrack_jax.ops.edges import over_edges

EVENTS = ("divide", "appear", "disappear", "false")
"""What a node may be: a mother, a first or a last cell of a track, no cell."""
DIRECTIONS = ("both", "forward")
_GATES = 4
"""Gates of an edge per direction; each opens a share of the message's channels."""
_VARIANCE_FLOOR = 1e-6


def build(rngs: nnx.Rngs, **kwargs) -> "Tracker":
    """Builds a `Tracker`."""
    check_settings(Tracker.__init__, "models/tracker", None, rngs, **kwargs)
    return Tracker(rngs, **kwargs)


class Tracker(nnx.Module):
    """Encoders of nodes and edges, message passing, and a head per question. Parameters are float32."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        node_features: int,
        edge_features: int,
        width: int = 64,
        edge_width: int = 64,
        layers: int = 4,
        directions: Literal["both", "forward"] = "both",
        dropout: float = 0.0,
        embedding: int = 0,
        block: int = 1024,
        remat: bool = False,
        dtype: str = "float32",
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          node_features: F.
          edge_features: G.
          width: W, a multiple of 4.
          edge_width: K.
          layers: rounds of messages; with 0 an edge sees itself and its two ends.
          directions: "both", or "forward" for messages from the earlier to the later cell only.
          dropout: rate at what each block adds.
          embedding: channels of a node's learned embedding, 0 for none.
          block: edges computed at a time, and again in the backward pass; 0 for all at once, which suits
            accelerators. See `over_edges`.
          remat: `jax.checkpoint` of the edge work of each layer where `block` does not compute it again already.
          dtype: compute dtype, "float32" or "bfloat16"; messages are summed in float32.

        Raises:
          InputError: a setting is out of its range.
        """
        _refuse(edge_features < 1, "it needs features of edges: set features.edges")
        _refuse(layers < 0, f"layers {layers} must not be negative")
        _refuse(width < 1 or width % _GATES > 0, f"width {width} must be a multiple of {_GATES}")
        _refuse(directions not in DIRECTIONS, f"directions {directions!r} is none of {DIRECTIONS}")
        _refuse(not 0 <= dropout < 1, f"dropout {dropout} must be in [0, 1)")
        self.embedding, self.block, self.remat = embedding, block, remat
        self.rate, self.dtype = dropout, jnp.dtype(dtype)
        self.nodes = Linear(rngs, node_features + embedding, width)
        self.edges = Linear(rngs, edge_features + (embedding > 0), edge_width)
        self.layers = nnx.List(
            Layer(rngs, width, edge_width, both=directions == "both") for _ in range(layers)
        )
        self.edge_head = EdgeBlock(rngs, width, edge_width, 1)
        self.node_head = NodeBlock(rngs, width, width, len(EVENTS))

    def __call__(
        self, graph: jraph.GraphsTuple, key: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Judges edges and nodes.

        Args:
          graph: nodes {"features": (N, F)}, with "embedding" (N, embedding) where the network has one; edges
            (E, G), standardised as the features are; senders and receivers (E,) int32. An edge from a node to
            itself is padding, as `jraph.pad_with_graphs` makes it.
          key: of dropout; may be None where not `train` or the rate is 0.
          train: whether dropout is on.

        Returns:
          float32 logits: "edge" (E,), 0 at padding, and one (N,) per name in `EVENTS`.

        Raises:
          ValueError: dropout without a key.
        """
        if train and key is None and self.rate > 0:
            raise ValueError("Tracker has dropout: pass a key where train is true")
        keys = (
            jax.random.split(key, len(self.layers)) if train and key is not None and self.rate > 0 else None
        )
        ends: Any = graph.senders, graph.receivers
        size: dict[str, Any] = dict(nodes=_count(graph.nodes), block=self.block, remat=self.remat)
        h, e = self._encode(graph, ends, size)
        for number, layer in enumerate(self.layers):
            h, e = layer(h, e, ends, None if keys is None else keys[number], self.rate, size)
        weights, senders, receivers = self.edge_head.prepare(h, self.dtype)
        logits, _, _ = over_edges(_judge, weights, senders, receivers, e, *ends, **size)
        events = self.node_head(h).astype(jnp.float32)
        edge = jnp.where(graph.senders != graph.receivers, logits.astype(jnp.float32), 0)
        return {"edge": edge} | {name: events[:, i] for i, name in enumerate(EVENTS)}

    def _encode(self, graph, ends, size):
        x, e = graph.nodes["features"].astype(self.dtype), graph.edges.astype(self.dtype)
        if self.embedding:
            z = graph.nodes["embedding"].astype(self.dtype)
            x = jnp.concatenate([x, z], -1)
            unit = z * jax.lax.rsqrt(jnp.sum(z * z, -1, keepdims=True) + _VARIANCE_FLOOR)
            cosine, _, _ = over_edges(_product, (), unit, unit, (), *ends, **size)
            e = jnp.concatenate([e, cosine], -1)
        return self.nodes(x), self.edges(e)


class Layer(nnx.Module):
    """One round: the edges from their ends, messages by the edges' gates, the nodes from the messages."""

    def __init__(self, rngs, width, edge_width, *, both):
        self.directions = 2 if both else 1
        self.update = EdgeBlock(rngs, width, edge_width, edge_width + self.directions * _GATES)
        self.values = nnx.List(Linear(rngs, width, width) for _ in range(self.directions))
        self.node_update = NodeBlock(rngs, (1 + self.directions) * width, width, width)

    def __call__(self, h, e, ends, key, rate, size):
        """(N, W) and (E, K) to the same shapes; `key` and `rate` of dropout."""
        of_edges, of_nodes = (None, None) if key is None else jax.random.split(key)
        weights, senders, receivers = self.update.prepare(h, h.dtype)
        normed = _normalise(h)
        senders["value"] = self.values[0](normed)
        if self.directions == 2:
            receivers["value"] = self.values[1](normed)
        function = functools.partial(_send, rate)
        e, *sums = over_edges(function, weights, senders, receivers, e, *ends, key=of_edges, **size)
        messages = [_mean(total).astype(h.dtype) for total in sums if total]
        return h + dropout(of_nodes, self.node_update(jnp.concatenate([h, *messages], -1)), rate), e


class EdgeBlock(nnx.Module):
    """The weights of a two-layer perceptron of [e, h_s, h_t], whose first layer's node parts are made per node."""

    def __init__(self, rngs, width, edge_width, outputs):
        self.of_edge = Linear(rngs, edge_width, edge_width)
        self.of_sender = Linear(rngs, width, edge_width, bias=False)
        self.of_receiver = Linear(rngs, width, edge_width, bias=False)
        self.out = Linear(rngs, edge_width, outputs)

    def prepare(self, h, dtype):
        """Returns what every edge sees, and what it sees of its sender and of its receiver."""
        normed = _normalise(h)
        weights = self.of_edge.weights(dtype), self.out.weights(dtype)
        return weights, dict(first=self.of_sender(normed)), dict(first=self.of_receiver(normed))


class NodeBlock(nnx.Module):
    """A two-layer perceptron of what a node knows."""

    def __init__(self, rngs, inputs, width, outputs):
        self.first, self.out = Linear(rngs, inputs, width), Linear(rngs, width, outputs)

    def __call__(self, x):
        """(N, inputs) to (N, outputs)."""
        return self.out(jax.nn.silu(self.first(_normalise(x))))


class Linear(nnx.Module):
    """x W + b, in the dtype of x."""

    def __init__(self, rngs, inputs, outputs, *, bias=True):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None

    def weights(self, dtype):
        """Returns (kernel, bias)."""
        return self.kernel[...].astype(dtype), None if self.bias is None else self.bias[...].astype(dtype)

    def __call__(self, x):
        """(..., inputs) to (..., outputs)."""
        return _linear(self.weights(x.dtype), x)


def _send(rate, weights, s, t, e, key):
    """The edge update; each end that has a value sends it, gated, to the other."""
    change, gates = jnp.split(_perceptron(weights, s, t, e), [e.shape[-1]], -1)
    gates = jnp.split(jax.nn.sigmoid(gates), gates.shape[-1] // _GATES, -1)
    to_receivers = _message(gates[0], s["value"])
    to_senders = _message(gates[1], t["value"]) if "value" in t else ()
    return e + dropout(key, change, rate), to_senders, to_receivers


def _judge(weights, s, t, e, _):
    return _perceptron(weights, s, t, e)[:, 0], (), ()


def _perceptron(weights, s, t, e):
    first, out = weights
    return _linear(out, jax.nn.silu(_linear(first, _normalise(e)) + s["first"] + t["first"]))


def _message(gates, value):
    """The sums of both make `_mean`; (E, 4) and (E, W) to {"value": (E, 4, W / 4), "gates": (E, 4, 1)} float32."""
    gates = gates[..., None].astype(jnp.float32)
    return dict(value=gates * value.reshape(*value.shape[:-1], _GATES, -1), gates=gates)


def _mean(total):
    """(N, W); the 1 is the gate of a message of zeros from the node itself."""
    return (total["value"] / (1 + total["gates"])).reshape(len(total["value"]), -1)


def _product(_, s, t, __, ___):
    return jnp.sum(s * t, -1, keepdims=True), (), ()


def _count(rows):
    return len(jax.tree.leaves(rows)[0])


def _linear(weights, x):
    kernel, bias = weights
    return x @ kernel if bias is None else x @ kernel + bias


def _normalise(x):
    """Divides by the root of the mean square over channels (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    square = jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
    return (x * jax.lax.rsqrt(square + _VARIANCE_FLOOR)).astype(x.dtype)


def _refuse(fault: bool, text: str) -> None:
    if fault:
        raise InputError(f"tracker: {text}")
