"""Centres with radii: what is learned of cells and points, and what is read."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.representations import PointRepresentation, Target
from celltrack_jax.representations.ball import Ball
from tests.representations import arms
from tests.representations.arms import cost, perfect, targets
from tests.representations.cells import dense, seg_score, touching_cells
from tests.representations.points import KINETOCHORES, answer, errors, lattice, point_target

SPACING = np.array([3, 1, 1], np.float32)
UM = {"axes": 3, "radius": 0.26, "core": 0.15, "sigma": 0.15, "min_distance": 0.2, "max_peaks": 512}


def ball(arm="heat, focal, ellipsoid", **changes) -> Ball:
    representation = arms.build(arm, **changes)
    assert isinstance(representation, Ball)
    return representation


def ellipses(shape, spacing, radii, seed):
    """Label map of ellipsoids of random semi-axes on a grid, which do not touch."""
    rng = np.random.default_rng(seed)
    pitch = 2.2 * radii[1] / np.array(spacing)
    nodes = [np.arange(0.5 * p, n - 0.5 * p + 1, p) for n, p in zip(shape, pitch, strict=True)]
    centres = np.stack(np.meshgrid(*nodes, indexing="ij"), -1).reshape(-1, len(shape))
    centres += rng.uniform(-0.3, 0.3, centres.shape)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    labels = np.zeros(shape, np.int32)
    for k, centre in enumerate(centres):
        own = rng.uniform(radii[0], radii[1], len(shape))
        labels[(((grid - centre) * spacing / own) ** 2).sum(-1) <= 1] = k + 1
    return dense(labels)


def test_it_learns_from_points():
    assert isinstance(ball(), PointRepresentation)
    assert ball().directed
    assert ball(axes=3).channels == 7
    assert ball("heat, focal, ball", axes=3).channels == 5


def test_radii_are_those_of_the_volume_and_the_moments():
    labels = touching_cells((10, 32, 36), (3, 1, 1), 9.0, seed=2)
    value = {
        arm: np.asarray(targets(ball(arm, axes=3), labels[None], SPACING).value[0])
        for arm in ("heat, focal, ball", "heat, focal, ellipsoid")
    }
    for cell in range(1, labels.max() + 1):
        pixels = np.argwhere(labels == cell)
        volume = 3.0 * len(pixels)
        moments = np.sqrt(5 * (pixels.var(0) + 1 / 12)) * SPACING
        centre = tuple(np.rint(pixels.mean(0)).astype(int))
        radius = 6 * np.exp(value["heat, focal, ball"][centre][5])
        assert 4 / 3 * np.pi * radius**3 == pytest.approx(volume, rel=1e-4)
        radii = 6 * np.exp(value["heat, focal, ellipsoid"][centre][5:])
        assert 4 / 3 * np.pi * radii.prod() == pytest.approx(volume, rel=1e-4)
        np.testing.assert_allclose(radii / radii[0], moments / moments[0], rtol=1e-3)


def test_centres_and_their_surroundings_learn():
    points = np.array([[5.3, 6.8], [12.0, 3.0], [np.nan, np.nan]])
    known = np.zeros((16, 16), np.int32)
    known[12, 3] = -1
    target = point_target(ball(core=1.0), points, known, np.ones(2))
    value, weight = np.asarray(target.value), np.asarray(target.weight)
    grid = np.stack(np.meshgrid(*(np.arange(16),) * 2, indexing="ij"), -1)
    way = points[:2] - grid[..., None, :]
    distance = np.linalg.norm(way, axis=-1)
    near = distance.min(-1) <= 1
    share = np.where(near, 1 / np.array([(distance[..., 0] <= 1).sum(), 4])[distance.argmin(-1)], 0)
    np.testing.assert_allclose(value[..., 1], np.where(known == 0, share, 0), rtol=1e-6)
    assert value[5, 7, 0] == value[12, 3, 0] == 1
    np.testing.assert_allclose(value[5, 7, 2:4], [0.3, -0.2], atol=1e-5)
    assert not value[..., 4:].any()
    np.testing.assert_array_equal(weight[..., 0], known == 0)


def test_sources_3_voxels_apart_are_all_found():
    shape, spacing = KINETOCHORES
    points = lattice(shape, (4, 8, 3), seed=0)
    representation = ball(**UM)
    labels, found = representation.read(answer(representation, points, shape, spacing), spacing)
    assert len(found.position) == len(points) > 200
    assert errors(found, points, spacing, 0.2).max() < 1e-3
    own = labels[tuple(np.rint(found.position).astype(int).T)]
    np.testing.assert_array_equal(own, np.arange(len(points)) + 1)


def test_sources_3_pixels_apart_are_all_found_in_2d():
    points = lattice((40, 50), (6, 3), seed=1)
    representation = ball("heat, focal, ball", radius=1.4, core=1.0, sigma=1.0)
    found = representation.points(answer(representation, points, (40, 50), np.ones(2)), np.ones(2))
    assert len(found.position) == len(points)
    assert errors(found, points, np.ones(2), 1.0).max() < 1e-3


@pytest.mark.parametrize(
    ("shape", "spacing", "radii"),
    [((90, 100), (1.0, 1.0), (6.0, 10.0)), ((16, 44, 44), (2.0, 1.0, 1.0), (6.0, 10.0))],
    ids=["2d", "3d"],
)
def test_round_nuclei_come_back(shape, spacing, radii):
    labels = ellipses(shape, spacing, radii, seed=0)
    found = arms.decoded(ball(axes=len(shape)), labels, np.array(spacing))
    assert found.max() == labels.max()
    assert seg_score(labels, found) > 0.95


def test_of_two_answers_for_one_cell_the_surer_is_kept():
    representation = ball("heat, focal, ball", min_distance=1.0, max_overlap=0.4)
    output = np.zeros((24, 30, 4), np.float32)
    output[..., 0] = -9
    for y, x, heat in ((8, 8, 6.0), (8, 12, 7.0), (8, 22, 5.0)):
        output[y, x, 0] = heat
    found = representation.points(output, np.ones(2))
    # Discs of radius 6: 0.58 of the area is shared at a distance of 4, 0.09 at 10.
    np.testing.assert_allclose(found.position, [[8, 12], [8, 22]])
    every = dataclasses.replace(representation, max_overlap=0.6)
    assert len(every.points(output, np.ones(2)).position) == 3


def test_an_empty_crop_of_points_is_finite():
    representation = ball()
    target = point_target(representation, np.full((4, 2), np.nan), np.zeros((12, 12), np.int32), np.ones(2))
    batch = Target(target.value[None], target.weight[None])
    value, gradient = cost(representation, batch, jnp.zeros((1, 12, 12, 5)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[..., 1:].any()
    assert not representation.decode(np.asarray(perfect(representation, target)), np.ones(2)).any()
