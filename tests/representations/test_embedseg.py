"""EmbedSeg against loops over cells: its target, its loss and its clusters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.representations import PointRepresentation, Target
from celltrack_jax.representations.embedseg import EmbedSeg
from tests.ops.jaccard import choquet, errors
from tests.representations.arms import answer, build, decoded, perfect, targets
from tests.representations.cells import dense, seg_score, touching_cells

UM = np.array([0.3, 0.13, 0.13], np.float32)
SOURCES = {
    "axes": 3,
    "max_cells": 40,
    "radius": 0.4,
    "scale": 0.6,
    "margin": 0.2,
    "window": (12, 24, 24),
    "min_size": 2,
}
"""Points in µm, as spindles have them."""


def embedseg(**changes) -> EmbedSeg:
    representation = build("clusters", **changes)
    assert isinstance(representation, EmbedSeg)
    return representation


@functools.partial(jax.jit, static_argnums=0)
def _cost(representation, target, prediction):
    """((loss, metrics), gradient)."""
    return jax.value_and_grad(lambda x: representation.loss(x, target, 0), has_aux=True)(prediction)


def cost(representation, target, prediction):
    (value, _), gradient = _cost(representation, target, prediction)
    return float(value), gradient


_point_target = jax.jit(EmbedSeg.point_target, static_argnums=0)


def target_of(representation, points, known, spacing) -> Target:
    """The target of one sample's points."""
    rows = np.full((representation.max_cells, representation.axes), np.nan, np.float32)
    rows[: len(points)] = points
    return _point_target(representation, rows, rows, np.asarray(known, np.int32), np.float32(spacing))


def batch_of(*targets_) -> Target:
    return jax.tree.map(lambda *parts: jnp.stack(parts), *targets_)


def scattered(seed, shape, spacing, apart, most):
    """Random points, no two nearer than a distance in the unit of the spacing, some at the border."""
    rng = np.random.default_rng(seed)
    points = np.zeros((0, len(shape)))
    for point in rng.uniform(-0.4, np.array(shape) - 0.6, (600, len(shape))):
        if (np.linalg.norm((points - point) * spacing, axis=1) >= apart).all():
            points = np.vstack([points, point])
    return points[:most]


def places(shape, spacing):
    return np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1) * np.asarray(
        spacing, np.float64
    )


def phi_of(representation, away, sigma):
    steepness = np.exp(np.clip(10 * sigma, -15, 15))
    return np.exp(-np.log(2) * (steepness * (away / representation.margin) ** 2).sum(-1))


def test_it_learns_from_points():
    assert isinstance(embedseg(), PointRepresentation)
    assert embedseg(**SOURCES).channels == 7


def test_targets_of_labels_are_places_and_centres():
    labels = touching_cells((9, 20, 22), (2, 1, 1), 6.0, seed=1)
    labels[:, 15:, 15:] = -1
    spacing = np.array([2, 1, 1], np.float32)
    representation = embedseg(axes=3, window=(9, 16, 16), centre="centroid")
    value, weight = (np.asarray(part[0]) for part in targets(representation, labels[None], spacing))
    np.testing.assert_array_equal(weight[..., 0], labels >= 0)
    np.testing.assert_array_equal(value[..., 0], np.maximum(labels, 0))
    place = places(labels.shape, spacing)
    np.testing.assert_allclose(value[..., 1:4], place, rtol=1e-6)
    np.testing.assert_allclose(value[..., 4:][labels <= 0], place[labels <= 0], rtol=1e-6)
    medoid = np.asarray(
        targets(embedseg(axes=3, window=(9, 16, 16)), labels[None], spacing).value[0, ..., 4:]
    )
    for cell in np.unique(labels[labels > 0]):
        pixels = place[labels == cell]
        np.testing.assert_allclose(
            value[labels == cell][:, 4:] - pixels.mean(0), np.zeros_like(pixels), atol=1e-4
        )
        total = np.linalg.norm(pixels[:, None] - pixels, axis=-1).sum(1)
        found = medoid[labels == cell]
        assert (found == found[0]).all()
        assert total[np.abs(pixels - found[0]).max(1) < 1e-4][0] <= total.min() * (1 + 1e-5)


