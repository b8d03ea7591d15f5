"""Heat maps of points against brute force: their channels, what is read from them, and the balls that are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from celltrack_jax.errors import InputError
from celltrack_jax.representations import Target
from celltrack_jax.representations.heatmap import Heatmap, draw_balls
from tests.representations.arms import answer, build, cost, decoded, perfect, targets, values
from tests.representations.cells import touching_cells

LABELS = touching_cells((12, 40, 44), (3, 1, 1), 9.0, seed=2)
SPACING = np.array([3, 1, 1], np.float32)
CENTRES = np.array(ndimage.center_of_mass(LABELS > 0, LABELS, range(1, LABELS.max() + 1)))


def heat_of(labels, spacing, arm, **changes):
    return values(build(arm, **changes), labels, spacing)[..., 0]


def heatmap(arm="heat, mse", **changes) -> Heatmap:
    representation = build(arm, **changes)
    assert isinstance(representation, Heatmap)
    return representation


_point_target = jax.jit(Heatmap.point_target, static_argnums=0)


def target_of(representation, points, shape, spacing, steps=None) -> Target:
    """The target of one crop that is known everywhere."""
    points = np.asarray(points, np.float32)
    steps = np.full_like(points, np.nan) if steps is None else np.asarray(steps, np.float32)
    return _point_target(
        representation, points, steps, np.zeros(shape, np.int32), np.asarray(spacing, np.float32)
    )


def read_back(representation, target, spacing):
    """The points that are read from the raw output that says the target."""
    return representation.points(np.asarray(perfect(representation, target)), np.asarray(spacing))


def scattered(rng, shape, spacing, distance):
    """Random points, no two nearer than a distance, whose pixels lie two from the border."""
    points = np.zeros((0, len(shape)))
    for point in rng.uniform(1.6, np.array(shape) - 2.6, (400, len(shape))):
        if (np.linalg.norm((points - point) * spacing, axis=1) > distance).all():
            points = np.vstack([points, point])
    return points[:60].astype(np.float32)


CANVASES = {"2d": ((70, 90), np.ones(2)), "3d": ((14, 48, 52), np.array([2.5, 1, 1]))}


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
    representation = heatmap(arm)
    points, heat, _ = representation.points(answer(representation, labels, np.ones(2)), np.ones(2))
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


@pytest.mark.parametrize(("arm", "canvas"), [("heat, mse", "2d"), ("heat, focal", "3d")])
def test_offsets_tell_where_centres_lie_between_pixels(arm, canvas):
    shape, spacing = CANVASES[canvas]
    points = scattered(np.random.default_rng(0), shape, spacing, 6.0)
    representation = heatmap(arm, offset_weight=0.1, axes=len(shape))
    target = target_of(representation, points, shape, spacing)
    found = read_back(representation, target, spacing)
    assert found.step is None
    apart = np.linalg.norm(found.position[:, None] - points, axis=-1)
    assert sorted(apart.argmin(1)) == list(range(len(points)))
    assert apart.min(1).max() < 1e-3
    there = np.zeros(shape, bool)
    there[tuple(np.rint(points).astype(int).T)] = True
    np.testing.assert_array_equal(target.value[..., 1] == 1, there)
    assert not np.asarray(target.value[..., 1:])[~there].any()


def test_a_centre_halfway_between_pixels_is_read_where_it_lies():
    points = [[10.5, 11.5], [30.5, 20.5], [31.5, 45.5]]
    representation = heatmap(offset_weight=0.1)
    found = read_back(representation, target_of(representation, points, (50, 60), (1, 1)), (1, 1))
    np.testing.assert_allclose(found.position[found.position[:, 0].argsort()], points, atol=1e-3)


@pytest.mark.parametrize(
    ("arm", "canvas"), [("heat, mse", "3d"), ("heat, weighted", "2d"), ("heat, focal", "2d")]
)
def test_steps_are_those_of_the_nearest_cell_in_the_unit_of_the_spacing(arm, canvas):
    shape, spacing = CANVASES[canvas]
    spacing = 0.65 * spacing
    rng = np.random.default_rng(1)
    points = scattered(rng, shape, spacing, 5.0)[:12]
    steps = rng.normal(0, 3, points.shape).astype(np.float32)
    steps[3] = np.nan
    representation = heatmap(arm, sigma=1.5, step_weight=0.1, axes=len(shape))
    target = target_of(representation, points, shape, spacing, steps)
    centres = np.rint(points) if arm == "heat, focal" else points
    heat = gaussians(shape, spacing, centres, 1.5)
    nearest = heat.argmax(-1)
    second, first = np.sort(heat, -1)[..., -2:].T
    sure = ((first > 1e-6) & (second < 0.999 * first)).T
    unknown = nearest == 3
    assert unknown[sure].any()
    expected = np.where(unknown, 0, heat.max(-1))
    np.testing.assert_allclose(target.value[..., 1], expected, atol=1e-5)
    np.testing.assert_allclose(
        np.asarray(target.value[..., 2:])[sure],
        np.where(unknown[..., None], 0, (steps * spacing)[nearest])[sure],
        rtol=1e-6,
    )
    found = read_back(representation, target, spacing)
    owner = np.linalg.norm((found.position[:, None] - points) * spacing, axis=-1).argmin(1)
    assert sorted(owner) == list(range(len(points)))
    assert found.step is not None
    np.testing.assert_allclose(found.step, np.nan_to_num(steps * spacing)[owner], rtol=1e-6)


def test_offsets_and_steps_have_channels_of_their_own():
    points, steps = np.array([[8.25, 9.75], [20.5, 24.25]]), np.array([[2.0, -3.0], [0.5, 1.5]])
    both = heatmap("heat, focal", offset_weight=0.1, step_weight=0.2)
    assert both.channels == 5
    target = target_of(both, points, (32, 36), (0.5, 0.5), steps)
    found = read_back(both, target, (0.5, 0.5))
    order = found.position[:, 0].argsort()
    np.testing.assert_allclose(found.position[order], points, atol=1e-3)
    assert found.step is not None
    np.testing.assert_allclose(found.step[order], 0.5 * steps, rtol=1e-6)
    # Each loss sees its own channels, with its own factor.
    answer = np.array(perfect(both, target))[None]
    whole = Target(target.value[None], target.weight[None])
    start, metrics = both.loss(jnp.asarray(answer), whole, jnp.int32(0))
    assert float(metrics["offset"]) == float(metrics["step"]) == 0
    for channels, name, factor in ((slice(1, 3), "offset", 0.1), (slice(3, 5), "step", 0.2)):
        worse = answer.copy()
        worse[..., channels] += 3.0
        value, metrics = both.loss(jnp.asarray(worse), whole, jnp.int32(0))
        assert float(metrics[name]) == pytest.approx(3.0, rel=1e-5)
        assert float(value - start) == pytest.approx(3.0 * factor, rel=1e-3)


@pytest.mark.parametrize("arm", ["heat, mse", "heat, focal"])
def test_points_and_labels_with_these_centroids_have_one_target(arm):
    representation = heatmap(arm, offset_weight=0.1, step_weight=0.1, axes=3)
    labels = LABELS.copy()
    labels[:, 30:, 30:] = -1
    seen = [k for k in range(1, labels.max() + 1) if (labels == k).any()]
    points = np.full((70, 3), np.nan, np.float32)
    points[5 : 5 + len(seen)] = ndimage.center_of_mass(labels > 0, labels, seen)
    ours = _point_target(representation, points, np.full_like(points, np.nan), labels, SPACING)
    theirs = targets(representation, labels[None], SPACING)
    np.testing.assert_allclose(ours.value, theirs.value[0], atol=2e-5)
    np.testing.assert_array_equal(ours.weight, theirs.weight[0])


def test_points_outside_of_the_map_warm_its_border_and_have_no_pixel():
    points = np.array([[-2.0, 10.0], [31.4, 5.0], [12.0, 40.0], [-0.6, 25.0], [np.nan, np.nan], [9.0, 20.0]])
    representation = heatmap(offset_weight=0.1)
    target = target_of(representation, points, (32, 36), (1, 1))
    inside = points[np.isfinite(points[:, 0])]
    np.testing.assert_allclose(
        target.value[..., 0], gaussians((32, 36), (1, 1), inside, 2.0).max(-1), atol=1e-6
    )
    assert np.argwhere(target.value[..., 1]).tolist() == [[9, 20], [31, 5]]
    np.testing.assert_allclose(target.value[31, 5, 2:], [0.4, 0], atol=1e-5)


def test_of_points_in_one_pixel_the_first_has_it():
    points = np.array([[9.25, 12.0], [8.75, 12.25], [9.0, 30.0], [9.25, 11.75]])
    steps = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    representation = heatmap("heat, focal", offset_weight=0.1, step_weight=0.1)
    target = target_of(representation, points, (20, 40), (1, 1), steps)
    np.testing.assert_allclose(target.value[9, 12], [1, 1, 0.25, 0, 1, 1, 2], atol=1e-6)
    found = read_back(representation, target, (1, 1))
    np.testing.assert_allclose(found.position[found.position[:, 1].argsort()], points[[0, 2]], atol=1e-3)


def grid(spacing, first, last):
    line = np.arange(first, last + 1, spacing)
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)


@pytest.mark.parametrize(("arm", "decoder"), [("heat, focal", "maxima"), ("heat, mse", "log")])
def test_on_true_maps_cells_12_pixels_apart_are_all_found(arm, decoder):
    """docs/originals.md, 1.9: what the original's decoder loses is no fault of the map."""
    points = grid(12, 10, 118)
    representation = heatmap(arm, decoder=decoder, threshold=0.2)
    found = read_back(representation, target_of(representation, points, (130, 130), (1, 1)), (1, 1))
    assert len(found.position) == len(points) == 100
    apart = np.linalg.norm(found.position[:, None] - points, axis=-1)
    assert sorted(apart.argmin(1)) == list(range(100))
    assert apart.min(1).max() < 0.05


