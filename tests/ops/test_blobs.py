"""Blobs in scale space against scipy and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.feature.blob import _blob_overlap, blob_log

from celltrack_jax.ops.blobs import _shared, find_blobs, laplacian_of_gaussian

compiled = jax.jit(find_blobs, static_argnames=("max_sigma", "num_sigma", "count"))
SHAPE = (64, 50)
SCALES = {"max_sigma": 5, "num_sigma": 5}
ORIGINAL = {"max_sigma": 10, "num_sigma": 10}


def found(heat, threshold=0.1, overlap=0.1, count=64, **scales):
    blobs = compiled(heat, threshold=threshold, overlap=overlap, count=count, **(SCALES | scales))
    valid = np.asarray(blobs.valid)
    return tuple(np.asarray(column)[valid] for column in blobs[:3])


def reference(heat, overlap, max_sigma, num_sigma):
    """(N, ndim + 1): pixel and sigma of scikit-image's blobs."""
    return blob_log(heat, 1, max_sigma, num_sigma, threshold=0.1, overlap=overlap)


def gaussians(points, sigma, shape):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    square = ((grid[..., None, :] - np.asarray(points)) ** 2).sum(-1)
    return np.exp(-0.5 * square / np.square(sigma)).max(-1).astype(np.float32)


def random_map(seed, cells, shape):
    rng = np.random.default_rng(seed)
    return gaussians(rng.random((cells, len(shape))) * shape, rng.uniform(1, 4, cells), shape)


@pytest.mark.parametrize("shape", [(50, 41), (14, 20, 17)])
@pytest.mark.parametrize("sigma", [1.0, 2.5, 6.0])
def test_the_filter_is_scipys(shape, sigma):
    heat = np.random.default_rng(0).random(shape).astype(np.float32)
    ours = jax.jit(laplacian_of_gaussian, static_argnums=1)(heat, sigma)
    np.testing.assert_allclose(ours, ndimage.gaussian_laplace(heat.astype(float), sigma), atol=2e-6)


@pytest.mark.parametrize("ndim", [2, 3])
def test_shares_of_balls_are_those_of_scikit_image(ndim):
    rng = np.random.default_rng(0)
    blobs = np.column_stack([rng.uniform(0, 8, (20, ndim)), rng.uniform(1, 5, 20)])
    shared = jax.jit(_shared)(blobs[:, :-1], blobs[:, -1])
    np.testing.assert_allclose(shared, [[_blob_overlap(a, b) for b in blobs] for a in blobs], atol=1e-4)


def greedy(blobs, overlap):
    """Keeps scikit-image's unpruned blobs, (N, ndim + 1), from the widest down, in a loop."""
    kept = []
    for blob in sorted(blobs.tolist(), key=lambda blob: -blob[-1]):
        if not any(_blob_overlap(np.array(blob), np.array(other)) > overlap for other in kept):
            kept.append(blob)
    return sorted(kept)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6), cells=st.sampled_from([0, 2, 6, 12]), overlap=st.sampled_from([0.1, 0.5, 1.0])
)
def test_blobs_are_those_of_scikit_image_settled_from_the_widest(seed, cells, overlap):
    heat = random_map(seed, cells, SHAPE) if cells else np.zeros(SHAPE, np.float32)
    position, sigma, score = found(heat, overlap=overlap)
    unpruned = reference(heat, 1.0, **SCALES)
    expected = np.array(greedy(unpruned, overlap)).reshape(-1, 3)
    assert np.all(np.diff(score) <= 0)
    assert len(position) == len(expected)
    if not cells:
        return
    nearest = np.abs(np.column_stack([position, sigma])[:, None] - expected).max(-1).argmin(0)
    assert len(np.unique(nearest)) == len(expected)
    np.testing.assert_array_equal(sigma[nearest], expected[:, 2])
    np.testing.assert_allclose(position[nearest], expected[:, :2], atol=0.5001)


@pytest.mark.parametrize(
    ("points", "widths", "shape", "scales"),
    [
        ([[20, 22], [60, 70], [70, 24]], [2.0, 5.0, 3.0], (90, 95), ORIGINAL),
        ([[6, 8, 7], [14, 17, 18]], [1.0, 2.0], (22, 26, 25), {"max_sigma": 2, "num_sigma": 2}),
    ],
)
def test_gaussians_apart_are_those_of_scikit_image(points, widths, shape, scales):
    heat = gaussians(points, widths, shape)
    position, sigma, score = found(heat, **scales)
    expected = reference(heat, 0.1, **scales)
    assert sorted(np.column_stack([position.round(), sigma]).tolist()) == sorted(expected.tolist())
    np.testing.assert_allclose(score, {2: 0.5, 3: 3 / 2**2.5}[len(shape)], atol=0.03)


def test_positions_are_sub_pixel():
    points = np.array([[20.3, 30.75], [45.5, 12.2]])
    position, _, _ = found(gaussians(points, 3.0, SHAPE))
    assert np.abs(position[np.argsort(position[:, 0])] - points).max() < 0.05


def test_the_strongest_are_kept_when_there_are_too_many():
    points = np.array([[15, 15], [15, 38], [45, 15], [45, 38]])
    heights = np.array([0.4, 1.0, 0.8, 0.6], np.float32)
    heat = sum(h * gaussians([p], 2.0, SHAPE) for h, p in zip(heights, points, strict=True))
    position, _, score = found(np.asarray(heat), count=2)
    np.testing.assert_allclose(position, points[[1, 2]], atol=0.01)
    np.testing.assert_allclose(score, [0.5, 0.4], atol=0.01)


def test_one_axis_is_refused():
    with pytest.raises(ValueError, match="2 or 3 axes, not in 1"):
        find_blobs(jnp.zeros(9), threshold=0.1, overlap=0.1, count=3, **SCALES)
