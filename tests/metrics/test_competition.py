"""The competition's score against its definition pixel by pixel, and COCO's against what it computes written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.metrics import instances
from celltrack_jax.metrics.competition import coco_measures, competition_measures, image_scores
from celltrack_jax.metrics.overlap import overlap

THRESHOLDS = [percent / 100 for percent in range(50, 100, 5)]


@st.composite
def pairs(draw):
    """Draws truth and result (Y, X), much alike, whose labels have gaps."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = np.append(0, np.sort(rng.choice(900, 6, replace=False)) + 1)
    blocks = rng.integers(0, 1 + draw(st.integers(0, 6)), (3, 4))
    truth = names[np.kron(blocks, np.ones((4, 5), int))]
    other = rng.permutation(names[1:])
    renamed = np.append(0, other)[np.searchsorted(names, truth)]
    wrong = rng.random(truth.shape) < draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]))
    return truth, np.where(wrong, rng.choice(names, truth.shape), renamed)


def cells(labels: np.ndarray) -> list[np.ndarray]:
    return [labels == label for label in np.unique(labels) if label]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def by_definition(truth: np.ndarray, result: np.ndarray) -> list[float]:
    """TP: predictions with any IoU > t; FP: the rest; FN: cells of the truth with none (spec 3.2)."""
    matrix = np.zeros((len(cells(result)), len(cells(truth))))
    for k, one in enumerate(cells(result)):
        matrix[k] = [iou(one, other) for other in cells(truth)]
    scores = []
    for t in THRESHOLDS:
        hit = matrix > t
        tp = sum(bool(row.any()) for row in hit)
        fp = len(cells(result)) - tp
        fn = sum(not hit[:, k].any() for k in range(len(cells(truth))))
        scores.append(tp / (tp + fp + fn) if tp + fp + fn else float("nan"))
    return scores


@settings(max_examples=60, deadline=None)
@given(pair=pairs())
def test_the_score_is_its_definition(pair):
    (found,) = image_scores([overlap(pair[0], pair[1], 0)])
    np.testing.assert_allclose(found, by_definition(*pair))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(pairs(), st.sampled_from(["astro", "cort", None])), max_size=4))
def test_means_are_over_images_and_categories(drawn):
    overlaps = [overlap(pair[0], pair[1], k) for k, (pair, _) in enumerate(drawn)]
    kinds = [kind for _, kind in drawn]
    rows = [by_definition(*pair) for pair, _ in drawn]
    found = competition_measures(overlaps, kinds)
    assert competition_measures(overlaps) == {key: value for key, value in found.items() if "/" not in key}
    assert found["mAP"] == pytest.approx(instances.instance_measures(overlaps)["mAP"])
    for prefix, chosen in [("", {"astro", "cort", None}), ("astro/", {"astro"}), ("cort/", {"cort"})]:
        own = [row for row, kind in zip(rows, kinds, strict=True) if kind in chosen and not np.isnan(row[0])]
        if prefix and not any(kind in chosen for kind in kinds):
            assert f"{prefix}mAP" not in found
            continue
        columns = {"mAP": slice(None), "AP50": 0, "AP75": 5, "AP90": 8}
        for name, column in columns.items():
            expected = pytest.approx(np.mean([np.mean(row[column]) for row in own])) if own else None
            assert found[prefix + name] == expected


def test_images_without_cells():
    empty, cell = np.zeros((4, 4), int), np.kron([[5, 0], [0, 0]], np.ones((2, 2), int))
    nothing, missed, invented = overlap(empty, empty, 0), overlap(cell, empty, 1), overlap(empty, cell, 2)
    perfect = overlap(cell, cell * 7, 3)
    assert np.isnan(image_scores([nothing])).all()
    assert image_scores([missed, invented, perfect]).mean(1).tolist() == [0, 0, 1]
    assert competition_measures([nothing])["mAP"] is None
    assert competition_measures([])["AP50"] is None
    assert competition_measures([nothing, missed, invented, perfect])["mAP"] == pytest.approx(1 / 3)


def average_precision(images: list[tuple[np.ndarray, np.ndarray, np.ndarray]], t: float) -> float:
    """COCO's: sure cells choose first, precision at 101 recalls is the best at that recall or more."""
    total = sum(len(cells(truth)) for truth, _, _ in images)
    if not total:
        return float("nan")
    rows = []
    for truth, result, scores in images:
        free = cells(truth)
        for k in np.argsort(-scores, kind="stable"):
            values = [iou(cells(result)[k], cell) for cell in free]
            hit = bool(values) and max(values) >= t
            rows.append((scores[k], hit))
            if hit:
                # Of equal ones COCO takes the last.
                free.pop(max(range(len(values)), key=lambda i: (values[i], i)))
    order = np.argsort([-score for score, _ in rows], kind="stable")
    tp = np.cumsum([rows[k][1] for k in order])
    recall, precision = tp / total, tp / np.arange(1, len(rows) + 1)
    best = [max(precision[recall >= r - 1e-12], default=0.0) for r in np.arange(101) / 100]
    return float(np.mean(best))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(pairs(), st.sampled_from(["astro", "cort"])), min_size=1, max_size=3),
    st.integers(0, 99),
)
def test_cocos_average_precision_is_its_definition(drawn, seed):
    rng = np.random.default_rng(seed)
    truths, results = [pair[0] for pair, _ in drawn], [pair[1] for pair, _ in drawn]
    scores = [rng.permutation(50)[: len(cells(result))] / 50 for result in results]
    kinds = [kind for _, kind in drawn]
    found = coco_measures(truths, results, scores, kinds)
    known: dict[str, list[float]] = {"coco_AP": [], "coco_AP50": [], "coco_AP75": []}
    for kind in sorted(set(kinds)):
        images = [
            one
            for one, own in zip(zip(truths, results, scores, strict=True), kinds, strict=True)
            if own == kind
        ]
        curve = [average_precision(images, t) for t in THRESHOLDS]
        if np.isnan(curve[0]):
            assert found[f"{kind}/coco_AP"] is None
            continue
        assert found[f"{kind}/coco_AP"] == pytest.approx(np.mean(curve), abs=1e-9)
        for key, value in zip(known, (np.mean(curve), curve[0], curve[5]), strict=True):
            known[key].append(float(value))
    for key, values in known.items():
        assert found[key] == (pytest.approx(np.mean(values), abs=1e-9) if values else None)


def test_more_cells_than_coco_looks_at_by_default_count():
    """500 cells an image: pycocotools would drop all but 100 of them."""
    labels = np.arange(1, 501).repeat(4).reshape(500, 4)
    found = coco_measures([labels], [labels[::-1]], [np.linspace(0, 1, 500)])
    assert found == {"coco_AP": 1.0, "coco_AP50": 1.0, "coco_AP75": 1.0}


def test_scores_have_to_fit():
    labels = np.kron([[0, 9], [4, 0]], np.ones((2, 2), int))
    with pytest.raises(ValueError, match="1 scores of 2 cells"):
        coco_measures([labels], [labels], [np.ones(1)])
    assert coco_measures([labels], [labels * 0], [np.ones(0)])["coco_AP"] == 0
    assert coco_measures([labels * 0], [labels], [np.ones(2)])["coco_AP"] is None
    assert coco_measures([], [], [])["coco_AP"] is None
