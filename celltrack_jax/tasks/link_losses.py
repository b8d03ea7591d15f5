"""What wrong links and wrong events cost. Shapes: B windows, A nodes and C edges of their bucket."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from celltrack_jax.errors import InputError
from celltrack_jax.tracking.learned import EVENTS

EdgeLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""Logits, labels float32 and mask bool, each (B, C) -> () float32."""


def edge_loss(name: str) -> EdgeLoss:
    """Returns "per_link" or "balanced".

    Raises:
      InputError: there is no such loss.
    """
    if name not in _EDGE_LOSSES:
        raise InputError(f"loss.name {name!r} is none of {', '.join(_EDGE_LOSSES)}")
    return _EDGE_LOSSES[name]


def per_link(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Sums the cross-entropies of candidates and divides by the number of links.

    Logits then are log-odds, however many candidates were added that nobody would take for links.
    """
    each = optax.sigmoid_binary_cross_entropy(logits, label)
    return jnp.sum(each * mask) / jnp.maximum(jnp.sum(label * mask), 1)


def balanced(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean cross-entropy where links and others weigh the same in sum (docs/originals.md, 5.6).

    A link counts as many times as there are others for each link of the batch; a batch without links is no error.
    """
    links, others = jnp.sum(label * mask), jnp.sum((1 - label) * mask)
    each = optax.sigmoid_binary_cross_entropy(logits, label)
    weight = jnp.where(label > 0.5, others / jnp.maximum(links, 1), 1)
    return jnp.sum(each * weight * mask) / jnp.maximum(links + others, 1)


def event_losses(outputs: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The mean cross-entropy of each event over the nodes whose windows show the answer.

    Args:
      outputs: (B, A) logits by event.
      batch: node/events and node/weights (B, A, 4) float32, node_mask (B, A) bool.

    Raises:
      InputError: the network judges links alone.
    """
    missing = [name for name in EVENTS if name not in outputs]
    if missing:
        raise InputError(f"this network does not tell {', '.join(missing)}: set loss.event_weight to 0")
    logits = jnp.stack([outputs[name] for name in EVENTS], -1)
    weights = batch["node/weights"] * batch["node_mask"][..., None]
    each = optax.sigmoid_binary_cross_entropy(logits, batch["node/events"]) * weights
    mean = jnp.sum(each, (0, 1)) / jnp.maximum(jnp.sum(weights, (0, 1)), 1)
    return {name: mean[i] for i, name in enumerate(EVENTS)}


_EDGE_LOSSES: Mapping[str, EdgeLoss] = {"per_link": per_link, "balanced": balanced}