@pytest.mark.parametrize(
    ("shape", "spacing", "radius"),
    [((24, 26), (1.0, 1.0), 4.3), ((8, 17, 15), UM, 0.4), ((8, 9, 9), UM, 0.2)],
)
def test_points_are_balls_and_each_pixel_goes_to_the_nearest(shape, spacing, radius):
    points = scattered(3, shape, spacing, 0.9 * radius, 16)
    points[0] = -0.9  # outside: its ball reaches in
    known = np.zeros(shape, np.int32)
    known[2:4, 3:9] = -1
    representation = embedseg(
        axes=len(shape), radius=radius, window=(12, 24, 24)[-len(shape) :], max_cells=20
    )
    target = target_of(representation, points, known, spacing)
    away = np.linalg.norm(places(shape, spacing)[..., None, :] - points * spacing, axis=-1)
    expected = np.where((away.min(-1) <= radius) & (known == 0), away.argmin(-1) + 1, 0)
    found = np.asarray(target.value)
    np.testing.assert_array_equal(found[..., 0], expected)
    np.testing.assert_array_equal(target.weight[..., 0], known == 0)
    inside = expected > 0
    np.testing.assert_allclose(
        found[inside][:, 1 + len(shape) :], (points * spacing)[expected[inside] - 1], rtol=1e-5, atol=1e-6
    )


def slow_loss(representation, prediction, labels, centres, spacing):
    """The three terms by loops over samples and cells; windows are whole maps, pixels of -1 are left out."""
    ndim, hinges, spreads, total, count = labels.ndim - 1, [], [], 0.0, 0
    for raw, ids, centre in zip(prediction.astype(np.float64), labels, centres, strict=True):
        embedding = places(ids.shape, spacing) + representation.scale * np.tanh(raw[..., :ndim] / 4)
        sigma, seed = raw[..., ndim : 2 * ndim] / 10, 1 / (1 + 9 * np.exp(-raw[..., -1]))
        known, wanted = ids >= 0, np.zeros(ids.shape)
        for cell in np.unique(ids[ids > 0]):
            inside = ids == cell
            mean = sigma[inside].mean(0)
            phi = phi_of(representation, embedding - centre[cell - 1] * spacing, mean)
            hinges.append(choquet(errors(2 * phi[known] - 1, inside[known]), inside[known]))
            spreads.append(((sigma[inside] - mean) ** 2).mean())
            wanted[inside] = phi[inside]
        weight = known * np.where(ids > 0, representation.foreground_weight, 1.0)
        total, count = total + (weight * (seed - wanted) ** 2).sum(), count + known.sum()
    return np.mean(hinges), np.mean(spreads), total / count


def two_samples(spacing, seed=0):
    """Labels (2, *S) with unknown pixels and different numbers of cells, and a prediction."""
    labels = np.stack([touching_cells((6, 11, 12), (2, 1, 1), 4.0, seed=k) for k in (seed, seed + 1)])
    labels[1, :, :6] = 0
    labels[1] = dense(labels[1])
    labels[0, 2:4, 3:7, 2:8] = -1
    labels[0, :, :4, :4] = 0
    prediction = np.random.default_rng(seed).normal(0, 0.4, (*labels.shape, 7))
    return labels, (prediction * (1, 1, 1, 5, 5, 5, 1)).astype(np.float32)


WHOLE = {"axes": 3, "max_cells": 8, "margin": 3.0, "scale": 5.0, "seed_weight": 2.0, "centre": "centroid"}
"""For maps of (6, 11, 12), of which windows show all."""


@pytest.mark.parametrize("window", [(6, 11, 12), (9, 30, 30)])
def test_the_loss_is_that_of_loops_over_samples_and_cells(window):
    """Means are over the cells of all samples; a window that is larger than the map is cut."""
    spacing = np.array([2, 1, 1], np.float32)
    labels, prediction = two_samples(spacing)
    assert len(np.unique(labels[0])) != len(np.unique(labels[1]))
    representation = embedseg(**WHOLE, window=window)
    target = targets(representation, labels, spacing)
    centres = [
        [
            np.argwhere(ids == cell).mean(0) if (ids == cell).any() else np.nan
            for cell in range(1, 1 + ids.max())
        ]
        for ids in labels
    ]
    (value, metrics), _ = _cost(representation, target, prediction)
    hinge, spread, seed = slow_loss(representation, prediction, labels, centres, spacing)
    np.testing.assert_allclose(metrics["lovasz"], hinge, rtol=1e-5)
    np.testing.assert_allclose(metrics["variance"], spread, rtol=1e-5)
    np.testing.assert_allclose(metrics["seed"], seed, rtol=1e-5)
    np.testing.assert_allclose(value, hinge + 10 * spread + 2 * seed, rtol=1e-5)


