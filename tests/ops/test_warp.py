import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import interpolate, ndimage

from celltrack_jax.ops import warp

RNG = np.random.default_rng(0)
READ = (23, 30)
coordinates_of = jax.jit(warp.plane_coordinates, static_argnums=(0, 1))
linear = jax.jit(warp.sample_linear)
nearest = jax.jit(warp.sample_nearest, static_argnums=2)
field_of = jax.jit(warp.spline_field, static_argnums=(1, 2))
IMAGE = RNG.normal(size=(*READ, 2)).astype(np.float32)
LABELS = RNG.integers(-1, 5, READ).astype(np.int32)


def rotation(degrees):
    angle = np.deg2rad(degrees)
    return jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], jnp.float32)


@pytest.mark.parametrize("size", [READ, (13, 20), (14, 11), (1, 30)])
def test_identity_reads_the_middle_exactly(size):
    coordinates = coordinates_of(READ, size, jnp.eye(2))
    (y, x), (height, width) = ((r - n) // 2 for r, n in zip(READ, size, strict=True)), size
    middle = np.s_[y : y + height, x : x + width]
    np.testing.assert_array_equal(linear(jnp.asarray(IMAGE), coordinates), IMAGE[middle])
    np.testing.assert_array_equal(nearest(jnp.asarray(LABELS), coordinates, -7), LABELS[middle])


def test_whole_coordinates_keep_even_infinite_neighbours_apart():
    image = jnp.asarray(IMAGE).at[5, 5].set(1e30)
    mirrored = coordinates_of(READ, READ, jnp.diag(jnp.array([-1.0, 1.0])))
    np.testing.assert_array_equal(linear(image, mirrored), image[::-1])


def test_a_quarter_turn_is_exact():
    turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    coordinates = coordinates_of(READ, (15, 15), turn)
    square = IMAGE[4:19, 7:22]
    np.testing.assert_array_equal(linear(jnp.asarray(IMAGE), coordinates), np.rot90(square, -1))


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_of_any_number_of_samples_is_mapped_alike(count):
    """With one sample, and planes of this size, a library of jaxlib 0.10.2 read y for x (see `ops.cpu`)."""
    size, matrices = (64, 64), RNG.normal(size=(count, 2, 2)).astype(np.float32)
    found = jax.jit(jax.vmap(lambda matrix: warp.plane_coordinates((80, 80), size, matrix)))(matrices)
    offset = np.stack(np.meshgrid(*[np.arange(64) - 31.5] * 2, indexing="ij"))
    np.testing.assert_allclose(found, np.einsum("bij,jyx->biyx", matrices, offset) + 39.5, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    degrees=st.floats(-180, 180, width=32),
    shift=st.tuples(*[st.floats(-9, 9, width=32)] * 2),
    zoom=st.floats(0.5, 2.0, width=32),
)
def test_samples_equal_scipy_with_mirrored_borders(degrees, shift, zoom):
    coordinates = coordinates_of(READ, (16, 18), rotation(degrees) * zoom)
    coordinates += jnp.array(shift, jnp.float32)[:, None, None]
    found = linear(jnp.asarray(IMAGE), coordinates)
    exact = np.asarray(coordinates, np.float64)
    for channel in range(2):
        expected = ndimage.map_coordinates(IMAGE[..., channel], exact, order=1, mode="mirror")
        np.testing.assert_allclose(found[..., channel], expected, atol=2e-4)

    labels = np.asarray(nearest(jnp.asarray(LABELS), coordinates, -7))
    row, column = np.floor(exact + 0.5).astype(int)
    inside = (row >= 0) & (row < READ[0]) & (column >= 0) & (column < READ[1])
    np.testing.assert_array_equal(labels[inside], LABELS[row[inside], column[inside]])
    assert (labels[~inside] == -7).all()


def test_a_ramp_is_resampled_without_error():
    ramp = jnp.asarray(np.add.outer(2.0 * np.arange(40), 3.0 * np.arange(40)).astype(np.float32))
    coordinates = coordinates_of((40, 40), (20, 20), rotation(33))
    np.testing.assert_allclose(linear(ramp, coordinates), 2 * coordinates[0] + 3 * coordinates[1], atol=1e-3)


def test_a_single_row_can_be_read():
    coordinates = coordinates_of((1, 9), (1, 5), rotation(50))
    assert np.isfinite(linear(jnp.ones((1, 9)), coordinates)).all()


@pytest.mark.parametrize(("size", "spacing"), [((33, 20), 8), ((1, 7), 3), ((16, 16), 16)])
def test_spline_fields_equal_scipys_b_splines(size, spacing):
    control = RNG.normal(size=(2, *warp.control_points(size, spacing))).astype(np.float32)
    found = field_of(jnp.asarray(control), size, spacing)
    expected = control.astype(np.float64)
    for axis, n in ((1, size[0]), (2, size[1])):
        knots = np.arange(-3, control.shape[axis] + 1)
        spline = interpolate.BSpline(knots, np.moveaxis(expected, axis, 0), 3)
        expected = np.moveaxis(spline(np.arange(n) / spacing), 0, axis)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_constant_control_points_move_everything_alike():
    field = field_of(jnp.full((2, *warp.control_points((19, 24), 5)), 3.0), (19, 24), 5)
    np.testing.assert_allclose(field, 3.0, rtol=1e-5)