def test_on_true_maps_the_windowed_decoder_loses_every_other_cell():
    points = grid(20, 40, 360)
    representation = heatmap(decoder="windowed", max_peaks=512)
    found = read_back(representation, target_of(representation, points, (400, 400), (1, 1)), (1, 1))
    assert len(points) == 289
    assert len(found.position) == 144


@pytest.mark.parametrize(("threshold", "cells"), [(0.5, 1), (0.3, 2)])
def test_a_threshold_is_heat_for_the_focal_loss_too(threshold, cells):
    representation = heatmap("heat, focal", focal_prior=0.01, threshold=threshold)
    raw = np.full((8, 8, 1), -9.0, np.float32)
    raw[2, 3], raw[6, 6] = 6.0, 4.0
    heat = 1 / (1 + np.exp(-(np.array([6.0, 4.0]) + np.log(0.01 / 0.99))))
    np.testing.assert_allclose(representation.points(raw, np.ones(2)).heat, heat[:cells], rtol=1e-5)


def test_a_raw_output_of_zero_means_the_prior():
    prior = 0.01
    representation = heatmap("heat, focal", focal_prior=prior, threshold=0.5 * prior)
    found = representation.points(np.zeros((8, 8, 1), np.float32), np.ones(2))
    np.testing.assert_allclose(found.heat, prior, rtol=1e-5)
    target = target_of(representation, [[4.0, 4.0]], (8, 8), (1, 1))
    value, _ = cost(representation, Target(target.value[None], target.weight[None]), jnp.zeros((1, 8, 8, 1)))
    truth = gaussians((8, 8), (1, 1), [[4, 4]], 2.0)[..., 0]
    negative = -np.log(1 - prior) * prior**2 * (1 - truth) ** 4
    assert float(value) == pytest.approx(-np.log(prior) * (1 - prior) ** 2 + negative.sum(), rel=1e-4)


