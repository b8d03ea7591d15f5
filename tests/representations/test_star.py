"""Star-convex cells: targets, and what is read from perfect answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax import representations
from celltrack_jax.ops.balls import draw_balls
from celltrack_jax.ops.star import directions
from celltrack_jax.representations.star import Star
from tests.representations.arms import STAR, answer, build, cost, decoded, perfect, targets, values
from tests.representations.cells import seg_score, touching_cells

SMALL = STAR | {
    "axes": 3,
    "rays": 96,
    "grid": (1, 1, 1),
    "max_length": 9.0,
    "radius": 3.0,
    "overlap": "ball",
}
KINETOCHORES = SMALL | {"max_length": 1.2, "radius": 0.4, "rays": 64, "length_weight": 1.5}
SPACING_UM = np.array([0.3, 0.13, 0.13])


def made(constants, changes) -> Star:
    star = representations.build("star", **constants | changes)
    assert isinstance(star, Star)
    return star


_point_target = jax.jit(Star.point_target, static_argnums=0)


def balls(places, shape, radius):
    return draw_balls(np.array(places, float), shape, np.ones(len(shape)), radius)


def point_target(star, points, shape, spacing, rows=16):
    padded = np.full((rows, len(shape)), np.nan, np.float32)
    padded[: len(points)] = points
    known = np.zeros(shape, np.int32)
    return _point_target(star, padded, np.full_like(padded, np.nan), known, np.asarray(spacing, np.float32))


def read_back(star, target, spacing):
    return star.read(np.asarray(perfect(star, target)), spacing)


@pytest.mark.parametrize(("rays", "least"), [(96, 0.9), (512, 0.98)])
def test_cells_of_radius_three_come_back_also_where_they_touch(rays, least):
    star = made(SMALL, {"rays": rays})
    labels = balls([(5, 5, 5), (5, 5, 11.4), (5.3, 11, 8.2), (12, 6, 6), (12.5, 12.4, 12)], (18, 18, 18), 3.0)
    found = decoded(star, labels, np.ones(3))
    assert found.max() == labels.max() == 5
    assert seg_score(labels, found) >= least


def test_cells_come_back_from_a_grid_that_is_coarser_than_pixels():
    star = made(SMALL, {"grid": (1, 2, 2), "max_length": 14.0})
    labels = balls([(6, 6, 7), (6, 15, 9), (9, 9, 19)], (16, 21, 25), 5.0)
    target = targets(star, labels[None], np.ones(3, np.float32))
    assert target.value.shape == (1, 16, 11, 13, 97)
    assert target.weight.shape == (1, 16, 21, 25, 1)
    found = star.decode(np.asarray(perfect(star, target)[0]), np.ones(3))
    assert found.max() == 3
    assert seg_score(labels, found) >= 0.88


def test_probability_is_the_distance_to_the_edge_over_the_cells_largest():
    labels = touching_cells((20, 20), (1, 0.5), 4.0, seed=3)
    spacing = np.array([1, 0.5], np.float32)
    value = values(build("star", rays=4), labels, spacing)[..., 0]
    for cell in range(1, labels.max() + 1):
        mask = labels == cell
        # Without the map's outside, which is no edge.
        distance = np.asarray(ndimage.distance_transform_edt(mask, spacing))
        np.testing.assert_allclose(value[mask], distance[mask] / distance[mask].max(), atol=1e-5)
    assert not value[labels == 0].any()


def test_lengths_at_the_border_and_at_unknown_pixels_are_the_least_they_can_be():
    labels = np.zeros((20, 20), np.int32)
    labels[:8, 4:12] = 1
    labels[12:20, 4:12] = 2
    labels[12:, 10:] = -1
    value = values(build("star", rays=4), labels, np.ones(2))
    # Rays point to x, y, -x and -y.
    np.testing.assert_allclose(value[3, 6, 1:], [5.5, 4.5, 2.5, -3.5], atol=1e-5)
    np.testing.assert_allclose(value[15, 6, 1:], [-3.5, -4.5, 2.5, 3.5], atol=1e-5)


def test_what_is_known_to_be_at_least_so_long_may_be_longer():
    star = build("star", rays=4, bce_weight=0.0, background_weight=0.0, length_weight=1.0)
    labels = np.zeros((12, 12), np.int32)
    labels[:6, 3:9] = 1
    target = targets(star, labels[None], np.ones(2, np.float32))
    best = perfect(star, target)
    cut = jnp.where(target.value < 0, 1.0, 0.0)
    assert float(cost(star, target, best)[0]) == pytest.approx(0, abs=1e-6)
    assert float(cost(star, target, best + 2 / star.radius * cut)[0]) == pytest.approx(0, abs=1e-6)
    shorter = float(cost(star, target, best - 2 / star.radius * cut)[0])
    share = (target.value[..., :1] * cut[..., 1:]).sum() / target.value[..., 0].sum() / 4
    assert shorter == pytest.approx(2 * float(share), rel=1e-5)


def test_losses_are_the_published_ones():
    star = build("star", rays=4, bce_weight=1.0, length_weight=0.2, background_weight=2e-5)
    labels = np.pad(np.ones((5, 6), np.int32), 4)
    target = targets(star, labels[None], np.ones(2, np.float32))
    prediction = np.random.default_rng(0).normal(0, 2, (1, *labels.shape, 5)).astype(np.float32)
    total, terms = star.loss(jnp.asarray(prediction), target, jnp.int32(0))
    p, wanted = np.asarray(target.value[..., 0], np.float64), np.asarray(target.value[..., 1:])
    # A prior of 0.1, and lengths of 8 (1 + raw).
    q, lengths = 1 / (1 + 9 * np.exp(-prediction[..., 0].astype(np.float64))), 8 + 8 * prediction[..., 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.nan_to_num(p * np.log(p)) + np.nan_to_num((1 - p) * np.log(1 - p))
    bce = np.mean(own - p * np.log(q) - (1 - p) * np.log(1 - q))
    length = np.mean(p * np.abs(lengths - wanted).mean(-1)) / np.mean(p)
    background = np.mean((1 - p) * np.abs(lengths).mean(-1))
    assert terms["bce"] == pytest.approx(bce, rel=1e-4)
    assert terms["length"] == pytest.approx(length, rel=1e-4)
    assert terms["background"] == pytest.approx(background, rel=1e-4)
    assert total == pytest.approx(bce + 0.2 * length + 2e-5 * background, rel=1e-4)


@pytest.mark.parametrize("overlap", ["ball", "exact"])
@pytest.mark.parametrize("candidates", ["all", "maxima"])
def test_points_come_back_where_they_lie_between_pixels(overlap, candidates):
    star = made(KINETOCHORES, {"overlap": overlap, "candidates": candidates})
    points = np.array([(3.4, 10.2, 9.7), (3.6, 10.0, 15.1), (5.2, 19.5, 8.5), (7.9, 20.3, 20.4)])
    labels, found = read_back(star, point_target(star, points, (12, 28, 30), SPACING_UM), SPACING_UM)
    assert found.step is None
    assert (np.diff(found.heat) <= 0).all()
    away = np.linalg.norm((found.position[:, None] - points) * SPACING_UM, axis=-1)
    assert sorted(away.argmin(1)) == list(range(4))
    # The first two are 0.7 µm apart and cut each other's balls.
    assert away.min(1).max() < 0.07
    for k in range(4):
        inside = labels == k + 1
        assert ndimage.center_of_mass(inside) == pytest.approx(found.position[k], abs=0.8)
    drawn = draw_balls(points, labels.shape, SPACING_UM, 0.4)
    assert seg_score(drawn, labels) >= 0.75


def test_points_beyond_the_map_reach_into_it():
    star = made(STAR, {"radius": 4.0})
    target = point_target(star, [(-1.0, 10.0)], (16, 20), (1, 1))
    value = np.asarray(target.value)
    ray = directions(2, STAR["rays"])[0]
    np.testing.assert_allclose(ray, (0, 1), atol=1e-9)
    assert value[1, 10, 0] == pytest.approx(1 - (2 / 4) ** 2)
    assert value[1, 10, 1] == pytest.approx(np.sqrt(16 - 4), rel=1e-5)
    assert not value[4:].any()


def test_no_points_and_no_cells_give_nothing():
    star = made(STAR, {})
    target = point_target(star, np.zeros((0, 2)), (12, 14), (1, 1))
    assert not np.asarray(target.value).any()
    labels, found = read_back(star, target, np.ones(2))
    assert not labels.any()
    assert found.position.shape == (0, 2)
    assert found.heat.shape == (0,)


def test_of_two_that_overlap_the_surer_one_is_kept_and_wins_its_pixels():
    prediction = np.full((30, 40, 65), -9.0, np.float32)
    prediction[..., 1:] = 6 / 8 - 1
    for column, logit in ((10, 2.0), (14, 3.0), (24, 1.0)):
        prediction[15, column, 0] = logit
    for overlap in ("exact", "ball"):
        star = made(STAR, {"prior": 0.5, "overlap": overlap, "max_overlap": 0.3})
        labels, found = star.read(prediction, np.ones(2))
        np.testing.assert_allclose(found.position, [(15, 14), (15, 24)], atol=1e-5)
        np.testing.assert_allclose(found.heat, 1 / (1 + np.exp([-3.0, -1.0])), rtol=1e-5)
        assert labels[15, 19] == 1
        assert labels[15, 21] == 2
    both = made(STAR, {"prior": 0.5, "max_overlap": 0.9}).points(prediction, np.ones(2))
    assert len(both.heat) == 3
    few = made(STAR, {"prior": 0.5, "max_overlap": 0.9, "max_candidates": 1}).points(prediction, np.ones(2))
    np.testing.assert_allclose(few.position, [(15, 14)], atol=1e-5)


def test_no_length_is_too_long_or_negative_to_be_read():
    prediction = np.full((20, 20, 65), -9.0, np.float32)
    prediction[10, 10, 0] = 5
    assert build("star").decode(prediction, np.ones(2)).sum() == 1
    prediction[..., 1:] = 1e9
    assert build("star").decode(prediction, np.ones(2)).all()


def test_decoding_needs_no_exact_prediction():
    labels = touching_cells((64, 72), (1, 1), 8.0, seed=0)
    star = build("star", threshold=0.4)
    noise = np.random.default_rng(0).normal(size=(*labels.shape, 65)).astype(np.float32)
    perfect_answer = np.clip(answer(star, labels, np.ones(2)), -4, 30)
    # 0.6 in the logits and in the lengths, in pixels.
    noisy = perfect_answer + noise * (0.6, *[0.6 / star.radius] * 64)
    found = star.decode(noisy, np.ones(2))
    assert found.max() == labels.max()
    assert seg_score(labels, found) > 0.85
