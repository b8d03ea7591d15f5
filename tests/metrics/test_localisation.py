"""Errors, scores by density and scores of chance against literal definitions and expectations in closed form."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.metrics.localisation import by_chance, density_measures, error_measures
from celltrack_jax.metrics.points import detection_measures, match

RADII = (0.4, 0.8)
EDGES = (0.6, 1.2)


def scattered(seed, frames=3):
    """Clustered reference points of some frames, and found points: some near these, some anywhere."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(frames):
        ref = rng.uniform(0, 3, (rng.integers(0, 12), 3))
        found = ref[rng.random(len(ref)) < 0.8]
        found = np.concatenate([found + rng.normal(0, 0.3, found.shape), rng.uniform(0, 3, (3, 3))])
        made.append((ref, rng.permutation(found)))
    return made


def test_errors_worked_out_by_hand():
    ref = np.array([[0, 0, 0], [10, 0, 0], [20, 0, 0], [30, 0, 0]])
    found = np.array([[20, 0, 1], [0.2, 0.3, 0.4], [10.6, 0, 0], [30, 9, 9]])
    measures = error_measures([(ref[:2], found), (ref, found)], (1, 0.1))
    assert measures == {
        "error_median_1": pytest.approx(0.6),
        "error_mean_1": pytest.approx((2 * np.sqrt(0.29) + 1.2 + 1) / 5),
        "error_z_1": pytest.approx(0.2),
        "error_xy_1": pytest.approx(0.5),
        "error_median_0.1": None,
        "error_mean_0.1": None,
        "error_z_0.1": None,
        "error_xy_0.1": None,
    }


def test_errors_in_the_plane_have_no_z():
    ref = np.array([[0.0, 0], [9, 0]])
    measures = error_measures([(ref, ref + np.array([0.3, 0.4]))], (1,))
    assert measures == {
        "error_median_1": pytest.approx(0.5),
        "error_mean_1": pytest.approx(0.5),
        "error_xy_1": pytest.approx(0.5),
    }


def test_what_is_not_defined_is_none():
    none = np.zeros((0, 3))
    for frames in ([], [(none, none)]):
        assert set(error_measures(frames, RADII).values()) == {None}
        assert set(density_measures(frames, RADII, EDGES).values()) == {None}
    assert by_chance(lambda frames: {"a": None}, [], draws=3, seed=0) == {"a": None}


def test_the_median_error_of_normal_noise_is_known():
    """Of 1.5 sigma_z along z, folded: .674 sigma; in the plane, Rayleigh: sqrt(2 ln 2) sigma."""
    rng = np.random.default_rng(0)
    ref = np.stack(np.meshgrid(*(np.arange(0, 80, 5.0),) * 3), -1).reshape(-1, 3)
    found = ref + rng.normal(0, 1, ref.shape) * (0.15, 0.1, 0.1)
    measures = error_measures([(ref, found)], (2.0,))
    assert measures["error_z_2"] == pytest.approx(0.6745 * 0.15, rel=0.05)
    assert measures["error_xy_2"] == pytest.approx(np.sqrt(2 * np.log(2)) * 0.1, rel=0.05)


def density_twin(frames, radius, low, high):
    """Counts one bin, point by point: matched, reference and found points in it."""
    matched = true = given = 0
    for ref, found in frames:
        pair = match(ref, found, radius)
        partner = dict(zip(pair.found.tolist(), pair.ref.tolist(), strict=True))
        apart = []
        for i in range(len(ref)):
            rest = [np.linalg.norm(ref[i] - ref[j]) for j in range(len(ref)) if j != i]
            apart.append(min(rest, default=np.inf))
        inside = [low <= distance < high or (high == np.inf == distance) for distance in apart]
        true += sum(inside)
        for k, point in enumerate(found):
            if len(ref) == 0:
                given += high == np.inf
                continue
            nearest = int(np.argmin(np.linalg.norm(ref - point, axis=1)))
            given += inside[partner.get(k, nearest)]
            matched += k in partner and inside[partner[k]]
    return matched, true, given


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.sampled_from(RADII))
def test_density_measures_count_point_by_point(seed, radius):
    frames = scattered(seed)
    measures = density_measures(frames, (radius,), EDGES)
    names = {"nn0-0.6": (0, 0.6), "nn0.6-1.2": (0.6, 1.2), "nn1.2-inf": (1.2, np.inf)}
    assert set(measures) == {
        f"{kind}_{radius:g}_{nn}" for kind in ("precision", "recall", "F1") for nn in names
    }
    for name, limits in names.items():
        matched, true, given_ = density_twin(frames, radius, *limits)
        assert measures[f"recall_{radius:g}_{name}"] == (matched / true if true else None)
        assert measures[f"precision_{radius:g}_{name}"] == (matched / given_ if given_ else None)
        assert measures[f"F1_{radius:g}_{name}"] == (2 * matched / (true + given_) if true + given_ else None)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_one_bin_holds_all(seed):
    frames = scattered(seed)
    whole, parts = detection_measures(frames, RADII), density_measures(frames, RADII, ())
    for radius in RADII:
        for name in ("precision", "recall", "F1"):
            assert parts[f"{name}_{radius:g}_nn0-inf"] == whole[f"{name}_{radius:g}"]


def test_neighbours_that_are_lost_show_where_it_is_dense():
    ref = np.array([[0, 0, 0], [0, 0, 0.5], [0, 9, 0], [0, 9, 0.8], [0, 20, 0]])
    measures = density_measures([(ref, ref[[0, 2, 3, 4]])], (0.3,), EDGES)
    recalls = [measures[f"recall_0.3_nn{bin_}"] for bin_ in ("0-0.6", "0.6-1.2", "1.2-inf")]
    assert recalls == [0.5, 1, 1]


def test_chance_finds_one_point_as_often_as_its_ball_fills_the_box():
    """References in the corners of a cube: each ball of radius 1 has an eighth inside, and none meet."""
    ref = np.stack(np.meshgrid(*([0.0, 2.0],) * 3), -1).reshape(-1, 3)
    score = functools.partial(detection_measures, radii=(1.0,))
    chance = by_chance(score, [(ref, ref[:1])], draws=500, seed=1)
    expected = 8 * (np.pi * 4 / 3 / 8) / 8
    assert chance["precision_1"] == pytest.approx(expected, rel=0.1)
    assert chance["recall_1"] == pytest.approx(expected / 8, rel=0.1)
    once, again = (by_chance(score, [(ref, ref)], draws=2, seed=4) for _ in range(2))
    assert once == again


def test_false_points_of_an_empty_frame_stay_false():
    ref = np.array([[0.0, 0], [0, 0]])
    score = functools.partial(detection_measures, radii=(1.0,))
    chance = by_chance(score, [(ref, ref), (ref[:0], ref)], draws=2, seed=0)
    assert (chance["precision_1"], chance["recall_1"]) == (0.5, 1)
