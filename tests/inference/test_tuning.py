"""Tuning of thresholds: the known optimum, every other value tried where axes are independent, judged on other images."""

import itertools
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.inference import tuning
from celltrack_jax.metrics.competition import competition_measures
from celltrack_jax.metrics.overlap import overlap
from celltrack_jax.tasks.judged import ImageResult, axis

SCORES = (0.1, 0.3, 0.5, 0.7, 0.9)
SIZES = (0, 5, 10, 20)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=5), min_size=1, max_size=4), st.data())
def test_of_independent_axes_it_finds_what_brute_force_finds(gains, data):
    axes = [
        axis(f"k{i}", tuple(range(len(own))), data.draw(st.integers(0, len(own) - 1)))
        for i, own in enumerate(gains)
    ]
    asked = []

    def score(reading):
        asked.append(reading)
        return sum(own[int(reading[f"k{i}"])] for i, own in enumerate(gains))

    found = tuning.search(axes, {one.key: one.present for one in axes}, score)
    every = itertools.product(*(one.values for one in axes))
    best = max(score({one.key: value for one, value in zip(axes, values, strict=True)}) for values in every)
    assert score(found) == best
    for one, own in zip(axes, gains, strict=True):
        if own[int(one.present)] == max(own):
            assert found[one.key] == one.present, "what is as good stays"


def test_a_value_that_helps_only_with_another_one_is_found_in_the_next_round():
    axes = [axis("a", (0, 1), 0), axis("b", (0, 1, 2), 0)]
    table = {(0, 0): 1, (1, 0): 0, (0, 1): 2, (1, 1): 5, (0, 2): 0, (1, 2): 6}

    def score(reading):
        return table[reading["a"], reading["b"]]

    start = {"a": 0, "b": 0}
    assert tuning.search(axes, start, score, rounds=1) == {"a": 0, "b": 1}
    assert tuning.search(axes, start, score, rounds=2) == {"a": 1, "b": 2}
    assert tuning.search(axes, start, score) == {"a": 1, "b": 2}


class Image:
    """Squares of 4x4 pixels in a row, of which some are cells."""

    def __init__(self, number, category, cells):
        self.number, self.category, self.name = number, category, f"{category}/{number}"
        self.cells = cells

    def truth(self):
        return self.painted(self.cells)

    @staticmethod
    def painted(cells):
        labels = np.zeros((4, 60), np.int64)
        for label, place in enumerate(cells, 1):
            labels[:, 5 * place : 5 * place + 4] = label
        return labels


class Squares:
    """A task that detects squares: true ones have scores above the best cut of their category, false ones below."""

    def __init__(self, counts):
        self.applied = 0
        self.cuts = {"a": 0.5, "b": 0.3}
        self.images = [
            Image(k, category, (0, 3, 6)) for category, count in counts.items() for k in range(count)
        ]

    def outputs(self, model, variables, stop):
        for image in self.images:
            if stop():
                return
            self.applied += 1
            scores = np.full(12, self.cuts[image.category] - 0.05)
            scores[list(image.cells)] = self.cuts[image.category] + 0.05
            yield image, scores

    def read(self, image, output, reading):
        cut = reading[f"per_class.{image.category}.score"]
        found = np.flatnonzero(output > cut)
        return ImageResult(image, image.painted(found), output[found])

    def axes(self):
        return [
            *(axis(f"per_class.{name}.score", SCORES, 0.1, name) for name in self.cuts),
            *(axis(f"per_class.{name}.size", SIZES, 0, name) for name in self.cuts),
        ]


def tuned(task, most=8, stop=lambda: False, values=None) -> Any:
    told = []
    found = tuning.tune(
        cast(Any, task), cast(Any, None), cast(Any, None), told.append, stop, most=most, values=values or {}
    )
    return found, told


def test_it_finds_the_best_cut_of_each_category():
    task = Squares({"a": 4, "b": 3})
    found, told = tuned(task)
    best = {"per_class.a.score": 0.5, "per_class.b.score": 0.3}
    assert found.reading == best
    assert [half.reading for half in found.halves] == [best, best]
    assert [half.images for half in found.halves] == [["a/0", "a/2", "b/0", "b/2"], ["a/1", "a/3", "b/1"]]
    assert found.before["mAP"] == pytest.approx(3 / 12)
    assert found.after["mAP"] == found.after["a/mAP"] == found.after["b/mAP"] == 1
    assert task.applied == 7, "once for each image"
    assert told[0] == "a: mAP 0.2500 -> 1.0000 on 2 images of one half: score 0.5"
    again = [overlap(one.image.truth(), one.labels, 0) for one in found.results]
    assert competition_measures(again)["mAP"] == 1


def test_where_nothing_scores_nothing_is_told():
    task = Squares({"a": 4, "b": 3})
    task.read = lambda image, output, reading: ImageResult(image, image.painted([11]), output[:1])
    found, told = tuned(task)
    assert (found.reading, found.after["mAP"], told) == ({}, 0, [])


def test_what_is_judged_is_not_what_was_tuned_on():
    """The second image of each category is of another kind: what is best for its half serves the other one badly."""
    task = Squares({"a": 4})
    plain = task.outputs

    def outputs(model, variables, stop):
        for image, scores in plain(model, variables, stop):
            yield image, scores - 0.2 * (image.number % 2)

    task.outputs = outputs
    found, told = tuned(task)
    assert [half.reading["per_class.a.score"] for half in found.halves] == [0.5, 0.3]
    # Read by the other half's cut: no cell is found, or all twelve squares are.
    assert found.after["mAP"] == pytest.approx(np.mean([3 / 12, 0]))
    assert "b: no image of both has such cells, the config's settings stay" in told


def test_few_images_of_each_are_tuned_on_and_all_are_judged():
    found, _ = tuned(Squares({"a": 6, "b": 2}), most=1)
    assert [half.images for half in found.halves] == [["a/0", "b/0"], ["a/1", "b/1"]]
    assert len(found.results) == 8


def test_values_may_be_given():
    found, _ = tuned(Squares({"a": 2}), values={"per_class.a.score": [0.48]})
    assert found.reading["per_class.a.score"] == 0.48
    with pytest.raises(InputError, match=r"there is no c\.score to tune: per_class\.a\.score, "):
        tuned(Squares({"a": 2}), values={"c.score": [1.0]})
    with pytest.raises(InputError, match="1 held-out images are too few to tune on"):
        tuned(Squares({"a": 1}))


def test_it_stops_when_it_is_told_to():
    calls = []

    def stop():
        calls.append(0)
        return len(calls) > 20

    assert tuned(Squares({"a": 4, "b": 3}), stop=stop)[0] is None
    assert len(calls) == 21
