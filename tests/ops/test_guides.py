import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.ops import guides
from celltrack_jax.ops.harmonic import embed

RNG = np.random.default_rng(0)
CENTRES = [RNG.uniform(0, 6, (40, 3)) for _ in range(3)]


def test_octaves_halve_their_wavelengths_along_each_axis():
    assert guides.octaves(2, 4.0, 2) == ((0.25, 0.0), (0.0, 0.25), (0.5, 0.0), (0.0, 0.5))


def test_pairs_are_all_that_lie_near_each_other():
    ways = guides.pair_offsets(CENTRES, 1.5)
    expected = sorted(
        np.linalg.norm(a - b)
        for points in CENTRES
        for a, b in itertools.combinations(points, 2)
        if np.linalg.norm(a - b) <= 1.5
    )
    np.testing.assert_allclose(np.sort(np.linalg.norm(ways, axis=1)), expected)


def test_the_margin_is_that_of_the_most_similar_pair():
    waves = guides.octaves(3, 2.4, 2)
    points = CENTRES[0]
    found = guides.margin(waves, guides.pair_offsets([points], 9.0), 0.2)
    embedding = np.asarray(embed(jnp.asarray(points, jnp.float32), jnp.asarray(waves), 0.2))
    pairs = [((a - b) ** 2).sum() for a, b in itertools.combinations(embedding, 2)]
    assert found == pytest.approx(min(pairs), abs=1e-4)


def test_fitted_guides_separate_what_octaves_do_not():
    ways = guides.pair_offsets(CENTRES, 2.5)
    ways = ways[np.linalg.norm(ways, axis=1) > 0.4]
    plain = guides.margin(guides.octaves(3, 2.4, 2), ways, 0.2)
    settings = {"count": 6, "longest": 2.4, "shortest": 0.8, "ball_radius": 0.2, "least": 1.5, "seed": 0}
    before = guides.fit(ways, **settings, steps=0)
    after = guides.fit(ways, **settings, steps=200)

    def short(waves):
        waves = np.array(waves)
        height = np.linalg.norm(waves, axis=1)
        assert (height <= 1 / 0.8 + 1e-5).all()
        assert (height >= 1 / 2.4 - 1e-5).all()
        return guides.margin(tuple(map(tuple, waves.tolist())), ways, 0.2)

    assert short(after) > max(short(before), plain)
    assert guides.check(after, ways, ball_radius=0.2, radius=0.5, least=0.2) == pytest.approx(short(after))


@pytest.mark.parametrize(
    ("waves", "changes", "words"),
    [
        (guides.octaves(3, 2.4, 2), {"radius": 1.5}, "longer than 3 along every axis"),
        (guides.octaves(3, 2.4, 2), {"least": 50.0}, "less than the margin 50"),
        (guides.octaves(3, 2.4, 1), {"ball_radius": 4.4934 * 2.4 / 2 / np.pi}, "about 0 in the mean"),
        (((0.4, 0.0, 0.0),), {}, "along every axis"),
        (((0.0, 0.0, 0.0),), {}, "none of them all 0"),
    ],
)
def test_guides_that_cannot_work_are_input_errors(waves, changes, words):
    constants = {"ball_radius": 0.2, "radius": 0.5, "least": 0.0} | changes
    with pytest.raises(InputError, match=words):
        guides.check(waves, guides.pair_offsets(CENTRES, 1.0), **constants)


def test_a_fit_needs_more_guides_than_axes():
    with pytest.raises(InputError, match="more than the 3 axes"):
        guides.fit(
            np.ones((4, 3)), count=3, longest=2.0, shortest=1.0, ball_radius=0.0, least=1.0, steps=1, seed=0
        )
