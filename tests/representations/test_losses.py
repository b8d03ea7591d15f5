import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celltrack_jax.representations import losses

RNG = np.random.default_rng(0)
SHAPE = (2, 6, 7)
LOGITS = jnp.asarray(RNG.normal(0, 3, (*SHAPE, 3)), jnp.float32)
TARGET = jnp.asarray(RNG.random((*SHAPE, 3)), jnp.float32)
HEAT = jnp.where(TARGET > 0.8, 1.0, TARGET)
CLASSES = jnp.asarray(RNG.integers(0, 3, SHAPE))
WEIGHT = jnp.asarray(RNG.integers(0, 3, (*SHAPE, 1)), jnp.float32)
NOWHERE = jnp.zeros((*SHAPE, 1))
CLASS_WEIGHTS = (0.2, 0.3, 0.5)

LOSSES = {
    "bce": lambda x, w: losses.binary_cross_entropy(x, TARGET, w),
    "dice": lambda x, w: losses.soft_dice(jax.nn.sigmoid(losses.known(x, w)), TARGET, w),
    "cross entropy": lambda x, w: losses.cross_entropy(x, CLASSES, CLASS_WEIGHTS, w),
    "focal": lambda x, w: losses.focal(x, HEAT, w, 2.0, 4.0),
    "smooth l1": lambda x, w: losses.weighted_mean(losses.smooth_l1(losses.known(x, w), 0.5), w),
}


@functools.partial(jax.jit, static_argnums=0)
def cost(loss, prediction, weight):
    """Loss and its gradient."""
    return jax.value_and_grad(LOSSES[loss])(prediction, weight)


every_loss = pytest.mark.parametrize("loss", LOSSES)


def test_binary_cross_entropy_equals_optax():
    expected = optax.sigmoid_binary_cross_entropy(LOGITS, TARGET)
    np.testing.assert_allclose(
        losses.binary_cross_entropy(LOGITS, TARGET, WEIGHT), np.average(expected, weights=WEIGHT.repeat(3, -1)),
        rtol=1e-5,
    )  # fmt: skip


def test_binary_cross_entropy_rises_by_the_error_of_the_probability_also_at_zero():
    logits = jnp.array([-3.0, -1e-6, 0.0, 1e-6, 3.0]).reshape(1, 5, 1)
    slope = jax.grad(losses.binary_cross_entropy)(logits, jnp.full_like(logits, 0.2), jnp.ones_like(logits))
    np.testing.assert_allclose(5 * slope, jax.nn.sigmoid(logits) - 0.2, atol=1e-6)


def test_cross_entropy_equals_optax():
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, CLASSES)
    weights = WEIGHT[..., 0] * jnp.asarray(CLASS_WEIGHTS)[CLASSES]
    np.testing.assert_allclose(
        losses.cross_entropy(LOGITS, CLASSES, CLASS_WEIGHTS, WEIGHT),
        np.average(expected, weights=weights),
        rtol=1e-5,
    )


def test_smooth_l1_equals_optax_and_is_absolute_without_a_corner():
    off = jnp.linspace(-3, 3, 41)
    np.testing.assert_allclose(losses.smooth_l1(off, 0.5) * 0.5, optax.huber_loss(off, delta=0.5), rtol=1e-5)
    np.testing.assert_array_equal(losses.smooth_l1(off, 0.0), jnp.abs(off))


def test_the_focal_loss_is_a_sum_over_pixels_per_known_centre():
    logits, heat = np.asarray(LOGITS, np.float64), np.asarray(HEAT, np.float64)
    weight = np.broadcast_to(WEIGHT, heat.shape)
    p = 1 / (1 + np.exp(-logits))
    every = np.where(heat == 1, -np.log(p) * (1 - p) ** 2, -np.log(1 - p) * p**2 * (1 - heat) ** 4)
    centres = ((heat == 1) & (weight > 0)).sum()
    assert float(losses.focal(LOGITS, HEAT, WEIGHT, 2.0, 4.0)) == pytest.approx(
        (weight * every).sum() / centres, rel=1e-4
    )
    said = losses.heat_logits(jnp.array([0.0, 0.3, 1.0]))
    np.testing.assert_allclose(jax.nn.sigmoid(said), [0, 0.3, 1], atol=2e-4)


def test_dice_of_a_perfect_an_empty_and_an_opposite_answer():
    truth = (TARGET > 0.5).astype(jnp.float32)
    ones = jnp.ones_like(NOWHERE)
    assert losses.soft_dice(truth, truth, ones) == pytest.approx(0, abs=1e-6)
    assert losses.soft_dice(jnp.zeros_like(truth), jnp.zeros_like(truth), ones) == 0
    assert losses.soft_dice(1 - truth, truth, ones) > 0.95


@every_loss
def test_unknown_pixels_count_nowhere_whatever_is_predicted_there(loss):
    poisoned = jnp.where(WEIGHT > 0, LOGITS, jnp.array([jnp.inf, -jnp.inf, jnp.nan]))
    value, gradient = cost(loss, poisoned, WEIGHT)
    assert value == cost(loss, LOGITS, WEIGHT)[0]
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[np.broadcast_to(WEIGHT == 0, gradient.shape)].any()
    assert np.asarray(gradient)[np.broadcast_to(WEIGHT > 0, gradient.shape)].any()


@every_loss
def test_nothing_known_costs_nothing(loss):
    value, gradient = cost(loss, LOGITS, NOWHERE)
    assert value == 0
    assert not gradient.any()


@every_loss
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_predictions_stay_finite(loss, size):
    value, gradient = cost(loss, jnp.full_like(LOGITS, size), WEIGHT)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_weights_scale_pixels():
    twice = jnp.concatenate([LOGITS, LOGITS]), jnp.concatenate([TARGET, TARGET])
    once = losses.binary_cross_entropy(LOGITS, TARGET, 2 * jnp.ones_like(NOWHERE))
    both = losses.binary_cross_entropy(*twice, jnp.ones((4, 6, 7, 1)))
    assert once == pytest.approx(float(both), rel=1e-5)


def test_saturated_logits_say_the_target():
    target = (TARGET > 0.5).astype(jnp.float32)
    assert losses.binary_cross_entropy(losses.saturated(target), target, jnp.ones_like(NOWHERE)) < 1e-4


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_logit_inverts_the_sigmoid(probability):
    assert jax.nn.sigmoid(losses.logit(probability)) == pytest.approx(probability, rel=1e-5)
