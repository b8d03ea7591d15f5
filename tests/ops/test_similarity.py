"""Losses of metric learning against loops that follow their formulas, gradients against finite differences."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops import similarity

LOSSES = (similarity.multi_similarity, similarity.circle, similarity.triplet)


@pytest.fixture(autouse=True, scope="module")
def _float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def _jitted(loss):
    """(loss, count) and gradient; one program for all examples."""
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def _multi_similarity(s, classes, valid):
    anchors = [i for i in range(len(s)) if valid[i]]
    total, kept = 0.0, 0
    for i in anchors:
        positives = [s[i, j] for j in anchors if j != i and classes[j] == classes[i]]
        negatives = [s[i, j] for j in anchors if classes[j] != classes[i]]
        if not positives or not negatives:
            continue
        hard_positives = [x for x in positives if x - 0.1 < max(negatives)]
        hard_negatives = [x for x in negatives if x + 0.1 > min(positives)]
        total += math.log(1 + sum(math.exp(-2 * (x - 0.5)) for x in hard_positives)) / 2
        total += math.log(1 + sum(math.exp(50 * (x - 0.5)) for x in hard_negatives)) / 50
        kept += len(hard_positives) + len(hard_negatives)
    return total / max(len(anchors), 1), kept


def _circle(s, classes, valid, held=None):
    """`held` are the similarities that the weights are made of."""
    held = s if held is None else held
    anchors = [i for i in range(len(s)) if valid[i]]
    terms, pairs = [], 0
    for i in anchors:
        positives = [j for j in anchors if j != i and classes[j] == classes[i]]
        negatives = [j for j in anchors if classes[j] != classes[i]]
        if not positives or not negatives:
            continue
        of_p = sum(math.exp(-128 * max(0, 1.25 - held[i, j]) * (s[i, j] - 0.75)) for j in positives)
        of_n = sum(math.exp(128 * max(0, held[i, j] + 0.25) * (s[i, j] - 0.25)) for j in negatives)
        terms.append(math.log1p(of_p * of_n))
        pairs += len(positives) + len(negatives)
    return sum(terms) / max(len(terms), 1), pairs


def _triplet(s, classes, valid):
    anchors = [i for i in range(len(s)) if valid[i]]
    terms = []
    for a in anchors:
        for p in anchors:
            for n in anchors:
                gap = s[a, p] - s[a, n]
                if p != a and classes[p] == classes[a] != classes[n] and 0 < gap < 0.2:
                    terms.append(0.2 - gap)
    return sum(terms) / max(len(terms), 1), len(terms)


ORACLES = dict(zip(LOSSES, (_multi_similarity, _circle, _triplet), strict=True))
SIZE = 9


def _batch(seed, kinds, spread=0.4):
    """Embeddings around their class's centre."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, kinds, SIZE)
    x = rng.normal(size=(kinds, 3))[classes] + spread * rng.normal(size=(SIZE, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T, classes, rng.random(SIZE) < 0.8


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kinds=st.integers(1, 6))
def test_it_is_the_loop_over_its_formula(loss, seed, kinds):
    s, classes, valid = _batch(seed, kinds)
    (value, count), _ = _jitted(loss)(s, classes, valid)
    expected, kept = ORACLES[loss](s, classes, valid)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert count == kept


@pytest.mark.parametrize("loss", LOSSES)
def test_the_examples_are_worth_it(loss):
    """Mining keeps some pairs and drops others, so that the oracles above compare something."""
    counts = [int(_jitted(loss)(*_batch(seed, 3))[0][1]) for seed in range(5)]
    assert 0 < min(counts) < max(counts)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_finite_differences(loss):
    s, classes, valid = _batch(3, 3)
    _, gradient = _jitted(loss)(s, classes, valid)
    oracle = functools.partial(_circle, held=s) if loss is similarity.circle else ORACLES[loss]
    step = 1e-6
    expected = np.zeros_like(s)
    for place in np.ndindex(*s.shape):
        beside = [s.copy(), s.copy()]
        beside[0][place] += step
        beside[1][place] -= step
        up, down = (oracle(x, classes, valid)[0] for x in beside)
        expected[place] = (up - down) / (2 * step)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("loss", LOSSES)
def test_the_order_of_the_batch_is_without_meaning(loss):
    s, classes, valid = _batch(1, 3)
    order = np.random.default_rng(0).permutation(SIZE)
    (value, count), gradient = _jitted(loss)(s, classes, valid)
    (turned, recount), regradient = _jitted(loss)(s[order][:, order], classes[order], valid[order])
    assert (turned, recount) == (pytest.approx(float(value), rel=1e-12), count)
    np.testing.assert_allclose(regradient, gradient[order][:, order], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_not_valid_is_as_if_it_were_not_there(loss):
    s, classes, valid = _batch(2, 3)
    there = np.flatnonzero(valid)
    assert 0 < len(there) < SIZE
    whole = _jitted(loss)(s, classes, valid)
    part = _jitted(loss)(s[there][:, there], classes[there])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), whole[0], part[0])
    np.testing.assert_allclose(whole[1][there][:, there], part[1], rtol=1e-9)
    assert not np.any(np.asarray(whole[1])[~valid])
    assert not np.any(np.asarray(whole[1])[:, ~valid])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", ["one class", "one of each", "none valid"])
def test_without_a_pair_loss_and_gradient_are_zero(loss, classes):
    s = _batch(0, 3)[0]
    ids = jnp.arange(SIZE) if classes == "one of each" else jnp.zeros(SIZE, int)
    (value, count), gradient = _jitted(loss)(s, ids, jnp.full(SIZE, classes != "none valid"))
    assert (value, count) == (0, 0)
    assert not np.any(gradient)


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_survives_the_extremes(loss):
    """Equal and opposite embeddings: exp(128 * 1.25 * 1.75) alone is beyond float32."""
    classes = jnp.asarray([0, 0, 1, 1])
    for s in (
        jnp.ones((4, 4)),
        -jnp.ones((4, 4)),
        jnp.outer(jnp.array([1.0, -1, 1, -1]), jnp.array([1.0, -1, 1, -1])),
    ):
        (value, _), gradient = _jitted(loss)(s.astype(jnp.float32), classes)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert gradient.dtype == jnp.float32


def test_similarities_are_cosines():
    x = np.random.default_rng(0).normal(size=(5, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    s = np.asarray(similarity.similarities(jnp.asarray(x)))
    for i, j in np.ndindex(5, 5):
        assert s[i, j] == pytest.approx(math.cos(math.acos(np.clip(x[i] @ x[j], -1, 1))), abs=1e-12)
    np.testing.assert_allclose(np.diag(s), 1)
