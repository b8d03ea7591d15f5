import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax.ops import labels as ops
from tests.representations.cells import touching_cells

K = 40
RNG = np.random.default_rng(0)
MAPS = {
    "2d": touching_cells((40, 52), (1, 1), 6.0, seed=1),
    "3d": touching_cells((9, 24, 20), (2, 1, 1), 6.0, seed=1),
}


@pytest.fixture(params=list(MAPS), name="labels")
def _labels(request):
    labels = MAPS[request.param].copy()
    labels[RNG.random(labels.shape) < 0.05] = -1
    labels[labels == 3] = 0  # an id without a pixel
    return labels


def test_sizes(labels):
    np.testing.assert_array_equal(ops.sizes(labels, K), np.bincount(labels[labels >= 0], minlength=K))


def test_centroids(labels):
    found = np.asarray(ops.centroids(labels, K))
    present = np.unique(labels[labels > 0])
    expected = ndimage.center_of_mass(np.ones_like(labels), labels, present)
    np.testing.assert_allclose(found[present], expected, atol=1e-4)
    assert np.isnan(np.delete(found, present, 0)).all()


def test_maxima(labels):
    values = RNG.normal(size=labels.shape).astype(np.float32)
    found = np.asarray(ops.maxima(values, labels, K))
    present = np.unique(labels[labels >= 0])
    np.testing.assert_array_equal(found[present], ndimage.maximum(values, labels, present))
    assert (np.delete(found, present) == -np.inf).all()


def test_boxes(labels):
    low, high = (np.asarray(part) for part in ops.boxes(labels, K))
    found = ndimage.find_objects(labels, K - 1)
    for cell, box in enumerate(found, 1):
        expected = [(0, 0)] * labels.ndim if box is None else [(part.start, part.stop) for part in box]
        assert list(zip(low[cell], high[cell], strict=True)) == expected


def test_unknown_pixels_and_ids_beyond_the_bound_are_counted_nowhere():
    labels = jnp.array([[-1, -1, 0, 1, 2, 5, 6]], jnp.int32)
    np.testing.assert_array_equal(ops.sizes(labels, 5), [1, 1, 1, 0, 0])


def test_vmaps():
    batch = np.stack([MAPS["2d"], MAPS["2d"][::-1]])
    found = jax.vmap(lambda one: ops.centroids(one, K))(batch)
    np.testing.assert_allclose(found[1], ops.centroids(batch[1], K), atol=1e-4)


def test_the_centroid_of_a_large_cell_in_the_corner_of_a_volume_keeps_its_digits():
    labels = np.zeros((4, 1500, 1200), np.int32)
    labels[:, 1400:1499, 3:200:2] = 1
    found = np.asarray(ops.centroids(jnp.asarray(labels), 3))
    np.testing.assert_allclose(found[1], [1.5, 1449.0, 101.0], rtol=1e-6)


def test_variances_are_those_of_the_pixels_and_of_a_pixel():
    labels = np.zeros((2000, 12), np.int32)
    labels[1900:1990, 2:9] = 1
    labels[1800:1803, 5:9] = 3
    labels[7, 7] = 4
    labels[20:, 10:] = -1
    found = np.asarray(ops.variances(jnp.asarray(labels), ops.centroids(jnp.asarray(labels), 6)))
    for cell in (1, 3, 4):
        np.testing.assert_allclose(found[cell], np.argwhere(labels == cell).var(0) + 1 / 12, rtol=1e-4)
    assert np.isnan(found[[0, 2, 5]]).all()
