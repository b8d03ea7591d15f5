"""The Lovász hinge: a convex loss of a mask whose value at hard answers is the Jaccard loss.

Yu and Blaschko, ICML 2015 (arXiv:1512.07797); Berman et al., CVPR 2018 (arXiv:1705.08790). Shapes: N pixels.
"""

import jax
import jax.numpy as jnp


def lovasz_hinge(score: jax.Array, truth: jax.Array, valid: jax.Array) -> jax.Array:
    """Lovász extension of the Jaccard loss, taken at the hinge errors relu(1 -+ score).

    The Jaccard loss of a set M of mistaken pixels is |M| / |truth or M|. The extension adds the pixels in the order of
    their errors, largest first, and counts each error times what its pixel adds to the loss.

    Args:
      score: (N,) float32, positive for pixels of the mask; right from a margin of 1 on.
      truth: (N,) bool, the mask.
      valid: (N,) bool; the others are counted nowhere, whatever they hold.

    Returns:
      () float32; without a pixel in the mask it is the largest error, without a valid pixel 0.
    """
    truth &= valid
    error = jnp.where(valid, jax.nn.relu(1.0 - jnp.where(truth, score, -score)), 0.0)
    # The extension is linear wherever the order stays: its gradient is the increments.
    added = jax.lax.stop_gradient(_increments(error, truth, valid))
    return jnp.dot(error, added, precision=jax.lax.Precision.HIGHEST)


def _increments(error: jax.Array, truth: jax.Array, valid: jax.Array) -> jax.Array:
    """(N,) what each pixel adds to the Jaccard loss when pixels become mistaken in the order of their errors."""
    order = jnp.argsort(jnp.where(valid, -error, jnp.inf))
    hit, miss = truth[order], (valid & ~truth)[order]
    total = truth.sum()
    left = total - jnp.cumsum(hit)
    union = jnp.maximum(total + jnp.cumsum(miss), 1).astype(error.dtype)
    # The loss is 1 - left / union; differences of its values, which are near 1, would lose the digits of large masks.
    of_miss = jnp.where(union > 1, left / (union * jnp.maximum(union - 1, 1)), 1.0)
    added = jnp.where(hit, 1 / union, jnp.where(miss, of_miss, 0.0))
    return jnp.zeros_like(error).at[order].set(added, unique_indices=True)
