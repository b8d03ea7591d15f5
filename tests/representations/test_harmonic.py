"""Relative harmonic embeddings: what pixels learn, and cells that are read from phases and by mean shift."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax import representations
from celltrack_jax.errors import InputError
from celltrack_jax.ops import guides, harmonic
from celltrack_jax.representations import PointRepresentation, Target
from celltrack_jax.representations.harmonic import Harmonic
from tests.representations import arms
from tests.representations.arms import HARMONIC, cost, perfect, targets
from tests.representations.cells import seg_score, touching_cells
from tests.representations.points import KINETOCHORES, answer, errors, lattice, point_target

UM = {
    "axes": 3,
    "frequencies": guides.octaves(3, 2.4, 3),
    "radius": 0.25,
    "max_offset": 0.4,
    "ball_radius": 0.2,
    "bins": 2,
    "vote_blur": 0.08,
    "min_votes": 1.0,
    "min_distance": 0.25,
    "capture": 0.25,
    "max_peaks": 512,
    "max_voters": 1024,
}
LABELS = touching_cells((48, 52), (1, 1), 7.0, seed=3)


def phases(**changes) -> Harmonic:
    representation = arms.build("harmonic", **changes)
    assert isinstance(representation, Harmonic)
    return representation


def test_it_learns_from_points():
    assert isinstance(phases(), PointRepresentation)
    assert phases().directed
    assert phases().channels == 13


def test_a_pixel_learns_its_centre_as_seen_from_itself():
    representation = phases(ball_radius=1.5)
    output = arms.answer(representation, LABELS, np.ones(2))
    centres = np.array(ndimage.center_of_mass(LABELS > 0, LABELS, range(1, LABELS.max() + 1)))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in LABELS.shape), indexing="ij"), -1)
    way = centres[LABELS - 1] - grid
    expected = harmonic.embed(
        jnp.asarray(way, jnp.float32), jnp.asarray(representation.frequencies), representation.ball_radius
    )
    cell = LABELS > 0
    np.testing.assert_allclose(output[..., 1:][cell], np.asarray(expected)[cell], atol=1e-4)
    assert not output[..., 1:][~cell].any()


def test_the_target_moves_with_the_image():
    whole = arms.answer(phases(), LABELS, np.ones(2))
    inner = LABELS[8:, 6:]
    # Of the cells that the cut leaves whole.
    kept = np.isin(inner, np.unique(LABELS[:8]), invert=True) & np.isin(
        inner, np.unique(LABELS[:, :6]), invert=True
    )
    part = arms.answer(phases(), np.where(kept, inner, 0), np.ones(2))
    assert kept.any()
    np.testing.assert_allclose(part[kept], whole[8:, 6:][kept], atol=1e-4)


@pytest.mark.parametrize("decoder", ["phase", "mean_shift"])
def test_sources_3_voxels_apart_are_all_found(decoder):
    shape, spacing = KINETOCHORES
    points = lattice(shape, (7, 12, 3), seed=0)
    representation = phases(**UM, decoder=decoder)
    output = answer(representation, points, shape, spacing)
    labels, found = representation.read(output, spacing)
    assert len(found.position) == len(points) > 80
    apart = errors(found, points, spacing, 0.2)
    assert len(apart) == len(points)
    assert apart.max() < 1e-3
    own = labels[tuple(np.rint(found.position).astype(int).T)]
    np.testing.assert_array_equal(own, np.arange(len(points)) + 1)
    np.testing.assert_array_equal(labels > 0, output[..., 0] > 5)


@pytest.mark.parametrize("decoder", ["phase", "mean_shift"])
def test_sources_3_pixels_apart_are_all_found_in_2d(decoder):
    points = lattice((40, 50), (6, 3), seed=1)
    representation = phases(
        decoder=decoder,
        frequencies=guides.octaves(2, 12.0, 2),
        radius=1.4,
        max_offset=2.0,
        bins=2,
        vote_blur=0.6,
        min_distance=2.0,
        capture=1.5,
        max_voters=700,
    )
    found = representation.points(answer(representation, points, (40, 50), np.ones(2)), np.ones(2))
    assert len(found.position) == len(points)
    assert errors(found, points, np.ones(2), 1.0).max() < 1e-2


@pytest.mark.parametrize("decoder", ["phase", "mean_shift"])
def test_noisy_embeddings_agree(decoder):
    shape, spacing = KINETOCHORES
    points = lattice(shape, (7, 10, 10), seed=2)
    representation = phases(**UM | {"decoder": decoder, "bandwidth": 1.5, "iterations": 5, "min_votes": 4.0})
    output = answer(representation, points, shape, spacing).copy()
    output[..., 1:] += np.random.default_rng(0).normal(0, 0.15, output[..., 1:].shape).astype(np.float32)
    found = representation.points(output, spacing)
    apart = errors(found, points, spacing, 0.2)
    assert len(found.position) == len(apart) == len(points)
    assert np.median(apart) < 0.02


def test_pixels_that_were_not_moved_join_the_cluster_next_to_them():
    representation = phases(decoder="mean_shift", max_voters=40)
    found = arms.decoded(representation, LABELS, np.ones(2))
    assert (LABELS > 0).sum() > 1000
    assert found.max() == LABELS.max()
    assert seg_score(LABELS, found) == 1


@pytest.mark.parametrize("decoder", ["phase", "mean_shift"])
def test_few_pixels_make_no_cell(decoder):
    labels = np.zeros((24, 24), np.int32)
    labels[2:4, 2:4], labels[10:20, 10:20] = 1, 2
    found = arms.decoded(phases(min_votes=6.0, decoder=decoder), labels, np.ones(2))
    np.testing.assert_array_equal(found, labels == 2)


@pytest.mark.parametrize(("balance", "share"), [("cell", 0.5), ("log_size", None)])
def test_how_much_a_cell_counts(balance, share):
    labels = np.zeros((1, 20, 20), np.int32)
    labels[0, 2:4, 2:4], labels[0, 8:18, 8:18] = 1, 2
    representation = phases(balance=balance)
    target = targets(representation, labels, np.ones(2, np.float32))
    weight = {k: (1 if share else n / np.log1p(n)) for k, n in ((1, 4), (2, 100))}
    best = np.array(perfect(representation, target))
    for cell in (1, 2):
        worse = best.copy()
        worse[..., 1:][labels == cell] += 0.25
        _, metrics = representation.loss(jnp.asarray(worse), target, jnp.int32(0))
        assert float(metrics["embedding"]) == pytest.approx(
            0.25 * weight[cell] / (weight[1] + weight[2]), rel=1e-4
        )


def test_an_empty_crop_of_points_is_finite_and_costs_little():
    representation = phases()
    target = point_target(representation, np.full((4, 2), np.nan), np.zeros((12, 12), np.int32), np.ones(2))
    batch = Target(target.value[None], target.weight[None])
    value, gradient = cost(representation, batch, jnp.zeros((1, 12, 12, 13)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[..., 1:].any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_offset": 30.0}, "longer than 60"),
        ({"max_offset": 3.0}, "max_offset 3.0 is at least radius"),
        ({"axes": 3}, "as many numbers as there are axes"),
        ({"decoder": "tarot"}, "decoder is 'tarot'"),
        ({"balance": "volume"}, "balance is 'volume'"),
        ({"ball_radius": 48.0}, "about 0"),
        ({"bandwidth": 0.0}, "bandwidth"),
    ],
)
def test_bad_constants_are_input_errors(changes, words):
    with pytest.raises(InputError, match=words):
        phases(**changes)


def test_frequencies_may_come_as_lists_from_a_config():
    lists = [list(wave) for wave in HARMONIC["frequencies"]]
    again = representations.build("harmonic", **HARMONIC | {"frequencies": lists})
    assert again == phases()
    assert hash(again) == hash(phases())
