"""Which settings read the output of a trained network best: a search along one setting after the other.

The network is applied once. The score is the competition's mAP over images, of one category where a setting reads that
one alone; categories are searched one by one, while the others are read as the config says.

What is tuned on images flatters on the same ones. So the held-out images are halved, category by category, every
second one to each half: what is found in a half is judged as read by what was tuned on the other, and the settings that
are given away are tuned on both together.
"""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.metrics.competition import competition_measures, image_scores
from celltrack_jax.metrics.overlap import Overlap, overlap
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tasks import JudgedImagesTask
from celltrack_jax.tasks.judged import Axis, ImageResult, JudgedImage, Reading

ROUNDS = 3
"""Times that a search goes along all axes at most; it ends where one of them changes nothing."""
_LEAST = 1e-9
"""By which a value has to be better than the present one."""


class Half(NamedTuple):
    """Settings that were tuned on one half of the images."""

    images: list[str]
    reading: Reading


class Tuned(NamedTuple):
    """What tuning came to."""

    reading: Reading
    """Settings tuned on all images, those alone that differ from the config's."""
    halves: list[Half]
    before: dict[str, float | None]
    """Measures as read by the config."""
    after: dict[str, float | None]
    """Measures of each half as read by what was tuned on the other."""
    results: list[ImageResult]
    """Of each image, those that `after` judges."""


def search(
    axes: Sequence[Axis], start: Mapping[str, float], score: Callable[[Reading], float], rounds: int = ROUNDS
) -> Reading:
    """Returns the reading that no other value of a single axis betters, or what `rounds` times along all axes found.

    Args:
      axes: values to try by setting.
      start: value of each axis.
      score: of a reading of all axes, larger is better; of equal values the present one stays, or the one nearest to it
        along the axis.
      rounds: at most.
    """
    reading = dict(start)
    best = score(reading)
    for _ in range(rounds):
        before = dict(reading)
        for axis in axes:
            here = axis.values.index(reading[axis.key])
            for place in sorted(range(len(axis.values)), key=lambda place, here=here: abs(place - here)):
                tried = reading | {axis.key: axis.values[place]}
                found = score(tried)
                if found > best + _LEAST:
                    reading, best = tried, found
        if reading == before:
            break
    return reading


def halves(categories: Sequence[str | None]) -> np.ndarray:
    """(N,) bool of N images in order: every second one of each category."""
    seen: dict[str | None, int] = {}
    second = []
    for category in categories:
        second.append(seen.get(category, 0) % 2 == 1)
        seen[category] = seen.get(category, 0) + 1
    return np.array(second, bool)


def tune(
    task: JudgedImagesTask,
    model: FunctionalModel,
    variables: Variables,
    tell: Callable[[str], None],
    stop: Callable[[], bool],
    *,
    most: int,
    values: Mapping[str, Sequence[float]],
) -> Tuned | None:
    """Tunes how the output of a network is read; None when `stop()` became true.

    Args:
      task: of the run.
      model: its network.
      variables: of a checkpoint.
      tell: called with a line about what was found, where anything scores above 0.
      stop: polled.
      most: images of each category in each half that are tuned on, the first ones; all of them are judged.
      values: tried instead of the task's own, by the key of an axis.

    Raises:
      InputError: there is no such axis, or there are fewer than two images.
    """
    axes = with_values(task.axes(), values)
    said = list(task.outputs(model, variables, stop))
    if stop():
        return None
    if len(said) < 2:
        raise InputError(
            f"{len(said)} held-out images are too few to tune on: train a run that holds out more, by evaluation.holdout "
            "or .folds, or judge another store by --config.evaluation.store"
        )
    images = _Images(task, said, stop)
    second = halves(images.categories)
    half = [_first(np.flatnonzero(second == number), images.categories, most) for number in (False, True)]
    try:
        found = [
            _searched(images, axes, part, name, tell)
            for name, part in (
                ("one half", half[0]),
                ("the other half", half[1]),
                ("both", sorted(half[0] + half[1])),
            )
        ]
        start = {axis.key: axis.present for axis in axes}
        before = images.results([start] * len(said))
        after = images.results([found[0] if is_second else found[1] for is_second in second.tolist()])
    except _ToldToStopError:
        return None
    told_on = [
        Half([said[k][0].name for k in part], _changes(reading, start))
        for part, reading in zip(half, found, strict=False)
    ]
    judged = [
        competition_measures([images.overlap(k, one) for k, one in enumerate(results)], images.categories)
        for results in (before, after)
    ]
    return Tuned(_changes(found[2], start), told_on, judged[0], judged[1], after)


