"""Losses of probability maps against plain formulas, and the Gaussian that changes while a network is trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.representations import losses, overlap
from celltrack_jax.representations.overlap import NAMES, Kernel

SHAPE = (2, 5, 7, 6, 2)
"""B, *S and C."""
SETTINGS = {
    "sizes": (5,),
    "sigmas": (1.0,),
    "spacing": (1.0, 1.0, 1.0),
    "schedule": "constant",
    "starts": (0.0,),
    "steps": 100,
}
KERNEL = overlap.build_kernel(SETTINGS, 3)
saturated: Any = losses.saturated
every_name = pytest.mark.parametrize("name", NAMES)
_value = jax.jit(overlap.loss, static_argnums=(0, 4))
_smooth = jax.jit(Kernel.smooth, static_argnums=0)
_slope = jax.jit(jax.grad(overlap.loss, 1), static_argnums=(0, 4))


def kernel_of(**changes) -> Kernel:
    return overlap.build_kernel(SETTINGS | changes, 3)


def value(name, logits, target, weight=None, kernel=KERNEL, step=0):
    weight = np.ones((*SHAPE[:-1], 1), np.float32) if weight is None else weight
    return float(_value(name, jnp.asarray(logits), jnp.asarray(target), weight, kernel, step))


def slope(name, logits, target, weight=None):
    weight = np.ones((*SHAPE[:-1], 1), np.float32) if weight is None else weight
    return np.asarray(_slope(name, jnp.asarray(logits), jnp.asarray(target), weight, KERNEL, 0))


def case(seed, share=0.1):
    """A random 0/1 target, the logits that say it, and other ones."""
    rng = np.random.default_rng(seed)
    target = (rng.random(SHAPE) < share).astype(np.float32)
    target[0, 2, 3, 3] = 1
    target[1, 2, 3, 3] = 0
    return target, np.asarray(saturated(target)), rng.normal(size=SHAPE).astype(np.float32)


def rises(costs):
    return (np.diff(costs) > -1e-6).all()


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def dice_of(p, g):
    """The mean over channels, in loops."""
    each = []
    for c in range(p.shape[-1]):
        each.append(2 * (p[..., c] * g[..., c]).sum() / ((p[..., c] ** 2).sum() + (g[..., c] ** 2).sum()))
    return np.mean(each)


@every_name
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.03, 0.5]))
def test_the_truth_costs_least_its_opposite_most_and_every_step_between_more(name, seed, share):
    target, truth, other = case(seed, share)
    ways = [f * -truth + (1 - f) * truth for f in (0, 0.3, 0.6, 1)]
    costs = [value(name, logits, target) for logits in ways]
    assert rises(costs)
    assert costs[0] < 0.02 < 0.05 < costs[-1]
    towards = [value(name, f * other + (1 - f) * truth, target) for f in (0, 0.25, 0.5, 0.75, 1)]
    assert rises(towards)
    # Near the truth single precision sees no difference.
    assert len(set(towards)) >= 4


@every_name
def test_both_operands_count(name):
    target, truth, other = case(0)
    here = (0, 1, 2, 3, 1)
    changed, turned = other.copy(), target.copy()
    changed[here] += 2.0
    turned[here] = 1 - turned[here]
    start = value(name, other, target)
    assert value(name, changed, target) != start
    assert value(name, other, turned) != start
    # The more so where what is said and what is true change together.
    assert value(name, np.asarray(saturated(turned)), turned) == pytest.approx(
        value(name, truth, target), abs=2e-3
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_they_equal_plain_formulas(share):
    target, _, logits = case(1, share)
    p, g = sigmoid(logits), target.astype(np.float64)
    entropy = -(g * np.log(p) + (1 - g) * np.log(1 - p))
    heavy = min(max((1 - g.mean()) / g.mean(), 1), 50)
    weight = np.where(g > 0, heavy, 1)
    dice = dice_of(p, g)
    generalised = []
    for c in range(2):
        pairs = [(p[..., c], g[..., c]), (1 - p[..., c], 1 - g[..., c])]
        sizes = [1 / max(truth.sum() ** 2, 1) for _, truth in pairs]
        over = sum(size * (a * b).sum() for size, (a, b) in zip(sizes, pairs, strict=True))
        both = sum(size * (a**2 + b**2).sum() for size, (a, b) in zip(sizes, pairs, strict=True))
        generalised.append(2 * over / both)
    expected = {
        "l2": ((p - g) ** 2).mean(),
        "rmse": np.sqrt(((p - g) ** 2).mean()),
        "rmsle": np.sqrt(((np.log1p(p) - np.log1p(g)) ** 2).mean()),
        "bce": entropy.mean(),
        "weighted_bce": (weight * entropy).sum() / weight.sum(),
        "dice": 1 - dice,
        "generalised_dice": 1 - np.mean(generalised),
        "bce_dice": entropy.mean() + 1 - dice,
    }
    assert {*expected, "gaussian_dice"} == set(NAMES)
    for name, one in expected.items():
        assert value(name, logits, target) == pytest.approx(one, rel=1e-4), name


def test_channels_count_alike_whatever_their_size():
    target = np.zeros(SHAPE, np.float32)
    target[..., 0] = 1
    target[0, 0, 0, 0, 1] = 1
    truth = np.array(saturated(target))
    truth[..., 1] *= -1
    # The first channel is right, the second wrong.
    assert value("dice", truth, target) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name", ["dice", "gaussian_dice", "generalised_dice"])
def test_overlaps_lie_between_0_and_1(name):
    target, truth, other = case(2)
    for logits in (truth, other, -truth):
        assert -1e-5 <= value(name, logits, target) <= 1
    # Foreground alone, which the opposite misses altogether; that of both classes sees nothing right either.
    assert value(name, -truth, target) > (0.99 if name != "gaussian_dice" else 0.5)


@every_name
def test_what_is_unknown_counts_nowhere(name):
    target, _, logits = case(3)
    weight = np.ones((*SHAPE[:-1], 1), np.float32)
    weight[:, 2:, 3:] = 0
    start, steepness = value(name, logits, target, weight), slope(name, logits, target, weight)
    unknown = np.broadcast_to(weight == 0, SHAPE)
    assert not steepness[unknown].any()
    assert steepness[~unknown].any()
    other = np.where(unknown, 1 - target, target)
    assert value(name, logits, other, weight) == start
    for poison in (np.nan, np.inf, -7.0):
        poisoned = np.where(unknown, poison, logits)
        assert value(name, poisoned, target, weight) == start
        np.testing.assert_array_equal(slope(name, poisoned, target, weight), steepness)
    # Known or not, not how well: a weight is no factor here.
    assert value(name, logits, target) != start


@every_name
def test_gradients_are_finite_everywhere(name):
    target, truth, other = case(4)
    nothing = np.zeros(SHAPE, np.float32)
    unknown = np.zeros((*SHAPE[:-1], 1), np.float32)
    for logits, wanted, weight in (
        (truth, target, None),
        (1e4 * truth, target, None),
        (-1e4 * truth, target, None),
        (other, nothing, None),
        (nothing - 1e4, nothing, None),
        (other, nothing + 1, None),
        (other, target, unknown),
    ):
        assert np.isfinite(value(name, logits, wanted, weight))
        assert np.isfinite(slope(name, logits, wanted, weight)).all()


def test_dice_of_smoothed_maps_becomes_dice_where_the_gaussian_has_no_width():
    target, _, logits = case(5)
    narrow = kernel_of(sigmas=(1e-6,))
    assert value("gaussian_dice", logits, target, kernel=narrow) == pytest.approx(
        value("dice", logits, target), rel=1e-6
    )
    assert value("gaussian_dice", logits, target) != pytest.approx(value("dice", logits, target), rel=0.01)


def test_dice_of_smoothed_maps_forgives_a_voxel():
    target = np.zeros(SHAPE, np.float32)
    target[:, 2, 3, 3] = 1
    near, far = np.roll(target, 1, 3), np.roll(target, 3, 3)
    costs = [value("gaussian_dice", saturated(each), target) for each in (target, near, far)]
    assert costs[0] < 0.01 < costs[1] < 0.5 < 0.8 < costs[2]
    assert value("dice", saturated(near), target) > 0.99


def test_the_temporal_measures_are_plain_formulas():
    rng = np.random.default_rng(6)
    p, q = rng.random((2, 3, 4, 5)).astype(np.float32)
    assert float(overlap.agreement(p, q)) == pytest.approx(
        (2 * (p * q).sum() + 1) / ((p**2).sum() + (q**2).sum() + 1), rel=1e-5
    )
    assert float(overlap.agreement(p, p)) == pytest.approx(1)
    assert float(overlap.agreement(0 * p, 0 * p)) == 1
    gap = np.hypot(p.mean() - q.mean(), p.std() - q.std())
    assert float(overlap.distribution_gap(p, q)) == pytest.approx(gap, rel=1e-4)
    flat = np.ones_like(p)
    assert np.isfinite(jax.jit(jax.grad(overlap.distribution_gap))(flat, flat)).all()


def sigmas_of(kernel, steps):
    return [float(kernel.now(jnp.int32(step))[0]) for step in steps]


def test_a_constant_kernel_stays():
    kernel = kernel_of(sizes=(5, 3), sigmas=(2.0, 1.0))
    assert [tuple(map(float, kernel.now(jnp.int32(step)))) for step in (0, 10**6)] == [(2, 5)] * 2


def test_a_kernel_in_steps_is_each_of_its_stages_in_turn():
    stages = [(7, 2.0), (5, 1.0), (3, 1.0)]
    kernel = kernel_of(sizes=(7, 5, 3), sigmas=(2.0, 1.0, 1.0), schedule="steps", starts=(0.0, 0.2, 0.4))
    maps = np.random.default_rng(7).random((1, 2, 5, 7, 6)).astype(np.float32)
    for step, (size, sigma) in zip((0, 19, 20, 39, 40, 999), np.repeat(stages, 2, axis=0), strict=True):
        alone = kernel_of(sizes=(int(size),), sigmas=(float(sigma),))
        np.testing.assert_allclose(_smooth(kernel, maps, step), _smooth(alone, maps, 0), atol=1e-6)


def test_a_geometric_kernel_narrows_by_the_same_share_in_each_step():
    kernel = kernel_of(sizes=(9, 9), sigmas=(2.0, 0.5), schedule="geometric")
    sigmas = sigmas_of(kernel, (0, 25, 50, 100, 1000))
    assert sigmas == pytest.approx([2.0, 2.0 * 0.25**0.25, 1.0, 0.5, 0.5], rel=1e-5)


def test_a_random_kernel_is_a_function_of_the_step_alone():
    kernel = kernel_of(sizes=(9, 9), sigmas=(2.0, 0.5), schedule="random")
    sigma = jax.jit(jax.vmap(lambda step: kernel.now(step)[0]))
    drawn = np.asarray(sigma(jnp.arange(400)))
    np.testing.assert_array_equal(drawn[:7], sigma(jnp.arange(7)))
    assert 0.5 <= drawn.min() < 0.55 < 1.9 < drawn.max() <= 2
    # As many below the geometric mean as above it.
    assert np.median(drawn) == pytest.approx(1.0, rel=0.15)
    assert (drawn[1:] != drawn[:-1]).all()


def test_a_width_is_in_the_unit_of_the_spacing():
    maps = np.zeros((1, 1, 5, 7, 6), np.float32)
    maps[0, 0, 2, 3, 3] = 1
    smooth = np.asarray(_smooth(kernel_of(spacing=(1 / 3, 1.0, 1.0), sigmas=(0.5,)), maps, 0))[0, 0]
    ratio = smooth[1, 3, 3] / smooth[2, 3, 3], smooth[2, 2, 3] / smooth[2, 3, 3]
    assert ratio == pytest.approx((np.exp(-0.5 / 1.5**2), np.exp(-0.5 / 0.5**2)), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule": "moody"}, "kernel.schedule is 'moody'"),
        ({"sizes": (5, 3)}, "give each stage a positive one"),
        ({"sigmas": (0.0,)}, "give each stage a positive one"),
        ({"sizes": (0,)}, "give each stage a positive one"),
        ({"schedule": "steps", "starts": (0.0, 0.5)}, "each of the 1 stages begins"),
        ({"schedule": "steps", "starts": (0.5,)}, "0 for the first"),
        ({"spacing": (1.0, 1.0)}, "kernel.spacing is .*: give 3 numbers"),
        ({"colour": "red"}, "representation.kernel: .*colour"),
    ],
)
def test_impossible_kernels_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        kernel_of(**changes)
