"""Pixel losses with weights; pixels of weight 0 count nowhere, whatever the prediction is there.

Shapes: B batch, S spatial axes, C channels; weights (B, *S, 1) broadcast over C.
"""

import math

import jax
import jax.numpy as jnp

CENTRE = 0.9999
"""Heat from which a pixel is a centre for the focal loss; its centres sit on pixels, so theirs is 1."""


def known(prediction: jax.Array, weight: jax.Array) -> jax.Array:
    """Replaces predictions of weight 0 by 0, so that not even an infinite one reaches loss or gradient."""
    return jnp.where(weight > 0, prediction, 0.0)


def known_weight(labels: jax.Array) -> jax.Array:
    """(*S, 1) float32: 0 where labels (*S) are unknown (-1), 1 elsewhere."""
    return (labels >= 0).astype(jnp.float32)[..., None]


def weighted_mean(value: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean of (B, *S, C) values over pixels by their weights and over channels; 0 when all weights are 0."""
    weight = jnp.broadcast_to(weight, value.shape)
    total = weight.sum()
    return jnp.where(weight > 0, value * weight, 0.0).sum() / jnp.where(total > 0, total, 1.0)


def binary_cross_entropy(logits: jax.Array, probability: jax.Array, weight: jax.Array) -> jax.Array:
    """Weighted mean cross entropy; logits and target probabilities (B, *S, C). Returns ()."""
    logits = known(logits, weight)
    return weighted_mean(jax.nn.softplus(logits) - logits * probability, weight)


def soft_dice(probability: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """1 - 2 sum(p g) / (sum p + sum g), sums over the whole batch, mean over channels.

    One pixel is added to numerator and denominator: without it an empty batch is 0 / 0. Whole-batch sums
    keep crops without a cell from outweighing the others.

    Args:
      probability: (B, *S, C) in [0, 1].
      target: (B, *S, C) in [0, 1].
      weight: (B, *S, 1).

    Returns:
      () float32 in [0, 1).
    """
    axes = tuple(range(probability.ndim - 1))
    probability = known(probability, weight)
    overlap = (weight * probability * target).sum(axes)
    total = (weight * (probability + target)).sum(axes)
    return jnp.mean(1 - (2 * overlap + 1) / (total + 1))


def bce_and_dice(logits: jax.Array, target: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both losses of one logit map: (), () from (B, *S, C), (B, *S, C) and (B, *S, 1)."""
    logits = known(logits, weight)
    return (
        binary_cross_entropy(logits, target, weight),
        soft_dice(jax.nn.sigmoid(logits), target, weight),
    )


def cross_entropy(
    logits: jax.Array, classes: jax.Array, class_weights: tuple[float, ...], weight: jax.Array
) -> jax.Array:
    """Class-weighted mean cross entropy.

    Args:
      logits: (B, *S, C).
      classes: (B, *S) int32 in [0, C).
      class_weights: C factors, by the true class.
      weight: (B, *S, 1).

    Returns:
      () float32.
    """
    log_probability = jax.nn.log_softmax(known(logits, weight))
    # One-hot products, not a gather: C is small, and a gather's backward pass is a scatter.
    one_hot = jax.nn.one_hot(classes, logits.shape[-1], dtype=logits.dtype)
    picked = -(log_probability * one_hot).sum(-1, keepdims=True)
    by_class = (one_hot * jnp.asarray(class_weights, logits.dtype)).sum(-1, keepdims=True)
    return weighted_mean(picked, weight * by_class)


def smooth_l1(difference: jax.Array, beta: float) -> jax.Array:
    """Elementwise 0.5 d^2 / beta within beta of 0, else |d| - beta / 2; beta 0 is |d|."""
    size = jnp.abs(difference)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)


def focal(logits: jax.Array, heat: jax.Array, weight: jax.Array, alpha: float, beta: float) -> jax.Array:
    """Focal loss of a heat map, per known centre; all but centres are negatives, with relief near a centre.

    Law and Deng, CornerNet, ECCV 2018.

    Args:
      logits: (B, *S, 1).
      heat: (B, *S, 1), at least `CENTRE` at centres.
      weight: (B, *S, 1).
      alpha: exponent of the error.
      beta: exponent of the relief.

    Returns:
      () float32.
    """
    logits = known(logits, weight)
    probability = jax.nn.sigmoid(logits)
    centre = heat >= CENTRE
    positive = -jax.nn.log_sigmoid(logits) * (1 - probability) ** alpha
    relief = (1 - jnp.minimum(heat, 1.0)) ** beta
    negative = -jax.nn.log_sigmoid(-logits) * probability**alpha * relief
    known_centres = (centre & (weight > 0)).sum()
    total = jnp.where(weight > 0, weight * jnp.where(centre, positive, negative), 0.0).sum()
    return total / jnp.maximum(known_centres, 1)


def heat_logits(heat: jax.Array) -> jax.Array:
    """Finite logits that say a heat map."""
    heat = jnp.clip(heat, 1e-4, CENTRE)
    return jnp.log(heat) - jnp.log1p(-heat)


def logit(probability: float) -> float:
    """The raw output that means a probability in (0, 1)."""
    return math.log(probability / (1 - probability))


def saturated(target: jax.Array) -> jax.Array:
    """Logits that say a 0/1 target beyond doubt, (..., C) -> (..., C); their cross entropy is 5e-5."""
    return 20.0 * target - 10.0
