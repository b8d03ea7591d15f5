"""Non-maximum suppression of boxes, exactly as the greedy loop has it, at any threshold and of a static size.

Shapes: N boxes, K that are kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops import boxes as box_maths
from celltrack_jax.ops.peaks import keep_first

_BLOCK = 256
"""Boxes that are settled among each other at once."""


class Kept(NamedTuple):
    """The best of what was kept, from the highest score down."""

    row: jax.Array
    """(K,) int32 into what was given."""
    valid: jax.Array
    """(K,) bool; the other rows are padding."""
    lost: jax.Array
    """() int32, boxes that were kept beyond the K best."""


def survivors(
    boxes: jax.Array,
    scores: jax.Array,
    threshold: float | jax.Array,
    classes: jax.Array | None = None,
) -> jax.Array:
    """Keeps the box with the highest score, drops those of its class that overlap with it, and so on.

    A dropped box drops none, at thresholds below 1/2 too. Classes are compared, not moved apart by offsets, which
    would cost digits of the boxes. Blocks are settled one after the other, from the highest scores down: inside of a
    block in rounds (`peaks.keep_first`), then against all boxes behind it, so that no N x N table is ever held.

    Args:
      boxes: (N, 4) float32.
      scores: (N,) float32; of equal ones the first comes first. -inf for padding.
      threshold: a box is dropped where its IoU with a kept one is greater; one number, or (N,) one per box, the same
        for all boxes of a class.
      classes: (N,) integers; None for one class.

    Returns:
      (N,) bool. Boxes without area, and boxes and scores that are not finite, are never kept and drop none.
    """
    candidate = (box_maths.areas(boxes) > 0) & jnp.isfinite(scores)
    order = jnp.argsort(jnp.where(candidate, -scores, jnp.inf))
    block = min(_BLOCK, len(scores))
    count = -(-len(scores) // block)
    around = (0, count * block - len(scores))
    limit = jnp.broadcast_to(jnp.asarray(threshold, jnp.float32), scores.shape)
    kinds = jnp.zeros(len(scores), jnp.int32) if classes is None else classes
    ranked = jnp.pad(boxes[order], (around, (0, 0)))
    limit, kinds, alive = (jnp.pad(each[order], around) for each in (limit, kinds, candidate))
    place = jnp.arange(len(alive))

    def settle(number: jax.Array, alive: jax.Array) -> jax.Array:
        start = number * block
        own, own_limit, own_kind, own_alive = (
            lax.dynamic_slice_in_dim(each, start, block) for each in (ranked, limit, kinds, alive)
        )
        rivals = box_maths.pairwise_iou(own, ranked) > own_limit[:, None]
        rivals &= own_kind[:, None] == kinds
        kept = keep_first(lax.dynamic_slice_in_dim(rivals, start, block, 1), own_alive)
        dropped = (rivals & kept[:, None]).any(0) & (place >= start + block)
        return lax.dynamic_update_slice_in_dim(alive & ~dropped, kept, start, 0)

    kept = lax.fori_loop(0, count, settle, alive)[: len(scores)]
    return jnp.zeros_like(kept).at[order].set(kept)


def best(
    boxes: jax.Array,
    scores: jax.Array,
    threshold: float | jax.Array,
    count: int,
    classes: jax.Array | None = None,
) -> Kept:
    """The K best survivors; arguments as of `survivors`, and K, static, at most N."""
    kept = survivors(boxes, scores, threshold, classes)
    score, index = lax.top_k(jnp.where(kept, scores, -jnp.inf), min(count, len(scores)))
    return Kept(index.astype(jnp.int32), jnp.isfinite(score), jnp.maximum(kept.sum() - count, 0))
