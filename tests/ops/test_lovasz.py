"""The Lovász hinge against the definition of the convex extension."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops.lovasz import lovasz_hinge
from tests.ops.jaccard import choquet, errors, jaccard_loss

N = 24
_loss = jax.jit(lovasz_hinge)
_slope = jax.jit(jax.grad(lovasz_hinge))


def drawn(seed, share):
    rng = np.random.default_rng(seed)
    # A coarse grid, so that errors tie.
    return rng, np.round(rng.normal(0, 1.2, N) * 4) / 4, rng.random(N) < share, rng.random(N) < 0.8


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_it_is_the_convex_extension_of_the_jaccard_loss(seed, share):
    _, score, truth, valid = drawn(seed, share)
    expected = choquet(errors(score, truth)[valid], truth[valid])
    np.testing.assert_allclose(_loss(score.astype(np.float32), truth, valid), expected, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_at_the_corners_it_is_the_jaccard_loss(seed, share):
    """Scores 1 and 0 of mask pixels, -1 and 0 of the others: errors 0 and 1."""
    rng, _, truth, valid = drawn(seed, share)
    mistaken = rng.random(N) < 0.3
    score = np.where(truth, 1.0, -1.0) * ~mistaken
    expected = jaccard_loss(mistaken[valid], truth[valid])
    np.testing.assert_allclose(_loss(score.astype(np.float32), truth, valid), expected, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_it_is_convex(seed):
    rng, first, truth, valid = drawn(seed, 0.4)
    second, share = rng.normal(0, 1.2, N), rng.random()
    of = [float(_loss(jnp.float32(x), truth, valid)) for x in (first, second)]
    between = float(_loss(jnp.float32(share * first + (1 - share) * second), truth, valid))
    assert between <= share * of[0] + (1 - share) * of[1] + 1e-5


def test_right_answers_with_a_margin_of_one_cost_nothing():
    truth = np.arange(N) % 3 == 0
    score = np.where(truth, 1.0, -1.0) * np.linspace(1, 3, N)
    assert float(_loss(jnp.float32(score), truth, np.ones(N, bool))) == 0
    score[3] = 0.9
    assert float(_loss(jnp.float32(score), truth, np.ones(N, bool))) > 0


def test_without_a_mask_the_largest_error_counts_and_without_a_pixel_nothing():
    score = np.linspace(-2, 1.5, N).astype(np.float32)
    nothing, every = np.zeros(N, bool), np.ones(N, bool)
    np.testing.assert_allclose(_loss(score, nothing, every), 2.5, rtol=1e-6)
    assert float(_loss(score, nothing, nothing)) == 0
    assert not np.asarray(_slope(score, nothing, nothing)).any()


def test_the_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(3)
    score, truth, valid = rng.normal(size=N).astype(np.float32), rng.random(N) < 0.4, rng.random(N) < 0.8
    slope = np.asarray(_slope(score, truth, valid))
    step = 1e-3
    for pixel in range(N):
        moved = [
            choquet(errors(score + d * (np.arange(N) == pixel), truth)[valid], truth[valid])
            for d in (step, -step)
        ]
        assert abs(slope[pixel] - (moved[0] - moved[1]) / (2 * step)) < 1e-4
    assert not slope[~valid].any()


def test_large_masks_keep_their_digits():
    """A pixel in a million: increments of 1e-12 and an exact total."""
    truth = np.arange(2**20) < 1000
    score = np.where(truth, 1.0, 0.5).astype(np.float32)
    expected = 1.5 * (1 - 1000 / 2**20)
    np.testing.assert_allclose(_loss(score, truth, np.ones_like(truth)), expected, rtol=2e-6)


def test_what_is_not_valid_may_be_anything():
    _, score, truth, valid = drawn(5, 0.4)
    poisoned = np.where(valid, score, np.inf).astype(np.float32)
    other = np.where(valid, truth, ~truth)
    assert float(_loss(poisoned, other, valid)) == float(_loss(jnp.float32(score), truth, valid))
    np.testing.assert_array_equal(_slope(poisoned, other, valid), _slope(jnp.float32(score), truth, valid))


def test_vmaps():
    rows = [drawn(seed, 0.4)[1:] for seed in range(3)]
    score, truth, valid = (jnp.asarray(np.stack(part)) for part in zip(*rows, strict=True))
    together = jax.vmap(lovasz_hinge)(score.astype(jnp.float32), truth, valid)
    alone = [float(_loss(jnp.float32(row[0]), *row[1:])) for row in rows]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