def test_where_cells_and_what_reaches_them_fit_a_window_stands_for_the_whole_map():
    spacing = np.ones(2, np.float32)
    labels = touching_cells((26, 30), (1, 1), 4.0, seed=3)
    # Embeddings move by 2 at most and clusters reach 1 / 40 of that: pixels farther off have phi 0.
    prediction = np.random.default_rng(0).normal(0, 0.3, (1, 26, 30, 5)).astype(np.float32)
    prediction[..., 2:4] += 3
    found = {}
    for window in ((16, 16), (26, 30)):
        representation = embedseg(window=window, margin=2.0, scale=2.0, centre="centroid", max_cells=24)
        target = targets(representation, labels[None], spacing)
        found[window] = cost(representation, target, prediction)
    np.testing.assert_allclose(found[16, 16][0], found[26, 30][0], rtol=1e-6)
    np.testing.assert_allclose(found[16, 16][1], found[26, 30][1], atol=1e-8)


def test_unknown_pixels_count_nowhere_whatever_they_hold():
    spacing = np.array([2, 1, 1], np.float32)
    labels, prediction = two_samples(spacing, seed=4)
    representation = embedseg(**WHOLE, window=(6, 11, 12))
    target = targets(representation, labels, spacing)
    poisoned = np.where(labels[..., None] < 0, np.inf, prediction).astype(np.float32)
    value, gradient = cost(representation, target, poisoned)
    assert value == cost(representation, target, prediction)[0]
    assert np.isfinite(gradient).all()
    assert not gradient[labels < 0].any()
    other = target._replace(value=jnp.where(target.weight > 0, target.value, 7.0))
    assert value == cost(representation, other, prediction)[0]


@pytest.mark.parametrize("points", [np.zeros((0, 3)), [[-9.0, 4.0, 4.0]]])
def test_a_crop_without_a_cell_teaches_that_there_is_none(points):
    representation = embedseg(**SOURCES)
    target = batch_of(target_of(representation, points, np.zeros((8, 12, 12)), UM))
    value, gradient = cost(representation, target, jnp.zeros((1, 8, 12, 12, 7)))
    assert value == pytest.approx(0.1**2, rel=1e-4)
    assert np.isfinite(gradient).all()
    assert (gradient[..., -1] > 0).all()
    assert not gradient[..., :-1].any()


@functools.cache
def _sources(apart):
    shape = (16, 40, 40)
    points = scattered(1, shape, UM, apart, 40)
    representation = embedseg(**SOURCES)
    return points, representation, target_of(representation, points, np.zeros(shape), UM)


def test_better_answers_for_points_cost_less():
    _, representation, target = _sources(0.7)
    target = batch_of(target)
    best = perfect(representation, target)
    assert cost(representation, target, best)[0] < 1e-4
    # Clusters as wide as the margin: with narrow ones all answers that err are equally wrong.
    best = best.at[..., 3:6].set(0)
    worst = jnp.asarray(np.random.default_rng(0).normal(size=best.shape) * (1, 1, 1, 0, 0, 0, 1), jnp.float32)
    costs = [cost(representation, target, best + f * (worst - best))[0] for f in (0, 0.2, 0.5, 1)]
    assert costs == sorted(costs)
    assert costs[0] < 0.3 * costs[-1]


@pytest.mark.parametrize("apart", [0.39, 0.7])
def test_sources_three_voxels_apart_are_read_where_they_are(apart):
    points, representation, target = _sources(apart)
    labels, found = representation.read(np.asarray(perfect(representation, target)), UM)
    gap = np.linalg.norm((found.position[:, None] - points) * UM, axis=-1)
    assert len(found.position) == len(points) == 40
    assert sorted(gap.argmin(1)) == list(range(40))
    assert gap.min(1).max() < 0.01
    assert (np.diff(found.heat) <= 0).all()
    assert found.step is None
    truth = np.asarray(target.value[..., 0]).astype(int)
    for k, owner in enumerate(gap.argmin(1)):
        np.testing.assert_array_equal(labels == k + 1, truth == owner + 1)


