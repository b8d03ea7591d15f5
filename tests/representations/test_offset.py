"""Fields that point to centres against brute force, and what is read from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax.representations import PointRepresentation, Target
from celltrack_jax.representations.offset import Offset
from tests.representations import arms
from tests.representations.arms import cost, perfect, targets
from tests.representations.cells import touching_cells
from tests.representations.points import KINETOCHORES, answer, errors, lattice, point_target

SPACING = np.array([3, 1, 1], np.float32)
LABELS = touching_cells((10, 32, 36), (3, 1, 1), 9.0, seed=2)
UM = {
    "axes": 3,
    "evidence": "centre",
    "radius": 0.4,
    "sigma": 0.15,
    "offset_scale": 0.1,
    "bins": 2,
    "vote_blur": 0.08,
    "min_votes": 1.0,
    "min_distance": 0.25,
    "capture": 0.25,
    "max_peaks": 512,
    "marker_radius": 0.26,
}


def offset(arm="offset", **changes) -> Offset:
    representation = arms.build(arm, **changes)
    assert isinstance(representation, Offset)
    return representation


def grid(shape):
    return np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)


def test_it_learns_from_points():
    assert isinstance(offset(), PointRepresentation)
    assert offset().directed
    assert offset().has_threshold
    assert not offset().learns_steps
    assert offset().channels == 3
    assert offset("offset, nll", axes=3).channels == 5


def test_labels_point_to_their_centroids_and_share_one_vote():
    value = np.asarray(targets(offset(axes=3), LABELS[None], SPACING).value[0])
    centres = np.array(ndimage.center_of_mass(LABELS > 0, LABELS, range(1, LABELS.max() + 1)))
    size = np.bincount(LABELS.reshape(-1))
    cell = LABELS > 0
    np.testing.assert_array_equal(value[..., 0], cell)
    np.testing.assert_allclose(value[..., 1], np.where(cell, 1 / size[LABELS], 0), rtol=1e-6)
    way = (centres[LABELS - 1] - grid(LABELS.shape)) * SPACING
    np.testing.assert_allclose(value[..., 2:], np.where(cell[..., None], way, 0), atol=1e-4)


def test_points_draw_what_lies_near_them_and_the_pixel_that_holds_them():
    points = np.array([[4.2, 5.1], [np.nan, 3.0], [4.0, 9.0], [15.4, 15.4], [-1.0, 14.0]], np.float32)
    known = np.zeros((20, 20), np.int32)
    known[:, 10:12] = -1
    representation = offset(radius=0.9)
    target = point_target(representation, points, known, np.array([0.5, 0.25]))
    way = (points - grid((20, 20))[..., None, :]) * (0.5, 0.25)
    distance = np.nan_to_num(np.linalg.norm(way, axis=-1), nan=99.0)
    nearest, least = distance.argmin(-1), distance.min(-1)
    inside = least <= 0.9
    np.testing.assert_array_equal(target.value[..., 0], inside)
    np.testing.assert_array_equal(target.weight[..., 0], known == 0)
    expected = np.take_along_axis(way, nearest[..., None, None], 2)[..., 0, :]
    np.testing.assert_allclose(target.value[..., 2:], np.where(inside[..., None], expected, 0), atol=1e-6)
    counted = inside & (known == 0)
    size = np.bincount(nearest[counted], minlength=5)
    np.testing.assert_allclose(
        target.value[..., 1], np.where(counted, 1 / np.maximum(size, 1)[nearest], 0), rtol=1e-6
    )
    small = point_target(offset(radius=1e-3), points, known, np.ones(2))
    assert np.argwhere(small.value[..., 0]).tolist() == [[4, 5], [4, 9], [15, 15]]


@pytest.mark.parametrize("loss", ["smooth_l1", "nll"])
def test_every_source_counts_alike_in_the_loss(loss):
    """A wrong offset of all pixels of a cell costs the same for a cell of 4 pixels and one of 100."""
    labels = np.zeros((1, 20, 20), np.int32)
    labels[0, 2:4, 2:4], labels[0, 8:18, 8:18] = 1, 2
    representation = offset(offset_loss=loss, offset_scale=0.5)
    target = targets(representation, labels, np.ones(2, np.float32))
    best = np.array(perfect(representation, target))
    costs = []
    for cell in (1, 2):
        worse = best.copy()
        worse[..., 1:3][labels == cell] += 1.5 / 0.5
        _, metrics = representation.loss(jnp.asarray(worse), target, jnp.int32(0))
        costs.append(float(metrics["offset"]))
    # 1.5 is 3 scales: 3 - 0.5 and 3^2 / 2, for one cell of two.
    assert costs == pytest.approx([1.25, 1.25] if loss == "smooth_l1" else [2.25, 2.25], rel=1e-3)


def test_the_likelihood_is_that_of_a_gaussian_of_at_least_the_scale():
    representation = offset("offset, nll", offset_scale=0.5)
    labels = np.zeros((1, 8, 8), np.int32)
    labels[0, 2:5, 2:6] = 1
    target = targets(representation, labels, np.ones(2, np.float32))
    prediction = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    _, metrics = representation.loss(jnp.asarray(prediction), target, jnp.int32(0))
    inside = labels == 1
    off = 0.5 * prediction[inside][:, 1:3] - np.asarray(target.value)[inside][:, 2:]
    # The radius is 4, 8 scales: at first the variance is about that squared.
    variance = 0.25 * (1 + 64 * np.exp(prediction[inside][:, 3:]))
    likelihood = 0.5 * (off**2 / variance + np.log(variance))
    assert float(metrics["offset"]) == pytest.approx(likelihood.mean() - 0.5 * np.log(0.25), rel=1e-4)


@pytest.mark.parametrize("loss", ["smooth_l1", "nll"])
@pytest.mark.parametrize(
    ("evidence", "radius"), [("centre", 0.4), ("foreground", 0.25)], ids=["centre", "foreground"]
)
def test_sources_3_voxels_apart_are_all_found(evidence, radius, loss):
    shape, spacing = KINETOCHORES
    points = lattice(shape, (4, 8, 3), seed=0)
    representation = offset(**UM | {"evidence": evidence, "radius": radius, "offset_loss": loss})
    output = answer(representation, points, shape, spacing)
    labels, found = representation.read(output, spacing)
    assert len(found.position) == len(points) > 200
    apart = errors(found, points, spacing, 0.2)
    assert len(apart) == len(points)
    assert np.median(apart) < 1e-3
    assert apart.max() < 0.02
    assert (np.diff(found.heat) <= 0).all()
    own = labels[tuple(np.rint(found.position).astype(int).T)]
    np.testing.assert_array_equal(own, np.arange(len(points)) + 1)


def test_sources_3_pixels_apart_are_all_found_in_2d():
    points = lattice((40, 50), (6, 3), seed=1)
    representation = offset(
        evidence="centre", radius=3.0, sigma=1.0, bins=2, vote_blur=0.6, min_distance=2.0, capture=1.5
    )
    found = representation.points(answer(representation, points, (40, 50), np.ones(2)), np.ones(2))
    assert len(found.position) == len(points)
    assert errors(found, points, np.ones(2), 1.0).max() < 0.1


def test_noisy_votes_agree():
    shape, spacing = KINETOCHORES
    points = lattice(shape, (5, 9, 9), seed=2)
    representation = offset(**UM)
    output = answer(representation, points, shape, spacing).copy()
    output[..., 1:] += np.random.default_rng(0).normal(0, 0.05, (*shape, 3)).astype(np.float32)
    found = representation.points(output, spacing)
    apart = errors(found, points, spacing, 0.2)
    assert len(found.position) == len(apart) == len(points)
    assert np.median(apart) < 0.03


def test_uncertain_pixels_have_less_of_a_vote():
    representation = offset("offset, nll")
    labels = np.zeros((16, 16), np.int32)
    labels[3:10, 4:11] = 1
    output = arms.answer(representation, labels, np.ones(2))
    output[3, 4:11, 1:3] += 1.5
    pulled = representation.points(output, np.ones(2)).position[0]
    output[3, 4:11, 3] = 8.0
    pulled_less = representation.points(output, np.ones(2)).position[0]
    assert np.linalg.norm(pulled - (6, 7)) > 0.25
    np.testing.assert_allclose(pulled_less, (6, 7), atol=0.01)


def test_few_votes_make_no_source_and_its_pixels_are_background():
    labels = np.zeros((24, 24), np.int32)
    labels[2:4, 2:4], labels[10:20, 10:20] = 1, 2
    representation = offset(min_votes=6.0)
    found = arms.decoded(representation, labels, np.ones(2))
    np.testing.assert_array_equal(found, labels == 2)


def test_a_centre_between_the_last_pixel_and_the_border_is_read():
    points = np.array([[-0.4, 10.3], [19.45, 5.0], [8.0, 19.4]], np.float32)
    representation = offset(evidence="centre", radius=6.0, min_votes=0.2)
    found = representation.points(answer(representation, points, (20, 20), np.ones(2)), np.ones(2))
    assert len(errors(found, points, np.ones(2), 0.1)) == 3


def test_ids_beyond_the_last_have_no_share_but_are_foreground():
    labels = np.zeros((1, 12, 12), np.int32)
    labels[0, 2:4, 2:4], labels[0, 7:9, 7:9] = 2, 5
    target = targets(offset(max_cells=4), labels, np.ones(2, np.float32))
    np.testing.assert_array_equal(target.value[..., 0], labels > 0)
    np.testing.assert_array_equal(target.value[..., 1] > 0, labels == 2)
    assert not np.asarray(target.value[..., 2:])[labels == 5].any()


def test_an_empty_crop_of_points_is_finite_and_costs_little():
    representation = offset(evidence="centre")
    nobody = np.full((4, 2), np.nan, np.float32)
    target = point_target(representation, nobody, np.zeros((12, 12), np.int32), np.ones(2))
    batch = Target(target.value[None], target.weight[None])
    value, gradient = cost(representation, batch, jnp.zeros((1, 12, 12, 3)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[..., 1:].any()
    output = np.asarray(perfect(representation, target))
    labels, found = representation.read(output, np.ones(2))
    assert not labels.any()
    assert found.position.shape == (0, 2)


def test_a_batch_is_its_samples():
    representation = offset(evidence="centre")
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 20, (2, 5, 2)).astype(np.float32)
    known = rng.integers(-1, 1, (2, 20, 20)).astype(np.int32)
    spacing = np.array([[1, 1], [0.5, 2]], np.float32)
    together = jax.jit(jax.vmap(representation.point_target))(points, points, known, spacing)
    for k in range(2):
        alone = point_target(representation, points[k], known[k], spacing[k])
        np.testing.assert_allclose(together.value[k], alone.value, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(together.weight[k], alone.weight)
