"""Ray lengths against marching by small steps, closed forms and StarDist."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops.star import ball_lengths, directions, faces, label_lengths, lengths_at
from tests.representations.cells import touching_cells

MAPS = {
    "2d": (touching_cells((20, 24), (1, 1), 5.0, seed=0), np.ones(2, np.float32)),
    "3d": (touching_cells((6, 14, 12), (2.3, 1, 1), 4.0, seed=1), np.array([2.3, 1, 1], np.float32)),
}
every_map = pytest.mark.parametrize("case", MAPS)
RAYS = 24

_at = jax.jit(lengths_at, static_argnames="rays")
_label_lengths = jax.jit(label_lengths, static_argnames=("rays", "grid"))
_ball_lengths = jax.jit(ball_lengths, static_argnames=("shape", "rays", "neighbours", "grid"))


def marched(labels, pixel, spacing, rays, max_length, step=0.002):
    """(P, n) lengths by small steps, to the nearest pixel each; negative as of `lengths_at`."""
    way = directions(labels.ndim, rays) / spacing
    padded = np.pad(labels, 1, constant_values=-2)
    own = labels[tuple(pixel.T)][:, None]
    length = np.zeros((len(pixel), rays))
    for far in np.arange(step, max_length, step):
        place = np.rint(pixel[:, None] + far * way).astype(int) + 1
        there = padded[tuple(np.clip(place, 0, np.array(padded.shape) - 1).transpose(2, 0, 1))]
        leaves = (length == 0) & (there != own)
        length[leaves] = np.where(there < 0, -far, far)[leaves]
    return np.where(length == 0, -max_length, length)


@every_map
def test_lengths_are_those_of_marching_by_small_steps(case):
    labels, spacing = MAPS[case]
    labels = labels.copy()
    labels[..., -3:] = -1
    rng = np.random.default_rng(0)
    pixel = rng.permutation(np.argwhere(labels > 0))[:40].astype(np.int32)
    found = np.asarray(_at(labels, pixel, spacing, rays=RAYS, max_length=6.0))
    # Between rays that pass an edge closely, small steps may miss the pixel behind it.
    close = np.abs(found - marched(labels, pixel, spacing, RAYS, 6.0)) < 0.005
    assert close.mean() > 0.995
    assert (found == -6).any()
    assert (found > 0).any()


@every_map
def test_all_pixels_of_cells_are_followed_and_no_other(case):
    labels, spacing = MAPS[case]
    found = np.asarray(_label_lengths(labels, spacing, rays=RAYS, max_length=9.0, grid=(1,) * labels.ndim))
    assert not found[labels <= 0].any()
    pixel = np.argwhere(labels > 0).astype(np.int32)
    expected = np.asarray(_at(labels, pixel, spacing, rays=RAYS, max_length=9.0))
    np.testing.assert_array_equal(found[labels > 0], expected)
    grid = (1, 3, 2)[-labels.ndim :]
    on_grid = np.asarray(_label_lengths(labels, spacing, rays=RAYS, max_length=9.0, grid=grid))
    np.testing.assert_array_equal(on_grid, found[tuple(slice(None, None, step) for step in grid)])


def test_more_pixels_than_one_chunk_holds(monkeypatch):
    labels, spacing = MAPS["2d"]
    whole = _label_lengths(labels, spacing, rays=RAYS, max_length=9.0, grid=(1, 1))
    monkeypatch.setattr("celltrack_jax.ops.star._CHUNK", 50)
    parts = jax.jit(functools.partial(label_lengths, rays=RAYS, grid=(1, 1)))(labels, spacing, max_length=9.0)
    np.testing.assert_array_equal(parts, whole)


def test_each_sample_of_a_batch_has_its_own_spacing_and_cells():
    labels = np.stack([MAPS["2d"][0], np.zeros_like(MAPS["2d"][0]), MAPS["2d"][0][::-1]])
    spacing = np.array([[1, 1], [1, 1], [2, 0.5]], np.float32)
    each = functools.partial(label_lengths, rays=RAYS, max_length=9.0, grid=(1, 1))
    batch = jax.jit(jax.vmap(each))(labels, spacing)
    for k in range(3):
        one = _label_lengths(labels[k], spacing[k], rays=RAYS, max_length=9.0, grid=(1, 1))
        np.testing.assert_array_equal(batch[k], one)


def test_one_program_serves_any_number_of_cells():
    labels, spacing = MAPS["2d"]
    follow = jax.jit(functools.partial(label_lengths, rays=RAYS, grid=(1, 1)))
    for kept in (0, 1, labels.max()):
        follow(np.where(labels <= kept, labels, 0), spacing, max_length=9.0)
    assert follow._cache_size() == 1


def test_a_ray_through_a_corner_does_not_enter_the_pixels_beside_it():
    labels = np.array([[1, 2, 2], [2, 1, 2], [2, 2, 1]], np.int32)
    found = np.asarray(
        _at(labels, np.array([[1, 1]], np.int32), np.ones(2, np.float32), rays=8, max_length=9.0)
    )[0]
    np.testing.assert_allclose(np.abs(found[::2]), 0.5, atol=1e-6)
    # From the middle along the diagonal of ones to the map's corner; along the other to the middle pixel's corner.
    np.testing.assert_allclose(found[[1, 5]], -1.5 * np.sqrt(2), atol=1e-5)
    np.testing.assert_allclose(found[[3, 7]], 0.5 * np.sqrt(2), atol=1e-5)


def ball_length_of(place, ray, points, radius):
    """How far a ray stays in the ball of the nearest point and on that point's side, by bisection."""
    owner = np.linalg.norm(points - place, axis=1).argmin()

    def inside(length):
        apart = np.linalg.norm(points - (place + length * ray), axis=1)
        return apart[owner] <= radius and apart[owner] <= apart.min() + 1e-9

    low, high = 0.0, 3 * radius
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) else (low, middle)
    return low


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("axes", [2, 3])
def test_balls_around_points_end_at_their_surface_and_at_the_planes_between_them(axes, seed):
    rng = np.random.default_rng(seed)
    shape, spacing = (9, 11, 10)[-axes:], np.array([0.3, 0.13, 0.15])[-axes:].astype(np.float32)
    points = np.full((7, axes), np.nan, np.float32)
    points[:5] = rng.uniform(-1, np.array(shape), (5, axes))
    distance, lengths = _ball_lengths(
        points, shape, spacing, rays=RAYS, radius=0.5, neighbours=6, grid=(1,) * axes
    )
    places = points[:5] * spacing
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) * spacing
    nearest = np.linalg.norm(grid[..., None, :] - places, axis=-1).min(-1)
    np.testing.assert_allclose(distance, nearest, atol=1e-5)
    lengths = np.asarray(lengths)
    assert not lengths[nearest > 0.5 + 1e-5].any()
    inside = np.argwhere(nearest < 0.49)
    for pixel in rng.permutation(inside)[:5]:
        ray = rng.integers(RAYS)
        expected = ball_length_of(pixel * spacing, directions(axes, RAYS)[ray], places, 0.5)
        assert lengths[(*pixel, ray)] == pytest.approx(expected, abs=2e-4)