def with_values(axes: Sequence[Axis], values: Mapping[str, Sequence[float]]) -> list[Axis]:
    """Returns axes that try other values, by their keys, and the present ones."""
    known = {axis.key: axis for axis in axes}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"there is no {unknown[0]} to tune: {', '.join(known)}")
    return [
        axis._replace(
            values=tuple(sorted({type(axis.present)(v) for v in values[axis.key]} | {axis.present}))
        )
        if axis.key in values
        else axis
        for axis in axes
    ]


def _first(images: np.ndarray, categories: Sequence[str | None], most: int) -> list[int]:
    """The first images of each category."""
    kept: list[int] = []
    for category in dict.fromkeys(categories):
        kept += [k for k in images.tolist() if categories[k] == category][:most]
    return sorted(kept)


def _searched(
    images: "_Images", axes: Sequence[Axis], part: Sequence[int], name: str, tell: Callable[[str], None]
) -> Reading:
    """Tunes on some images, category by category."""
    start = {axis.key: axis.present for axis in axes}
    reading = dict(start)
    for category in dict.fromkeys(axis.category for axis in axes):
        own = [axis for axis in axes if axis.category == category]
        judged = [k for k in part if category is None or images.categories[k] == category]
        if not judged:
            tell(f"{category}: no image of {name} has such cells, the config's settings stay")
            continue
        score = functools.partial(images.score, judged, start)
        chosen = search(own, {axis.key: axis.present for axis in own}, score)
        reading |= chosen
        if not score(chosen):
            continue  # nor does anything else score: what is judged says so once
        changed = _changes(chosen, start)
        said = ", ".join(f"{key.rpartition('.')[2]} {value:g}" for key, value in changed.items())
        scores = f"mAP {score({}):.4f} -> {score(chosen):.4f} on {len(judged)} images of {name}"
        tell(f"{category or 'cells'}: {scores}{': ' if said else ''}{said}")
    return reading


def _changes(reading: Reading, start: Reading) -> Reading:
    return {key: value for key, value in reading.items() if value != start[key]}


class _ToldToStopError(Exception):
    """Ends a search."""


class _Images:
    """What the network says of images, and what was scored of it."""

    def __init__(
        self, task: JudgedImagesTask, said: Sequence[tuple[JudgedImage, Any]], stop: Callable[[], bool]
    ):
        self.task, self.said, self.stop = task, said, stop
        self.categories = [image.category for image, _ in said]
        self._known: dict[Hashable, float] = {}
        self._truths: dict[int, np.ndarray] = {}

    def score(self, images: Sequence[int], start: Reading, changes: Reading) -> float:
        """Mean score of those images that have one, 0 where none has."""
        reading = start | changes
        name = tuple(sorted(reading.items()))
        new = [k for k in images if (k, name) not in self._known]
        # In threads: what reads cells is mostly compiled code and scipy.
        for k, value in zip(new, threads.mapped(lambda k: self._scored(k, reading), new), strict=True):
            self._known[k, name] = value
        scores = np.array([self._known[k, name] for k in images])
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else 0.0

    def results(self, readings: Sequence[Reading]) -> list[ImageResult]:
        """What is found in each image by its reading."""
        return [self._read(k, reading) for k, reading in enumerate(readings)]

    def overlap(self, k: int, result: ImageResult) -> Overlap:
        """Of an image's truth and what was found in it."""
        if k not in self._truths:
            self._truths[k] = result.image.truth().astype(np.int32)
        return overlap(self._truths[k], result.labels, result.image.number)

    def _scored(self, k: int, reading: Reading) -> float:
        return float(np.mean(image_scores([self.overlap(k, self._read(k, reading))])))

    def _read(self, k: int, reading: Reading) -> ImageResult:
        if self.stop():
            raise _ToldToStopError
        return self.task.read(*self.said[k], reading)
