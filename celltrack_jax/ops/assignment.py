"""Which boxes learn what: matching with true boxes, and random samples of a static size.

Ren et al. 2015, Faster R-CNN; the rules are those of docs/originals.md, 3.3 and 3.6. Shapes: N boxes, K true
boxes, of which rows without area are padding, S samples.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops import boxes as box_maths
from celltrack_jax.ops.peaks import highest

IGNORED, NEGATIVE, POSITIVE = 0, 1, 2
"""Roles, in the order in which samples take them up."""
_CHUNK = 64
"""True boxes that are compared with all boxes at once."""


class Matches(NamedTuple):
    """What each box learns."""

    role: jax.Array
    """(N,) int32, IGNORED, NEGATIVE or POSITIVE."""
    truth: jax.Array
    """(N,) int32, row of the true box with the greatest overlap; 0 where there is none."""


class Sample(NamedTuple):
    """Boxes that were drawn, positives first."""

    row: jax.Array
    """(S,) int32 into the boxes."""
    role: jax.Array
    """(S,) int32; IGNORED where too few boxes have another role."""


def match(
    boxes: jax.Array,
    truth: jax.Array,
    unknown: jax.Array,
    *,
    positive_iou: float,
    negative_iou: float,
    best_of_truth: bool,
    max_unknown: float,
) -> Matches:
    """Compares boxes with true ones.

    Args:
      boxes: (N, 4) float32.
      truth: (K, 4) float32.
      unknown: (N,) float32, the share of each box where the truth is not known.
      positive_iou: boxes that overlap with a true one by at least this are positive.
      negative_iou: those below this with all are negative; between the two they are ignored.
      best_of_truth: the box that overlaps most with a true one is positive whatever its IoU, if it has any.
      max_unknown: negatives with a greater share of unknown are ignored.
    """
    most, owner, nearest = _nearest(boxes, truth)
    role = jnp.where(most >= positive_iou, POSITIVE, jnp.where(most < negative_iou, NEGATIVE, IGNORED))
    role = jnp.where((role == NEGATIVE) & (unknown > max_unknown), IGNORED, role)
    if best_of_truth:
        role = role.at[nearest].set(POSITIVE, mode="drop")
    return Matches(jnp.where(box_maths.areas(boxes) > 0, role, IGNORED), owner)


def _nearest(boxes: jax.Array, truth: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Greatest overlap of each box and (N,) with which true one; (K,) the box nearest to each true one, N for none.

    True boxes come in chunks: the whole table of 96,000 anchors and 1,024 cells would be 370 MB for each image.
    """
    count = -(-len(truth) // _CHUNK)
    chunks = jnp.pad(truth, ((0, count * _CHUNK - len(truth)), (0, 0))).reshape(count, -1, 4)

    def compare(best: tuple[jax.Array, jax.Array], chunk: tuple[jax.Array, jax.Array]) -> Any:
        most, owner = best
        number, some = chunk
        overlap = box_maths.pairwise_iou(boxes, some)
        here = overlap.max(1)
        nearer = here > most
        owner = jnp.where(nearer, overlap.argmax(1).astype(jnp.int32) + number * _CHUNK, owner)
        nearest = jnp.where(overlap.max(0) > 0, overlap.argmax(0), len(boxes))
        return (jnp.where(nearer, here, most), owner), nearest

    start = jnp.zeros(len(boxes)), jnp.zeros(len(boxes), jnp.int32)
    (most, owner), nearest = lax.scan(compare, start, (jnp.arange(count, dtype=jnp.int32), chunks))
    return most, owner, nearest.reshape(-1)


def sample(key: jax.Array, role: jax.Array, count: int, max_positive: int) -> Sample:
    """Draws boxes at random: at most so many positives, and negatives for the rest.

    Args:
      key: random key.
      role: (N,) int32.
      count: S, static, at most N.
      max_positive: static, at most S.

    Returns:
      Sample; positives fill its first `max_positive` rows at most.
    """
    lot = jax.random.uniform(key, role.shape)
    drawn, index = highest(jnp.where(role == POSITIVE, lot, -jnp.inf), max_positive)
    chosen = jnp.zeros(role.shape, bool).at[index].set(jnp.isfinite(drawn))
    rank = jnp.where(chosen, 2 + lot, jnp.where(role == NEGATIVE, lot, -jnp.inf))
    score, index = highest(rank, count)
    role = jnp.where(score >= 2, POSITIVE, jnp.where(jnp.isfinite(score), NEGATIVE, IGNORED))
    return Sample(index.astype(jnp.int32), role)


def take(values: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of (N, ...) by (S,) indices that are in range."""
    return values.at[index].get(mode="promise_in_bounds")
