"""Instance measures against literal definitions and scores worked out by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.metrics.instances import (
    CURVE_THRESHOLDS,
    KAGGLE_THRESHOLDS,
    instance_measures,
    match,
    pixel_iou,
    precision_recall_curve,
)
from celltrack_jax.metrics.overlap import Overlap, jaccard, overlap


@st.composite
def frames(draw):
    """Draws the overlap of two masks of up to four objects that overlap a lot."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ref = np.repeat(rng.integers(0, 5, 8), rng.integers(1, 5, 8))
    comp = np.where(
        rng.random(len(ref)) < draw(st.sampled_from([0.1, 0.4])), rng.integers(0, 5, len(ref)), ref
    )
    return overlap(ref, comp, draw(st.integers(0, 9)))


def best_assignment(frame: Overlap, threshold: float) -> tuple[int, float]:
    """Tries every one-to-one assignment: (most pairs above the threshold, greatest sum of IoU among those)."""
    iou = np.zeros((len(frame.ref_label), len(frame.comp_label)))
    iou[frame.ref, frame.comp] = jaccard(frame)
    if iou.shape[0] > iou.shape[1]:
        iou = iou.T
    best = (0, 0.0)
    for columns in itertools.permutations(range(iou.shape[1]), iou.shape[0]):
        values = iou[np.arange(iou.shape[0]), list(columns)]
        best = max(best, (int((values > threshold).sum()), float(values[values > threshold].sum())))
    return best


@given(frame=frames(), threshold=st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.75]))
def test_match_is_the_best_of_all_assignments(frame, threshold):
    found = match(frame, threshold)
    assert len(np.unique(found.ref)) == len(np.unique(found.comp)) == len(found.ref)
    assert np.all(np.diff(found.ref) > 0)
    pairs, total = best_assignment(frame, threshold)
    assert len(found.ref) == pairs
    assert found.iou.sum() == pytest.approx(total)


def test_more_matches_are_better_than_a_better_match():
    # IoU 8/10 of the first objects; either has 1 pixel in common with the other's second object.
    ref = np.array([1] * 9 + [2])
    comp = np.array([1] * 8 + [2] + [1])
    found = match(overlap(ref, comp, 0), 0.05)
    assert (found.ref.tolist(), found.comp.tolist()) == ([0, 1], [1, 0])
    assert match(overlap(ref, comp, 0), 0.15).iou.tolist() == [8 / 10]


@given(images=st.lists(frames(), max_size=4), threshold=st.sampled_from([0.3, 0.5, 0.7]))
def test_measures_are_their_definitions(images, threshold):
    measures = instance_measures(images, [threshold])
    tp = sum(best_assignment(image, threshold)[0] for image in images)
    fn = sum(len(image.ref_label) for image in images) - tp
    fp = sum(len(image.comp_label) for image in images) - tp
    expected = {
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "F1": (2 * tp, 2 * tp + fp + fn),
        "AP": (tp, tp + fp + fn),
    }
    for key, (part, whole) in expected.items():
        assert measures[key] == {threshold: pytest.approx(part / whole) if whole else None}
    if measures["PQ"]:
        assert measures["PQ"] == pytest.approx(measures["SQ"] * measures["RQ"])
        assert measures["RQ"] == instance_measures(images, [0.5])["F1"][0.5]


def test_scores_of_two_images_worked_out_by_hand():
    # IoU 3/5, a second reference object missed, and one computed object too many.
    first = overlap(np.repeat([1, 2, 0], [4, 4, 9]), np.repeat([0, 5, 0, 6], [1, 4, 10, 2]), 0)
    # IoU 1 twice.
    second = overlap(np.repeat([1, 2], 3), np.repeat([4, 3], 3), 1)
    assert jaccard(first).tolist() == [3 / 5, 1 / 7]
    measures = instance_measures([first, second], thresholds=(0.5, 0.6))
    assert measures["AP"] == {0.5: 3 / 5, 0.6: 2 / 6}
    assert measures["precision"] == {0.5: 3 / 4, 0.6: 2 / 4}
    assert measures["mAP"] == pytest.approx((np.mean([1 / 3] * 2 + [0] * 8) + 1) / 2)
    assert measures["PQ"] == pytest.approx((1 + 1 + 0.6) / (3 + 0.5 * 1 + 0.5 * 1))
    assert measures["SQ"] == pytest.approx(2.6 / 3)


def test_an_overlap_of_exactly_the_threshold_is_no_match():
    for percent in range(50, 100, 5):
        ref = np.ones(100, int)
        comp = (np.arange(100) < percent).astype(int)
        assert len(match(overlap(ref, comp, 0), percent / 100).ref) == 0
        assert len(match(overlap(ref, comp, 0), percent / 100 - 1e-9).ref) == 1
    assert KAGGLE_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_images_without_objects_count_for_nothing():
    empty = overlap(np.zeros(4, int), np.zeros(4, int), 0)
    perfect = overlap(np.ones(4, int), np.ones(4, int), 1)
    assert instance_measures([empty, perfect]) == instance_measures([perfect])
    for images in ([], [empty]):
        measures = instance_measures(images, (0.5,))
        assert {measures[key] for key in ("mAP", "PQ", "SQ", "RQ")} == {None}
        assert measures["AP"] == measures["F1"] == {0.5: None}


@settings(max_examples=20, deadline=None)
@given(images=st.lists(frames(), max_size=2))
def test_the_curve_is_made_of_the_best_assignments(images):
    curve = precision_recall_curve(images)
    assert curve.threshold.tolist() == list(CURVE_THRESHOLDS) == [k / 20 for k in range(21)]
    ref = sum(len(image.ref_label) for image in images)
    comp = sum(len(image.comp_label) for image in images)
    for k, threshold in enumerate(CURVE_THRESHOLDS):
        tp = sum(best_assignment(image, threshold)[0] for image in images)
        np.testing.assert_allclose(curve.precision[k], tp / comp if comp else np.nan)
        np.testing.assert_allclose(curve.recall[k], tp / ref if ref else np.nan)
        np.testing.assert_allclose(curve.f1[k], 2 * tp / (ref + comp) if ref + comp else np.nan)


def test_a_perfect_result_has_a_curve_of_one_until_the_end():
    mask = np.repeat([0, 1, 2], 5)
    curve = precision_recall_curve([overlap(mask, mask, 0)])
    for y in (curve.precision, curve.recall, curve.f1):
        np.testing.assert_array_equal(y, [1] * 20 + [0])


@given(seed=st.integers(0, 2**32 - 1))
def test_pixels_are_counted_over_all_images(seed):
    rng = np.random.default_rng(seed)
    masks = [(rng.integers(0, 3, shape), rng.random(shape) < 0.4) for shape in ((3, 4), (1, 7))]
    pixels = [(r > 0, c > 0) for ref, comp in masks for r, c in zip(ref.ravel(), comp.ravel(), strict=True)]
    union = sum(r or c for r, c in pixels)
    expected = pytest.approx(sum(r and c for r, c in pixels) / union) if union else None
    assert pixel_iou(overlap(*pair, frame) for frame, pair in enumerate(masks)) == expected


def test_pixels_of_nothing():
    assert pixel_iou([]) is None
    assert pixel_iou([overlap(np.zeros((2, 2), int), np.zeros((2, 2), bool), 0)]) is None
