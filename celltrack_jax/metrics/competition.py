"""The score of the Sartorius competition, and COCO's average precision of masks.

    score(image, t) = TP / (TP + FP + FN)        mAP = mean over t = .50, .55, ... .95, then over images

TP are cells of the result whose IoU with a cell of the truth is greater than t (masks do not overlap, so that from .5
on partners are unique), FP the others, FN the cells of the truth that none of these meets (docs/originals.md, 3.2).
Labels may have gaps. An image without cells in which none is found has no score and is left out of means; one in which
cells are found but there are none, or the reverse, has 0. A mean over no image is None.

Shapes: N images, S cells of a result, Y X space.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from celltrack_jax.metrics.instances import KAGGLE_THRESHOLDS
from celltrack_jax.metrics.overlap import Overlap, jaccard
from celltrack_jax.ops import runs

SHOWN = (50, 75, 90)
"""Percent of IoU at which the score has a row of its own."""


def image_scores(overlaps: Sequence[Overlap]) -> np.ndarray:
    """Returns (N, len(KAGGLE_THRESHOLDS)) float64, the score at each threshold; NaN where an image has no score."""
    scores = np.full((len(overlaps), len(KAGGLE_THRESHOLDS)), np.nan)
    for row, one in zip(scores, overlaps, strict=True):
        matched = (jaccard(one)[:, None] > KAGGLE_THRESHOLDS).sum(0)
        cells = len(one.ref_label) + len(one.comp_label)
        if cells:
            row[:] = matched / (cells - matched)
    return scores


def competition_measures(
    overlaps: Sequence[Overlap], categories: Sequence[str | None] | None = None
) -> dict[str, float | None]:
    """Scores images.

    Args:
      overlaps: of truth and result, one per image.
      categories: of the images; None for none.

    Returns:
      mAP, and AP50, AP75, AP90: the score at one threshold, averaged over images. The same of each category, as
      "<category>/mAP" and so on.
    """
    scores = image_scores(overlaps)
    measures = _means(scores, "")
    for category in sorted({name for name in categories or () if name is not None}):
        own = np.array([name == category for name in categories or ()])
        measures |= _means(scores[own], f"{category}/")
    return measures


def coco_measures(
    truths: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    categories: Sequence[str | None] | None = None,
) -> dict[str, float | None]:
    """COCO's average precision of masks (pycocotools), of cells of all sizes, with room for all cells of a result.

    Args:
      truths: N label images (Y, X).
      results: N label images (Y, X).
      scores: N arrays (S,), of each image's cells in the order of their labels, ascending: how sure each one is.
      categories: of the images, which are those of their cells; None where all are alike.

    Returns:
      coco_AP (mean over IoU .50:.05:.95), coco_AP50 and coco_AP75, the mean over categories; and
      "<category>/coco_AP" of each. None where the truth has no cell.

    Raises:
      ValueError: an image has not as many scores as cells.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    of_image = [name or "" for name in categories or [None] * len(truths)]
    names = sorted(set(of_image))
    rows = [_annotations(labels, None) for labels in truths]
    found = [_annotations(labels, own) for labels, own in zip(results, scores, strict=True)]
    if not any(rows):
        return dict.fromkeys(
            ["coco_AP", "coco_AP50", "coco_AP75", *(f"{name}/coco_AP" for name in names if name)]
        )
    images = [
        {"id": k, "height": labels.shape[0], "width": labels.shape[1]} for k, labels in enumerate(truths)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth, result = COCO(), COCO()
        for one, cells in ((truth, rows), (result, found)):
            one.dataset = _dataset(images, cells, of_image, names)
            one.createIndex()
        judge = COCOeval(truth, result, "segm")
        judge.params.maxDets = [max(1, *map(len, found))]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., 0, 0]  # (thresholds, recalls, categories), -1 where undefined
    measures = {"coco_AP": _defined(precision)}
    measures |= {f"coco_AP{percent}": _defined(precision[(percent - 50) // 5]) for percent in (50, 75)}
    return measures | {f"{name}/coco_AP": _defined(precision[..., k]) for k, name in enumerate(names) if name}


def _means(scores: np.ndarray, prefix: str) -> dict[str, float | None]:
    seen = scores[~np.isnan(scores[:, 0])]
    columns = {"mAP": slice(None)} | {f"AP{percent}": (percent - 50) // 5 for percent in SHOWN}
    return {
        prefix + name: float(np.mean(seen[:, column])) if len(seen) else None
        for name, column in columns.items()
    }


def _annotations(labels: np.ndarray, scores: np.ndarray | None) -> list[dict[str, Any]]:
    """Returns the cells of an image, in the order of their labels, as COCO has them."""
    from pycocotools import mask

    # Run lengths of COCO count down the columns.
    found = runs.find(np.asarray(labels).T)
    names, first = np.unique(found.label, return_index=True)
    if scores is not None and len(scores) != len(names):
        raise ValueError(
            f"{len(scores)} scores of {len(names)} cells: give one for each label that the image has"
        )
    cells = []
    for k, (begin, end) in enumerate(pairwise([*first.tolist(), len(found.label)])):
        start, length = found.start[begin:end], found.length[begin:end]
        ends = np.append(0, start + length)
        outline: Any = {
            "counts": [
                *np.stack([start - ends[:-1], length], 1).ravel().tolist(),
                int(labels.size - ends[-1]),
            ],
            "size": list(labels.shape),
        }
        packed = mask.frPyObjects(outline, *labels.shape)
        cell = {
            "segmentation": packed,
            "area": int(length.sum()),
            "bbox": mask.toBbox(packed).tolist(),
            "iscrowd": 0,
        }
        cells.append(cell if scores is None else cell | {"score": float(scores[k])})
    return cells


def _dataset(
    images: Sequence[Mapping[str, int]],
    cells: Sequence[Sequence[Mapping[str, Any]]],
    of_image: Sequence[str],
    names: Sequence[str],
) -> Any:
    """Returns what a file of COCO holds, of the images, the cells of each, its category, and all categories."""
    rows = [
        {**cell, "image_id": image, "category_id": names.index(of_image[image]) + 1}
        for image, own in enumerate(cells)
        for cell in own
    ]
    return {
        "images": list(images),
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
        "annotations": [{**row, "id": k} for k, row in enumerate(rows, 1)],
    }


def _defined(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
