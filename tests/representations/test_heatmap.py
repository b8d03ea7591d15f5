import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax.representations.heatmap import Heatmap
from tests.representations.arms import answer, build, decoded, values
from tests.representations.cells import touching_cells

LABELS = touching_cells((12, 40, 44), (3, 1, 1), 9.0, seed=2)
SPACING = np.array([3, 1, 1], np.float32)
CENTRES = np.array(ndimage.center_of_mass(LABELS > 0, LABELS, range(1, LABELS.max() + 1)))


def heat_of(labels, spacing, arm, **changes):
    return values(build(arm, **changes), labels, spacing)[..., 0]


def gaussians(shape, spacing, centres, sigma):
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return np.exp(-0.5 * (((grid[..., None, :] - centres) * spacing) ** 2).sum(-1) / sigma**2)


@pytest.mark.parametrize(("compose", "combine"), [("max", np.max), ("sum", np.sum)])
def test_heat_is_gaussians_at_the_centroids_in_physical_units(compose, combine):
    heat = heat_of(LABELS, SPACING, "heat, mse", compose=compose, sigma=3.0)
    expected = combine(gaussians(LABELS.shape, SPACING, CENTRES, 3.0), -1)
    np.testing.assert_allclose(heat, expected, atol=2e-5)


def test_the_focal_loss_gets_one_pixel_of_heat_one_per_cell():
    heat = heat_of(LABELS, SPACING, "heat, focal")
    pixels = np.argwhere(heat == 1)
    assert sorted(map(tuple, pixels)) == sorted(map(tuple, np.rint(CENTRES).astype(int)))


@pytest.mark.parametrize("arm", ["heat, mse", "heat, weighted"])
def test_points_are_the_centroids_to_a_fraction_of_a_pixel(arm):
    labels = touching_cells((64, 72), (1, 1), 8.0, seed=0)
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, labels.max() + 1)))
    representation = build(arm)
    assert isinstance(representation, Heatmap)
    points, heat = representation.points(answer(representation, labels, np.ones(2)), np.ones(2))
    offset = np.linalg.norm(points[:, None] - centres, axis=-1)
    assert sorted(offset.argmin(1)) == list(range(len(centres)))
    assert offset.min(1).max() < 0.1
    assert (np.diff(heat) <= 0).all()


def test_heat_ids_without_pixels_and_unknown_pixels_add_nothing():
    labels = np.zeros((20, 20), np.int32)
    labels[4:7, 4:7] = 3
    labels[12:, 12:] = -1
    heat = heat_of(labels, np.ones(2, np.float32), "heat, mse")
    np.testing.assert_allclose(heat, gaussians((20, 20), (1, 1), [[5, 5]], 2.0)[..., 0], atol=1e-6)


def test_decoded_balls_have_the_physical_radius():
    labels = np.zeros((9, 21, 21), np.int32)
    labels[4, 10, 10] = 1
    representation = build("heat, mse", marker_radius=4.0)
    found = decoded(representation, labels, SPACING)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in labels.shape), indexing="ij"), -1)
    np.testing.assert_array_equal(found > 0, np.linalg.norm((grid - (4, 10, 10)) * SPACING, axis=-1) <= 4)
