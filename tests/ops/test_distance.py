import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from celltrack_jax.ops.distance import instance_distance, other_cell_distance
from tests.representations.cells import touching_cells

own = jax.jit(instance_distance)
other = jax.jit(other_cell_distance)


def own_by_scipy(labels, spacing, limit):
    """The distance transform of every label's own mask."""
    distance = np.full(labels.shape, limit, np.float64)
    for label in np.unique(labels):
        mask = labels == label
        if not mask.all():
            distance[mask] = ndimage.distance_transform_edt(mask, spacing)[mask]
    return np.minimum(distance, limit)


def other_by_scipy(labels, spacing, limit):
    """For each label, the distance to the union of all other cells."""
    distance = np.full(labels.shape, limit, np.float64)
    for label in np.unique(labels):
        mask, cells = labels == label, (labels > 0) & (labels != label)
        if cells.any():
            distance[mask] = ndimage.distance_transform_edt(~cells, spacing)[mask]
    return np.minimum(distance, limit)


ORACLES = pytest.mark.parametrize(
    ("function", "oracle"), [(own, own_by_scipy), (other, other_by_scipy)], ids=["own", "other"]
)
maps_2d = npst.arrays(np.int32, (11, 14), elements=st.sampled_from([-1, 0, 0, 0, 1, 2, 2, 2, 3]))
maps_3d = npst.arrays(np.int32, (5, 7, 6), elements=st.sampled_from([-1, 0, 0, 0, 1, 2, 2, 2, 3]))
spacings = st.floats(0.25, 4.0, width=32)


@ORACLES
@settings(max_examples=30, deadline=None)
@given(labels=maps_2d, spacing=st.tuples(spacings, spacings), limit=st.floats(0.5, 40, width=32))
def test_equals_scipy_per_label_in_2d(function, oracle, labels, spacing, limit):
    found = function(labels, np.array(spacing, np.float32), limit)
    np.testing.assert_allclose(found, oracle(labels, spacing, limit), rtol=1e-5)


@ORACLES
@settings(max_examples=30, deadline=None)
@given(labels=maps_3d, spacing=st.tuples(spacings, spacings, spacings), limit=st.floats(0.5, 40, width=32))
def test_equals_scipy_per_label_in_anisotropic_3d(function, oracle, labels, spacing, limit):
    found = function(labels, np.array(spacing, np.float32), limit)
    np.testing.assert_allclose(found, oracle(labels, spacing, limit), rtol=1e-5)


@ORACLES
@pytest.mark.parametrize("limit", [3.0, 100.0])
@pytest.mark.parametrize(
    ("shape", "spacing"), [((90, 70), (1.0, 1.0)), ((12, 40, 44), (3.0, 1.0, 1.0))], ids=["2d", "3d"]
)
def test_equals_scipy_on_touching_cells(function, oracle, shape, spacing, limit):
    labels = touching_cells(shape, spacing, radius=9.0, seed=0)
    found = function(labels, np.array(spacing), limit)
    np.testing.assert_allclose(found, oracle(labels, spacing, limit), rtol=1e-5)


@ORACLES
def test_a_map_of_one_label_has_no_edge(function, oracle):
    del oracle
    for label in (0, 1, -1):
        labels = np.full((8, 9), label, np.int32)
        np.testing.assert_array_equal(function(labels, np.ones(2, np.float32), 5.0), 5.0)


def test_the_border_of_the_map_is_no_edge():
    labels = np.zeros((7, 12), np.int32)
    labels[:, :4] = 1
    distance = np.asarray(own(labels, np.ones(2, np.float32), 50.0))
    np.testing.assert_array_equal(distance[:, :4], np.broadcast_to([4, 3, 2, 1], (7, 4)))


@ORACLES
def test_each_sample_of_a_batch_has_its_own_spacing(function, oracle):
    del oracle
    labels = np.stack([touching_cells((24, 30), (1, 1), 6.0, seed) for seed in range(3)])
    spacing = np.array([[1, 1], [0.5, 0.25], [3, 2]], np.float32)
    batch = jax.vmap(functools.partial(function, max_distance=7.0))(labels, spacing)
    for sample, one, size in zip(batch, labels, spacing, strict=True):
        np.testing.assert_array_equal(sample, function(one, size, 7.0))


@ORACLES
def test_mirrors_and_transposition_commute(function, oracle):
    del oracle
    labels = jnp.asarray(touching_cells((20, 31), (1, 2), 7.0, seed=4))
    distance = function(labels, np.array([1.0, 2.0]), 9.0)
    np.testing.assert_array_equal(
        function(labels[::-1, ::-1], np.array([1.0, 2.0]), 9.0), distance[::-1, ::-1]
    )
    np.testing.assert_array_equal(function(labels.T, np.array([2.0, 1.0]), 9.0), distance.T)


@ORACLES
def test_no_round_of_a_batch_asks_whether_one_sample_goes_on(function, oracle):
    """Over devices that split the batch, each answer would be a sum over all of them."""
    del oracle
    labels, spacing = jnp.ones((3, 8, 8), jnp.int32), jnp.ones((3, 2))
    batched = jax.jit(jax.vmap(functools.partial(function, max_distance=5)))
    program = batched.lower(labels, spacing).as_text()
    assert "stablehlo.while" in program
    assert "applies stablehlo.or" not in program