def test_without_points_nothing_has_a_length():
    none = np.full((3, 2), np.nan, np.float32)
    distance, lengths = _ball_lengths(
        none, (5, 6), np.ones(2, np.float32), rays=RAYS, radius=2.0, neighbours=2, grid=(1, 1)
    )
    assert not np.asarray(lengths).any()
    assert (np.asarray(distance) > 2).all()


@pytest.mark.parametrize(("axes", "count"), [(2, 4), (2, 32), (3, 8), (3, 9), (3, 64), (3, 96)])
def test_rays_are_unit_vectors_whose_faces_surround_the_pixel(axes, count):
    rays, corners = directions(axes, count), faces(axes, count)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1)
    assert len(corners) == (count if axes == 2 else 2 * count - 4)
    assert sorted(set(corners.ravel())) == list(range(count))
    normal = np.linalg.solve(rays[corners], np.ones((len(corners), axes, 1)))[..., 0]
    # All directions lie on the near side of each face, so that the pixel is inside of all.
    assert (normal @ rays.T <= 1 + 1e-6).all()


def test_lengths_are_shorter_than_stardists_by_its_overshoot():
    geometry = pytest.importorskip("stardist.geometry")
    rays3d = pytest.importorskip("stardist.rays3d")
    labels = touching_cells((16, 20, 20), (1, 1, 1), 4.0, seed=0)
    peer = rays3d.Rays_GoldenSpiral(RAYS)
    np.testing.assert_allclose(peer.vertices, directions(3, RAYS), atol=1e-6)
    found = np.abs(_label_lengths(labels, np.ones(3, np.float32), rays=RAYS, max_length=30.0, grid=(1, 1, 1)))
    # StarDist's end at the first pixel outside, in steps of a pixel.
    over = (geometry.star_dist3D(labels, peer) - found)[labels > 0]
    assert 0.3 < np.median(over) < 1
    assert np.mean((over > -0.9) & (over < 1.8)) > 0.98
