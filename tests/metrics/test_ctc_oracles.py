"""Random movies score as py-ctcmetrics and traccuracy score them; where those are wrong: test_ctc_exceptions.py."""

import math

import numpy as np
import pytest

from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.biological import divisions
from celltrack_jax.metrics.ctc import MEASURES, overlap
from celltrack_jax.metrics.matching import match_frames
from tests.metrics.movies import Movie, measure, measure_pyctc, measure_traccuracy, painted, random_pair


def same(ours, theirs) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return math.isclose(ours, theirs, rel_tol=1e-12, abs_tol=1e-12)


def differences(ours: dict, theirs: dict) -> dict:
    return {key: (ours[key], value) for key, value in theirs.items() if not same(ours[key], value)}


def covers_three(truth: Movie, result: Movie) -> bool:
    """Tells whether a computed cell is the match of three reference cells."""
    pairs = zip(truth.masks, result.masks, strict=True)
    return match_frames([overlap(*pair, t) for t, pair in enumerate(pairs)]).covered.max() > 2


def divides_at_birth(lineage: Lineage) -> bool:
    """Tells whether a track without parent divides in its first frame."""
    parents = np.isin(lineage.label, divisions(lineage).label)
    return bool((parents & (lineage.begin == lineage.end) & (lineage.parent == 0)).any())


@pytest.mark.parametrize("seed", range(200))
def test_a_random_movie_scores_as_in_py_ctcmetrics(seed, tmp_path):
    truth, result = random_pair(seed)
    ours = measure(truth, result)
    assert tuple(ours) == MEASURES
    assert not differences(ours, measure_pyctc(tmp_path, truth, result))


@pytest.mark.parametrize("seed", range(1000, 1060))
def test_a_random_movie_scores_as_in_traccuracy(seed, tmp_path):
    truth, result = random_pair(seed, plain=True)
    ours, theirs = measure(truth, result), measure_traccuracy(tmp_path, truth, result)
    if covers_three(truth, result):  # traccuracy counts the vertex once
        for key in ("AOGM_NS", "AOGM", "DET", "TRA"):
            theirs.pop(key)
    cca = theirs.pop("CCA")
    # traccuracy does not see a division in a track's first frame as one, and has NaN where CCA is undefined or 0.
    if not divides_at_birth(truth.tracks) and not divides_at_birth(result.tracks):
        assert same(ours["CCA"] or 0.0, 0.0 if math.isnan(cca) else cca)
    assert not differences(ours, theirs)


@pytest.mark.parametrize("seed", range(2000, 2040))
def test_a_random_movie_with_gaps_scores_as_in_traccuracy(seed, tmp_path):
    """Links to only children have other semantics there (EC), everything else agrees."""
    truth, result = random_pair(seed)
    theirs = measure_traccuracy(tmp_path, truth, result)
    theirs = {key: theirs[key] for key in ("AOGM_FN", "AOGM_FP", "AOGM_ED", "AOGM_EA", "CHOTA")}
    assert not differences(measure(truth, result), theirs)


@pytest.mark.parametrize("shift", [-4, -3, -1, 0, 1, 2, 3, 4])
def test_a_division_that_is_early_or_late_scores_as_in_py_ctcmetrics(shift, tmp_path):
    truth, result = dividing(8), dividing(8 + shift)
    ours = measure(truth, result)
    assert [ours[f"BC{i}"] for i in range(4)] == [float(i >= abs(shift)) for i in range(4)]
    assert not differences(ours, measure_pyctc(tmp_path, truth, result))


def test_a_division_with_another_number_of_children_is_not_the_same(tmp_path):
    truth, result = dividing(5), dividing(5, children=3)
    ours = measure(truth, result)
    assert ours["BC0"] == 0
    assert not differences(ours, measure_pyctc(tmp_path, truth, result))


def test_parents_that_end_too_far_apart_are_not_the_same_division(tmp_path):
    """Both cells have the same daughters, but the result loses the mother two frames before they appear."""
    whole, halves = {1: range(16)}, {2: range(8), 3: range(8, 16)}
    lone = {9: range(40, 48)}
    truth = painted(
        [whole | lone] * 4 + [halves | lone] * 2, [(1, 0, 3, 0), (2, 4, 5, 1), (3, 4, 5, 1), (9, 0, 5, 0)]
    )
    result = painted(
        [whole | lone] * 2 + [lone] * 2 + [halves | lone] * 2,
        [(1, 0, 1, 0), (2, 4, 5, 1), (3, 4, 5, 1), (9, 0, 5, 0)],
    )
    ours = measure(truth, result)
    assert [ours[f"BC{i}"] for i in range(4)] == [0, 0, 1, 1]
    assert not differences(ours, measure_pyctc(tmp_path, truth, result))


def test_two_daughters_need_two_daughters(tmp_path):
    """One computed daughter is the match of both, each in the frame in which the true one begins."""
    frames = [{1: range(8)}] * 2 + [{2: range(4)}, {3: range(4)}]
    truth = painted(frames, [(1, 0, 1, 0), (2, 2, 2, 1), (3, 3, 3, 1)])
    frames = [{1: range(8)}] * 2 + [{2: range(4), 3: range(40, 44)}] * 2
    result = painted(frames, [(1, 0, 1, 0), (2, 2, 3, 1), (3, 2, 3, 1)])
    ours = measure(truth, result)
    assert [ours[f"BC{i}"] for i in range(4)] == [0, 0, 0, 0]
    assert not differences(ours, measure_pyctc(tmp_path, truth, result))


def dividing(at: int, frames: int = 16, children: int = 2) -> Movie:
    """A cell that is cut into children from frame `at` on; 8 of its pixels go to each of the first two."""
    parent = {1: range(20)}
    daughters = {2: range(8), 3: range(8, 16), 4: range(16, 20)}
    daughters = {label: daughters[label] for label in range(2, 2 + children)}
    rows = [(1, 0, at - 1, 0), *((label, at, frames - 1, 1) for label in daughters)]
    return painted([parent if t < at else daughters for t in range(frames)], rows)
