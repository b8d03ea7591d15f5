"""The edge classifier of Ben-Haim & Riklin-Raviv (ECCV 2022), a graph neural network for cell tracking.

Shapes: N nodes (cells), E edges (candidate links, from the earlier cell to the later one), F hand-made features.

A matrix that meets a concatenation [e, u_s, u_t, |u_s - u_t|, cos] is applied in parts: those of u_s and u_t once per
node, the others per edge. So nothing wide is put together, and the sum is the same.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import jraph
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.ops.dropout import dropout
from celltrack_jax.ops.edges import over_edges

LAYERS = 6
NODE, EDGE = 32, 64
"""Channels of a node and of an edge."""
ENCODER_DROPOUT, CLASSIFIER_DROPOUT = 0.4, 0.2
_EPSILON = 1e-8
"""Least norm of a vector in a cosine."""


def build(rngs: nnx.Rngs, *, edge_features: int = 0, **kwargs) -> "BenHaim2022":
    """Builds a `BenHaim2022`, which makes its own features of edges and looks at no others."""
    del edge_features
    check_settings(BenHaim2022.__init__, "models/ben_haim2022", None, rngs, **kwargs)
    return BenHaim2022(rngs, **kwargs)


class BenHaim2022(nnx.Module):
    """Node and edge encoders, six layers of PDN-Conv and edge update, and a classifier of edges.

    The weights of PDN-Conv start from Glorot's uniform distribution and its biases at zero; all others, biases too,
    from the uniform distribution within 1 / sqrt(inputs), PyTorch's default. 249,319 parameters with 13 features.
    """

    def __init__(self, rngs: nnx.Rngs, *, node_features: int, embedding: int = 128, block: int = 1024):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          node_features: F, hand-made features of a node: 13 for masks in 2D, 16 in 3D, 6 for patches.
          embedding: channels of a node's learned embedding; 0 for none, and the hand-made features then make all
            of a node's channels.
          block: edges computed at a time, and again in the backward pass; 0 for all at once. See `over_edges`.
        """
        self.embedding, self.block = embedding, block
        widths = (64, NODE // 2 if embedding else NODE)
        self.features_encoder = MLP(rngs, node_features, *widths)
        self.embedding_encoder = MLP(rngs, embedding, *widths) if embedding else None
        self.edge_encoder = MLP(rngs, node_features + embedding + 1 + 3 * NODE + 1, 128, EDGE)
        self.layers = nnx.List(Layer(rngs) for _ in range(LAYERS))
        self.classifier = MLP(rngs, EDGE, 128, 32, 1)

    def __call__(
        self, graph: jraph.GraphsTuple, key: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Classifies the edges.

        Args:
          graph: nodes {"features": (N, F), "embedding": (N, embedding)} floats, senders and receivers (E,) int32. An
            edge from a node to itself is padding, as `jraph.pad_with_graphs` makes it. Its edges are not used.
          key: of dropout; may be None where not `train`.
          train: whether dropout is on.

        Returns:
          "edge": (E,) logits, 0 at padding.

        Raises:
          ValueError: `train` without a key.
        """
        if train and key is None:
            raise ValueError("BenHaim2022 has dropout: pass a key where train is true")
        keys = jax.random.split(key, 4) if train and key is not None else [None] * 4
        z, h = self._encode_nodes(graph.nodes, keys[0], keys[1])
        ends: Any = graph.senders, graph.receivers
        size: dict[str, Any] = dict(nodes=len(h), block=self.block)

        def gate(layer):
            return self.layers[layer].gate.weights() if layer < LAYERS else None

        (e, w), _, degree = self._encode_edges(z, h, gate(0), ends, keys[2], size)
        for number, layer in enumerate(self.layers):
            u = layer.convolve(h, w, degree, ends, size)
            (e, w), _, degree = layer.update(u, e, gate(number + 1), ends, size)
            h = jax.nn.relu(u)
        logits, _, _ = over_edges(_classify, self.classifier.weights(), (), (), e, *ends, key=keys[3], **size)
        return {"edge": jnp.where(graph.senders != graph.receivers, logits, 0)}

    def _encode_nodes(self, nodes, *keys):
        z, parts = [nodes["features"]], [self.features_encoder]
        if self.embedding_encoder is not None:
            z, parts = [*z, nodes["embedding"]], [*parts, self.embedding_encoder]
        h = [
            mlp(part.weights(), x, ENCODER_DROPOUT, key) for part, x, key in zip(parts, z, keys, strict=False)
        ]
        return jnp.concatenate(z, -1), jnp.concatenate(h, -1)

    def _encode_edges(self, z, h, gate, ends, key, size):
        (kernel, bias), *rest = self.edge_encoder.weights()
        width = z.shape[-1]
        of_z, of_cos, of_s, of_t, of_h, of_cos_h = _split_rows(kernel, width, 1, NODE, NODE, NODE, 1)
        weights = dict(of_z=of_z, of_cos=of_cos, of_h=of_h, of_cos_h=of_cos_h, rest=rest, gate=gate)
        nodes = dict(z=z, z_unit=_unit_scale(z), h=h, h_unit=_unit_scale(h))
        senders, receivers = nodes | dict(first=h @ of_s), nodes | dict(first=h @ of_t + bias)
        return over_edges(_first_edges, weights, senders, receivers, (), *ends, key=key, **size)


class Layer(nnx.Module):
    """PDN-Conv (Rozemberczki et al. 2021, arXiv:2010.12878) and the edge update that follows it."""

    def __init__(self, rngs):
        glorot = nnx.initializers.glorot_uniform()
        self.gate = MLP(rngs, EDGE, 16, 1, kernel_init=glorot, bias_init=nnx.initializers.zeros)
        self.kernel = nnx.Param(glorot(rngs.params(), (NODE, NODE)))
        self.bias = nnx.Param(jnp.zeros(NODE))
        self.edge_update = MLP(rngs, EDGE + 3 * NODE + 1, 128, EDGE)

    def convolve(self, h, w, degree, ends, size):
        """Sums the neighbours in the past by their gates: h (N, 32), w (E,), degree (N,) to u (N, 32)."""
        # w_e / sqrt(d_s d_t) in two factors, each at its node.
        scale = jax.lax.rsqrt(1 + degree)[:, None]
        value = scale * (h @ self.kernel[...])
        _, _, total = over_edges(_gated, (), value, (), w, *ends, **size)
        return scale * (total + value) + self.bias[...]

    def update(self, u, e, gate, ends, size):
        """Returns ((E, 64) edges, (E,) gates of the next layer), nothing, and the (N,) sums of these gates."""
        (kernel, bias), *rest = self.edge_update.weights()
        of_e, of_s, of_t, of_u, of_cos = _split_rows(kernel, EDGE, NODE, NODE, NODE, 1)
        weights = dict(of_e=of_e, of_u=of_u, of_cos=of_cos, rest=rest, gate=gate)
        nodes = dict(u=u, u_unit=_unit_scale(u))
        senders, receivers = nodes | dict(first=u @ of_s), nodes | dict(first=u @ of_t + bias)
        return over_edges(_next_edges, weights, senders, receivers, e, *ends, **size)


class MLP(nnx.Module):
    """The weights of linear layers one after the other; `mlp` applies them."""

    def __init__(self, rngs, *widths, kernel_init=None, bias_init=None):
        uniform = nnx.initializers.uniform
        self.kernels, self.biases = nnx.List(), nnx.List()
        for before, width in itertools.pairwise(widths):
            bound = 1 / math.sqrt(before)
            for group, init, shape in (
                (self.kernels, kernel_init, (before, width)),
                (self.biases, bias_init, (width,)),
            ):
                values = (init or uniform(2 * bound))(rngs.params(), shape)
                group.append(nnx.Param(values if init else values - bound))

    def weights(self):
        """Returns [(kernel, bias), ...]."""
        return [(kernel[...], bias[...]) for kernel, bias in zip(self.kernels, self.biases, strict=True)]


def mlp(weights, x, rate=0.0, key=None):
    """(..., C) through linear, ReLU and dropout per layer; a last layer of width 1 is linear alone."""
    for number, (kernel, bias) in enumerate(weights):
        x = x @ kernel + bias
        if kernel.shape[-1] > 1:
            x = dropout(_fold(key, number), jax.nn.relu(x), rate)
    return x


def _first_edges(weights, s, t, _, key):
    x = s["first"] + t["first"] + jnp.abs(s["z"] - t["z"]) @ weights["of_z"]
    x += _cosine(s, t, "z") * weights["of_cos"] + _cosine(s, t, "h") * weights["of_cos_h"]
    x += jnp.abs(s["h"] - t["h"]) @ weights["of_h"]
    x = dropout(_fold(key, 0), jax.nn.relu(x), ENCODER_DROPOUT)
    return _with_gate(mlp(weights["rest"], x, ENCODER_DROPOUT, _fold(key, 1)), weights["gate"])


def _next_edges(weights, s, t, e, _):
    x = s["first"] + t["first"] + jnp.abs(s["u"] - t["u"]) @ weights["of_u"]
    x += e @ weights["of_e"] + _cosine(s, t, "u") * weights["of_cos"]
    return _with_gate(mlp(weights["rest"], jax.nn.relu(x)), weights["gate"])


def _with_gate(e, gate):
    """The edges with the gates of the layer that follows, which are summed at receivers."""
    w = jnp.zeros(len(e), e.dtype) if gate is None else jax.nn.sigmoid(mlp(gate, e)[:, 0])
    return (e, w), (), w


def _gated(_, value, __, w, ___):
    return (), (), w[:, None] * value


def _classify(weights, _, __, e, key):
    return mlp(weights, e, CLASSIFIER_DROPOUT, key)[:, 0], (), ()


def _cosine(s, t, name):
    """(E, 1)."""
    product = jnp.sum(s[name] * t[name], -1, keepdims=True)
    return product * s[f"{name}_unit"] * t[f"{name}_unit"]


def _unit_scale(x):
    """(N, C) to (N, 1), the factor that gives x norm 1; finite, and so is its gradient, where x is zero."""
    return jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), _EPSILON**2))


def _split_rows(kernel, *widths):
    """The parts of a matrix that meet the parts of a concatenation."""
    return jnp.split(kernel, [sum(widths[: i + 1]) for i in range(len(widths) - 1)])


def _fold(key, number):
    return None if key is None else jax.random.fold_in(key, number)
