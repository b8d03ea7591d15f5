"""Losses of metric learning on the cosine similarities of a batch of embeddings.

Shapes: B embeddings of a batch, K channels. A positive of an anchor is another embedding of its class, a negative one of
another class; embeddings that are not valid are neither, and are no anchors.
"""

import jax
import jax.numpy as jnp


def similarities(embeddings: jax.Array) -> jax.Array:
    """(B, B) cosine similarities of (B, K) float32 unit vectors.

    In full float32 everywhere: an accelerator's usual bfloat16 product errs by 4e-3, and the losses scale by up to 128.
    """
    return jnp.matmul(embeddings, embeddings.T, precision=jax.lax.Precision.HIGHEST)


def multi_similarity(
    similarity: jax.Array,
    classes: jax.Array,
    valid: jax.Array | None = None,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """Multi-similarity loss with its mining (Wang et al. 2019, arXiv:1904.06627).

    An anchor keeps a positive that is less similar than its most similar negative plus epsilon, and a negative that is
    more similar than its least similar positive minus epsilon. Without a positive or a negative it keeps nothing.

    Args:
      similarity: (B, B) floats.
      classes: (B,) ints.
      valid: (B,) bool; None for all.
      alpha: scale of positives.
      beta: scale of negatives.
      base: similarity that divides the two sides.
      epsilon: margin of the mining.

    Returns:
      () mean over the valid anchors, where a side that keeps nothing adds 0; () int32 kept pairs.
    """
    valid = _all_valid(classes) if valid is None else valid
    positive, negative = _pairs(classes, valid)
    nearest_negative = jnp.max(similarity, 1, where=negative, initial=-jnp.inf, keepdims=True)
    farthest_positive = jnp.min(similarity, 1, where=positive, initial=jnp.inf, keepdims=True)
    positive &= similarity - epsilon < nearest_negative
    negative &= similarity + epsilon > farthest_positive
    of_positives = _log_one_plus_sum_exp(-alpha * (similarity - base), positive) / alpha
    of_negatives = _log_one_plus_sum_exp(beta * (similarity - base), negative) / beta
    return _mean(of_positives + of_negatives, valid), jnp.sum(positive | negative)


def circle(
    similarity: jax.Array,
    classes: jax.Array,
    valid: jax.Array | None = None,
    *,
    margin: float = 0.25,
    gamma: float = 128.0,
) -> tuple[jax.Array, jax.Array]:
    """Circle loss (Sun et al. 2020, arXiv:2002.10857), an anchor's pairs weighed by how far each is from its optimum.

    Args:
      similarity: (B, B) floats.
      classes: (B,) ints.
      valid: (B,) bool; None for all.
      margin: m; positives are to reach 1 - m and negatives m.
      gamma: scale.

    Returns:
      () mean over the anchors that have a positive and a negative, 0 without any; () int32 pairs of these anchors.
    """
    positive, negative = _pairs(classes, _all_valid(classes) if valid is None else valid)
    anchors = positive.any(1) & negative.any(1)
    held = jax.lax.stop_gradient(similarity)
    of_positives = -gamma * jax.nn.relu(1 + margin - held) * (similarity - (1 - margin))
    of_negatives = gamma * jax.nn.relu(held + margin) * (similarity - margin)
    # What is no anchor sums over everything: the sum over nothing has no gradient.
    others = ~anchors[:, None]
    total = sum(
        jax.nn.logsumexp(jnp.where(mask | others, value, -jnp.inf), 1)
        for value, mask in ((of_positives, positive), (of_negatives, negative))
    )
    return _mean(jax.nn.softplus(total), anchors), jnp.sum((positive | negative) & ~others)


def triplet(
    similarity: jax.Array, classes: jax.Array, valid: jax.Array | None = None, *, margin: float = 0.2
) -> tuple[jax.Array, jax.Array]:
    """Triplet loss over semi-hard triplets (Schroff et al. 2015, arXiv:1503.03832).

    Those are all whose negative is less similar than the positive, by less than the margin. The B^3 triplets are only
    ever inside a sum that XLA fuses.

    Args:
      similarity: (B, B) floats.
      classes: (B,) ints.
      valid: (B,) bool; None for all.
      margin: positive.

    Returns:
      () mean of margin - (s_ap - s_an) over semi-hard triplets, 0 without any; () int32 semi-hard triplets.
    """
    positive, negative = _pairs(classes, _all_valid(classes) if valid is None else valid)
    gap = similarity[:, :, None] - similarity[:, None, :]
    kept = positive[:, :, None] & negative[:, None, :] & (gap > 0) & (gap < margin)
    return _mean(margin - gap, kept), jnp.sum(kept)


def _all_valid(classes):
    return jnp.ones(classes.shape, bool)


def _pairs(classes, valid):
    """(B, B) positives and negatives of each anchor."""
    known = valid[:, None] & valid[None, :]
    same = classes[:, None] == classes[None, :]
    return known & same & ~jnp.eye(len(classes), dtype=bool), known & ~same


def _log_one_plus_sum_exp(value, mask):
    """(B,) log(1 + sum exp(value)) over the masked values of each row."""
    value = jnp.where(mask, value, -jnp.inf)
    return jax.nn.logsumexp(jnp.pad(value, ((0, 0), (1, 0))), 1)


def _mean(value, mask):
    return jnp.sum(jnp.where(mask, value, 0)) / jnp.maximum(jnp.sum(mask), 1)
