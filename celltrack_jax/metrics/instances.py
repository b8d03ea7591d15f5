"""Measures of instance segmentation: objects matched one to one by intersection over union (IoU).

A pair matches at a threshold t where its IoU is greater than t, as in the Kaggle cell challenges; StarDist accepts
an IoU of exactly t too. Undefined measures are None.

Shapes: P overlapping pairs, M matched pairs.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from celltrack_jax.metrics.overlap import Overlap, jaccard

KAGGLE_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU 0.50, 0.55, ... 0.95 of the mean average precision; quotients of integers, so that an IoU of 3/5 is not
greater than 0.6."""

CURVE_THRESHOLDS = tuple(percent / 100 for percent in range(0, 101, 5))
"""IoU 0, 0.05, ... 1 of the curves of precision and recall."""

PANOPTIC_THRESHOLD = 0.5
"""Kirillov et al. 2019, Panoptic segmentation."""


class Matched(NamedTuple):
    """One-to-one matches of a frame."""

    ref: np.ndarray
    """(M,) int64 index into the overlap's ref_label, ascending."""
    comp: np.ndarray
    """(M,) int64 index into its comp_label."""
    iou: np.ndarray
    """(M,) float64."""


class PrecisionRecall(NamedTuple):
    """Curves over T thresholds; what is not defined is NaN."""

    threshold: np.ndarray
    """(T,) float64."""
    precision: np.ndarray
    """(T,) float64."""
    recall: np.ndarray
    """(T,) float64."""
    f1: np.ndarray
    """(T,) float64."""


def match(overlap: Overlap, iou_threshold: float) -> Matched:
    """Matches objects one to one: as many pairs as possible and, among those, the greatest sum of IoU.

    From a threshold of 0.5 on, every object has at most one partner. Below, what is ambiguous is assigned
    by the Hungarian method.

    Args:
      overlap: of one frame.
      iou_threshold: pairs need more than this, at least 0.
    """
    iou = jaccard(overlap)
    pairs = np.flatnonzero(iou > iou_threshold)
    ref, comp = overlap.ref[pairs], overlap.comp[pairs]
    rivals = (np.bincount(ref)[ref] > 1) | (np.bincount(comp)[comp] > 1) if len(pairs) else np.zeros(0, bool)
    chosen = pairs[~rivals]
    if rivals.any():
        rows, row = np.unique(ref[rivals], return_inverse=True)
        columns, column = np.unique(comp[rivals], return_inverse=True)
        # A match more is worth more than any sum of IoU.
        gain = np.zeros((len(rows), len(columns)))
        gain[row, column] = 1 + iou[pairs[rivals]] / (1 + min(gain.shape))
        assigned = np.zeros(gain.shape, bool)
        assigned[linear_sum_assignment(gain, maximize=True)] = True
        chosen = np.sort(np.concatenate([chosen, pairs[rivals][assigned[row, column]]]))
    return Matched(overlap.ref[chosen], overlap.comp[chosen], iou[chosen])


def instance_measures(
    overlaps: Sequence[Overlap], thresholds: Sequence[float] = KAGGLE_THRESHOLDS
) -> dict[str, Any]:
    """Scores fully annotated frames.

    Args:
      overlaps: one per image.
      thresholds: IoU thresholds of the measures that depend on one.

    Returns:
      precision, recall, F1 and AP = TP / (TP + FP + FN): {threshold: score} over the objects of all images
      together; PQ, SQ and RQ: panoptic, segmentation and recognition quality at IoU 0.5, likewise together; mAP:
      AP of each image, averaged over IoU 0.50:0.05:0.95 and then over the images that have an object (Kaggle).
    """
    counts = {threshold: _counts(overlaps, threshold) for threshold in thresholds}
    panoptic = _counts(overlaps, PANOPTIC_THRESHOLD)
    quality = sum(float(match(one, PANOPTIC_THRESHOLD).iou.sum()) for one in overlaps)
    tp = int(panoptic[:, 0].sum())
    return {
        "precision": {t: _ratio(count[:, 0], count[:, :2]) for t, count in counts.items()},
        "recall": {t: _ratio(count[:, 0], count[:, ::2]) for t, count in counts.items()},
        "F1": {t: _f1(count) for t, count in counts.items()},
        "AP": {t: _ratio(count[:, 0], count) for t, count in counts.items()},
        "mAP": _mean_average_precision(overlaps),
        "PQ": quality / float(tp + panoptic[:, 1:].sum() / 2) if panoptic.any() else None,
        "SQ": quality / tp if tp else None,
        "RQ": _f1(panoptic),
    }


def precision_recall_curve(
    overlaps: Sequence[Overlap], thresholds: Sequence[float] = CURVE_THRESHOLDS
) -> PrecisionRecall:
    """Precision, recall and F1 over the objects of all images together, by the IoU that a match must exceed.

    No IoU is greater than 1, so that all three are 0 there.

    Args:
      overlaps: one per image, fully annotated.
      thresholds: ascending IoU.
    """
    counts = [_counts(overlaps, threshold) for threshold in thresholds]
    return PrecisionRecall(
        np.array(thresholds, np.float64),
        np.array([_ratio(count[:, 0], count[:, :2]) for count in counts], np.float64),
        np.array([_ratio(count[:, 0], count[:, ::2]) for count in counts], np.float64),
        np.array([_f1(count) for count in counts], np.float64),
    )


def pixel_iou(overlaps: Iterable[Overlap]) -> float | None:
    """Intersection over union of the foregrounds, over the pixels of all images together.

    Args:
      overlaps: one per image, fully annotated.
    """
    both = either = 0
    for one in overlaps:
        shared = int(one.intersection.sum())
        both += shared
        either += int(one.ref_size.sum() + one.comp_size.sum()) - shared
    return both / either if either else None


def _counts(overlaps: Sequence[Overlap], threshold: float) -> np.ndarray:
    """Returns (images, 3) int64: true positives, false positives and false negatives."""
    rows = []
    for one in overlaps:
        tp = len(match(one, threshold).ref)
        rows.append((tp, len(one.comp_label) - tp, len(one.ref_label) - tp))
    return np.array(rows, np.int64).reshape(-1, 3)


def _mean_average_precision(overlaps: Sequence[Overlap]) -> float | None:
    counts = np.stack([_counts(overlaps, threshold) for threshold in KAGGLE_THRESHOLDS])
    objects = counts.sum(axis=-1)
    seen = objects[0] > 0
    return float(np.mean(counts[:, seen, 0] / objects[:, seen])) if seen.any() else None


def _f1(count: np.ndarray) -> float | None:
    return _ratio(2 * count[:, 0], count @ np.array([2, 1, 1]))


def _ratio(part: np.ndarray, whole: np.ndarray) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None