def test_the_l1_loss_is_the_mean_error():
    rng = np.random.default_rng(2)
    representation = heatmap(loss_name="l1")
    target = target_of(representation, [[4.0, 4.0]], (8, 8), (1, 1))
    weight = np.array(target.weight)
    weight[:3] = 0
    prediction = rng.normal(size=(8, 8, 1)).astype(np.float32)
    value, gradient = cost(
        representation, Target(target.value[None], jnp.asarray(weight)[None]), jnp.asarray(prediction)[None]
    )
    error = prediction[3:] - np.asarray(target.value)[3:]
    assert float(value) == pytest.approx(np.abs(error).mean(), rel=1e-5)
    np.testing.assert_allclose(gradient[0, 3:], np.sign(error) / error.size, rtol=1e-5)


def drawn_one_by_one(position, shape, spacing, radius):
    """Each pixel takes the nearest of the points whose ball or whose own pixel it is."""
    labels = np.zeros(shape, np.int32)
    middle = np.clip(np.rint(position), 0, np.array(shape) - 1)
    for pixel in np.ndindex(*shape):
        distance = np.linalg.norm((np.array(pixel) - position) * spacing, axis=1)
        ours = np.flatnonzero((distance <= radius) | (middle == pixel).all(1))
        if len(ours):
            labels[pixel] = ours[distance[ours].argmin()] + 1
    return labels


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    canvas=st.sampled_from([((13, 17), (1.0, 1.0)), ((5, 9, 8), (3.0, 1.0, 0.7))]),
    radius=st.sampled_from([0.2, 1.0, 2.3, 4.0]),
)
def test_balls_are_drawn_as_one_by_one(seed, count, canvas, radius):
    """Among the points are ones at the border, and ones that share a pixel."""
    shape, spacing = canvas
    rng = np.random.default_rng(seed)
    position = rng.uniform(-0.5, np.array(shape) - 0.5, (count, len(shape)))
    position[count // 2 :] = position[0] + rng.normal(0, 0.2, (count - count // 2, len(shape)))
    position = np.clip(position, -0.49, np.array(shape) - 0.51)
    np.testing.assert_array_equal(
        draw_balls(position, shape, np.array(spacing), radius),
        drawn_one_by_one(position, shape, spacing, radius),
    )


def test_no_points_are_no_balls():
    assert not draw_balls(np.zeros((0, 2)), (6, 7), np.ones(2), 2.0).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder": "psychic"}, r"representation.decoder is 'psychic'"),
        ({"decoder": "windowed", "axes": 3}, r"\"windowed\" is for 2D"),
        ({"focal_prior": 0.0}, r"focal_prior 0.0 in \(0, 1\)"),
    ],
)
def test_impossible_settings_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        heatmap(**changes)
