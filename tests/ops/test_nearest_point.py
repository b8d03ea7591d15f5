import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops.nearest_point import nearest_point, offsets_to

compiled = jax.jit(nearest_point, static_argnums=1)
CANVASES = {"2d": ((11, 14), (1.0, 0.7)), "3d": ((5, 8, 9), (0.3, 0.13, 0.13))}


def brute_force(points, shape, spacing):
    """Looks at every pixel and every point: squared distance, offset, row."""
    square = np.full(shape, np.inf)
    offset = np.zeros((*shape, len(shape)))
    row = np.full(shape, -1)
    for pixel in np.ndindex(*shape):
        for k, point in enumerate(points):
            way = (point - pixel) * spacing
            if (way**2).sum() < square[pixel]:
                square[pixel], offset[pixel], row[pixel] = (way**2).sum(), way, k
    return square, offset, row


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    canvas=st.sampled_from(sorted(CANVASES)),
    count=st.sampled_from([1, 5, 21]),
    nobody=st.floats(0, 0.6),
)
def test_is_brute_force(seed, canvas, count, nobody):
    shape, spacing = CANVASES[canvas]
    rng = np.random.default_rng(seed)
    points = rng.uniform(-3, np.array(shape) + 2, (count, len(shape))).astype(np.float32)
    points[rng.random(count) < nobody] = np.nan
    found = compiled(points, shape, np.array(spacing, np.float32))
    square, offset, row = brute_force(points, shape, spacing)
    np.testing.assert_allclose(found.square, square, rtol=1e-4, atol=1e-6)
    # Two points may be equally near, but for the last bit.
    ours = np.asarray(found.row)
    assert (ours < 0).sum() == (row < 0).sum()
    same = ours == row
    assert same.mean() > 0.95
    np.testing.assert_allclose(np.asarray(found.offset)[same], offset[same], rtol=1e-4, atol=1e-5)


def test_the_first_of_equally_near_points_counts():
    found = compiled(np.array([[9, 9], [2, 2], [2, 2]], np.float32), (12, 12), np.ones(2, np.float32))
    assert set(np.unique(found.row)) == {0, 1}


def test_one_missing_coordinate_makes_no_point():
    found = compiled(np.array([[np.nan, 3], [2, np.inf]], np.float32), (4, 5), np.ones(2, np.float32))
    assert (np.asarray(found.row) == -1).all()
    assert np.isposinf(found.square).all()
    assert not np.asarray(found.offset).any()


@pytest.mark.parametrize("canvas", CANVASES)
def test_a_batch_is_its_samples(canvas):
    shape, spacing = CANVASES[canvas]
    points = np.random.default_rng(0).uniform(0, shape, (3, 6, len(shape))).astype(np.float32)
    spacings = np.array(spacing, np.float32) * np.array([[1], [2], [0.5]], np.float32)
    together = jax.jit(jax.vmap(lambda p, s: nearest_point(p, shape, s)))(points, spacings)
    for k in range(3):
        alone = compiled(points[k], shape, spacings[k])
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[k], theirs, rtol=1e-6)


def test_offsets_lead_to_the_point_that_a_pixel_is_told():
    points = jnp.array([[1.5, 2.25], [np.nan, 0.0]])
    row = jnp.array([[0, 1, -1], [2, 0, 0]])
    offset = np.asarray(offsets_to(points, row, jnp.array([2.0, 1.0])))
    np.testing.assert_allclose(offset[0, 0], [3.0, 2.25])
    np.testing.assert_allclose(offset[1, 1], [1.0, 1.25])
    np.testing.assert_allclose(offset[1, 2], [1.0, 0.25])
    assert not offset[0, 1:].any()
    assert not offset[1, 0].any()