@pytest.mark.parametrize(
    ("shape", "spacing", "radius"),
    [((60, 64), (1.0, 1.0), 8.0), ((14, 40, 40), (2.5, 1.0, 1.0), 8.0), ((14, 30, 30), tuple(UM), 1.2)],
)
def test_touching_cells_come_back_from_their_own_target(shape, spacing, radius):
    labels = touching_cells(shape, spacing, radius, seed=5)
    window = tuple(int(2.5 * radius / size) + 1 for size in spacing)
    representation = embedseg(
        axes=len(shape), scale=2 * radius, margin=radius, window=window, max_cells=int(labels.max())
    )
    found = decoded(representation, labels, spacing)
    assert found.max() == labels.max()
    assert seg_score(labels, found) >= 0.95


def test_a_network_that_errs_still_tells_touching_cells_apart():
    labels = touching_cells((60, 64), (1, 1), 8.0, seed=5)
    representation = embedseg(scale=16.0, margin=4.0, min_size=10)
    raw = answer(representation, labels, np.ones(2))
    noise = np.random.default_rng(0).normal(size=raw.shape)
    raw[..., 2:4] = 0
    found = representation.decode(raw + noise * (0.16, 0.16, 0.5, 0.5, 3), np.ones(2))
    assert found.max() == labels.max()
    assert seg_score(labels, found) > 0.9


def slow_read(representation, raw, spacing):
    """Clusters by passes over the whole map."""
    ndim = raw.ndim - 1
    raw = raw.astype(np.float64)
    seed = 1 / (1 + 9 * np.exp(-raw[..., -1]))
    embedding = places(seed.shape, spacing) + representation.scale * np.tanh(raw[..., :ndim] / 4)
    cell = seed > representation.foreground_threshold
    labels, free, points = np.zeros(seed.shape, int), cell.copy(), []
    while (free & (seed >= representation.threshold)).any():
        pixel = np.unravel_index(np.where(free, seed, -1).argmax(), seed.shape)
        phi = phi_of(representation, embedding - embedding[pixel], raw[pixel][ndim : 2 * ndim] / 10)
        cluster = cell & (phi > 0.5)
        taken = cluster & free
        free &= ~cluster
        if taken.sum() >= representation.min_size and taken.sum() > 0.5 * cluster.sum():
            points.append(embedding[taken].mean(0) / spacing)
            labels[taken] = len(points)
    return labels, points


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    canvas=st.sampled_from([((15, 17), (1.0, 1.0)), ((6, 11, 10), (2.5, 1.0, 1.0))]),
    margin=st.sampled_from([0.5, 1.5, 4.0]),
    min_size=st.sampled_from([1, 3]),
)
def test_clusters_are_those_of_passes_over_the_whole_map(seed, canvas, margin, min_size):
    """Of predictions that mean nothing, where clusters compete."""
    shape, spacing = canvas
    raw = np.random.default_rng(seed).normal(0, 1, (*shape, 2 * len(shape) + 1)).astype(np.float32)
    raw *= (*[1.0] * len(shape), *[1.5] * len(shape), 3.0)
    representation = embedseg(
        axes=len(shape),
        window=(8, 8, 8)[: len(shape)],
        scale=3.0,
        margin=margin,
        min_size=min_size,
        max_found=999,
    )
    labels, found = representation.read(raw, np.array(spacing))
    expected, points = slow_read(representation, raw, np.array(spacing))
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(found.position, np.reshape(points, (-1, len(shape))), atol=1e-4)
    np.testing.assert_array_equal(representation.points(raw, np.array(spacing)).heat, found.heat)


def test_as_many_cells_are_found_as_are_asked_for():
    points, _, target = _sources(0.39)
    few = embedseg(**SOURCES | {"max_found": 7})
    assert len(points) > 7
    labels, found = few.read(np.asarray(perfect(few, target)), UM)
    assert len(found.position) == labels.max() == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"centre": "crown"}, "centre is 'crown'"),
        ({"window": (8, 8, 8)}, "window .* give 2 sizes"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"threshold": 1.0}, "threshold is 1.0"),
    ],
)
def test_impossible_settings_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        embedseg(**changes)
