"""What runs find in the images that are judged: found once and kept in a file, scored, and tuned.

What is kept serves again as long as checkpoint and settings are those it was made from.
"""

import json
import shlex
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax import tasks
from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.inference import threshold, tuning
from celltrack_jax.io import files, threads
from celltrack_jax.metrics import competition
from celltrack_jax.metrics.overlap import overlap
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.report import comparison
from celltrack_jax.tasks import JudgedImagesTask
from celltrack_jax.tasks.judged import JudgedImage
from celltrack_jax.training import checkpoint
from launch import checkpoint_scores, overrides, readings

TUNED = "tuned.json"
"""In the folder of a run: what tuning came to."""
_AGAIN = "then run the same command to continue"


class Run(NamedTuple):
    """A run whose images are judged."""

    name: str
    workdir: Path
    config: Config
    task: JudgedImagesTask
    changes: Mapping[str, str] = MappingProxyType({})
    """Of its own settings, by key, as they were given."""


class Findings(NamedTuple):
    """What was found in images, in their order."""

    labels: Sequence[np.ndarray]
    """(Y, X) int32, 1..K."""
    confidence: Sequence[np.ndarray] | None
    """(K,) float32; None where nothing is known of how sure cells are."""
    note: str


def task_of(config: Config, where: str) -> JudgedImagesTask:
    """Builds the task of a config.

    Raises:
      InputError: its images are not judged one by one.
    """
    task = tasks.build(config)
    if not isinstance(task, JudgedImagesTask):
        raise InputError(
            f"{where} is of the task {config.task!r}, whose images are not judged one by one: take one of images or "
            "mask_rcnn"
        )
    return task


def open_run(name: str, workdir: Path, changes: Mapping[str, str] | None = None) -> Run:
    """Opens a finished run.

    Args:
      name: of its row.
      workdir: its folder.
      changes: as of `readings.load_config`.

    Raises:
      InputError: it is none, or its images are not judged one by one.
    """
    changes = overrides.given() if changes is None else changes
    config = readings.load_config(workdir, changes)
    return Run(name, workdir, config, task_of(config, str(workdir)), changes)


def same_images(found: Mapping[str, JudgedImagesTask]) -> list[JudgedImage]:
    """Returns the images that all tasks judge.

    Args:
      found: tasks by name.

    Raises:
      InputError: there is none, or they are not the same.
    """
    (first, task), *others = found.items()
    images = task.judged_images()
    if not images:
        raise InputError(
            f"{first} holds out no image whose cells are all outlined: set evaluation.folds or .holdout"
        )
    known = {one.name: one.window for one in images}
    for name, other in others:
        own = {one.name: one.window for one in other.judged_images()}
        differ = sorted(key for key in {*known, *own} if known.get(key) != own.get(key))
        if differ:
            raise InputError(
                f"{first} and {name} judge {len(known)} and {len(own)} images, of which {len(differ)} are not the same "
                f"({differ[0]}, ...): train both with the same data.store, and evaluation.folds, .fold, .holdout, "
                ".max_frames and .window"
            )
    return images


def find(run: Run, which: str, kept: Path, stop: Callable[[], bool]) -> Findings | None:
    """Returns what a run finds in its images; None when `stop()` became true.

    Args:
      run: that is judged.
      which: checkpoint: "best", "latest" or a step.
      kept: file of what was found before, which is written where there is none that serves.
      stop: polled.

    Raises:
      InputError: there is no such checkpoint, or the file cannot be written.
    """
    step, model, variables = _restored(run, which)
    origin = checkpoint_scores.origin(run.workdir, step, run.config)
    found = _load(kept, origin)
    if found is None:
        results = list(run.task.results(model, variables, stop))
        if stop():
            return None
        note = f"step {step}, the {which} checkpoint" if not which.isdigit() else f"step {step}"
        found = Findings([one.labels for one in results], [one.confidence for one in results], note)
        _save(kept, origin, found)
    return found


def tune(
    run: Run,
    which: str,
    stop: Callable[[], bool],
    *,
    most: int,
    values: Mapping[str, Sequence[float]],
    kept: Path | None = None,
) -> tuple[dict[str, Any], Findings] | None:
    """Tunes how a run's output is read, writes tuned.json into its folder, and returns that and what was found.

    What was found is read in each half of the images by what was tuned on the other. None when `stop()` became true.

    Args:
      run: that is tuned.
      which: checkpoint, as of `find`.
      stop: polled.
      most: images of each category in each half that are tuned on.
      values: tried instead of the task's own, by key.
      kept: as of `find`; None keeps nothing.

    Raises:
      InputError: as of `find` and `inference.tuning.tune`.
    """
    step, model, variables = _restored(run, which)
    tried = {key: list(map(float, own)) for key, own in values.items()}
    origin = checkpoint_scores.origin(run.workdir, step, run.config) | {
        "tuned": {"most": most, "values": tried}
    }
    told = _read_json(run.workdir / TUNED)
    if kept is not None and told.get("origin") == origin:
        found = _load(kept, origin)
        if found is not None:
            return told, found
    tuned = tuning.tune(
        run.task, model, variables, lambda line: print(line, flush=True), stop, most=most, values=values
    )
    if tuned is None:
        return None
    told = {
        "step": step,
        "overrides": tuned.reading,
        "flags": shlex.join(overrides.words({**run.changes, **tuned.reading})),
        "before": tuned.before,
        "after": tuned.after,
        "halves": [{"images": half.images, "overrides": half.reading} for half in tuned.halves],
        "origin": origin,
    }
    files.replace_text(run.workdir / TUNED, json.dumps(told, indent=1) + "\n", _AGAIN)
    note = (
        f"step {step}; each half of the images read by what was tuned on {most} of each category of the other"
    )
    found = Findings([one.labels for one in tuned.results], [one.confidence for one in tuned.results], note)
    if kept is not None:
        _save(kept, origin, found)
    return told, found


def lines(told: Mapping[str, Any]) -> list[str]:
    """Returns what tuning came to, as people read it.

    Args:
      told: of `tune`.
    """
    before, after = told["before"], told["after"]
    if not (told["overrides"] or before["mAP"] or after["mAP"]):
        return [
            f"nothing that is found at step {told['step']} scores above 0, whatever the settings: there is nothing to "
            "tune; train longer, or give another --checkpoint"
        ]
    rows = [f"{key:16s} {_shown(value)} -> {_shown(after[key])}" for key, value in before.items()]
    halves = "each half of the images as read by what was tuned on the other; tuned on both:"
    return [*rows, halves, told["flags"] or "the config has the best values"]


def find_by_threshold(images: Sequence[JudgedImage], kept: Path, stop: Callable[[], bool]) -> Findings | None:
    """Returns what a threshold and a watershed find, as `find` does."""
    # Percentiles tell whether the store is still the same.
    known = [[image.name, image.sequence.percentiles[image.t].tolist()] for image in images]
    origin = {"images": known, "windows": [str(image.window) for image in images]}
    found = _load(kept, origin)
    if found is None:
        labels = []
        for one in threads.mapped(lambda image: None if stop() else _by_threshold(image), images):
            if one is None:
                return None
            labels.append(one)
        found = Findings(labels, None, "Otsu's threshold and a watershed of the distance, no learning")
        _save(kept, origin, found)
    return found


def row(
    name: str, found: Findings, images: Sequence[JudgedImage], truths: Sequence[np.ndarray], shown: int
) -> comparison.Row:
    """Scores what was found.

    Args:
      name: of the row.
      found: in the images.
      images: that are judged.
      truths: (Y, X) integers each.
      shown: how many of the worst, and of the best images are kept for the page.
    """
    categories = [image.category for image in images]
    overlaps = [overlap(truth, own, 0) for truth, own in zip(truths, found.labels, strict=True)]
    measures = competition.competition_measures(overlaps, categories)
    if found.confidence is not None:
        measures |= competition.coco_measures(truths, found.labels, found.confidence, categories)
    scores = competition.image_scores(overlaps).mean(1)
    # Of equal scores the crowded image says more.
    cells = np.array([len(one.ref_label) for one in overlaps])
    order = [k for k in np.lexsort((-cells, scores)).tolist() if np.isfinite(scores[k])]
    few = min(shown, len(order) // 2 or len(order))
    best = [k for k in np.lexsort((-cells, -scores)).tolist() if np.isfinite(scores[k])][:few]

    def kept(chosen: Iterable[int]) -> list[comparison.Shown]:
        return [
            comparison.Shown(
                images[k].name, float(scores[k]), images[k].picture(), truths[k], found.labels[k]
            )
            for k in chosen
        ]

    told = {
        image.name: float(score) if np.isfinite(score) else None
        for image, score in zip(images, scores, strict=True)
    }
    return comparison.Row(name, measures, told, found.note, kept(order[:few]), kept(best))


def _restored(run: Run, which: str) -> tuple[int, FunctionalModel, Variables]:
    model = FunctionalModel(run.task.model)
    step, variables = checkpoint.restore_variables(run.workdir, which, model)
    return step, model, variables


def _by_threshold(image: JudgedImage) -> np.ndarray:
    return threshold.threshold_and_watershed(image.picture())


def _save(path: Path, origin: Mapping[str, Any], found: Findings) -> None:
    arrays = {f"labels{k}": labels for k, labels in enumerate(found.labels)}
    arrays |= {f"confidence{k}": own for k, own in enumerate(found.confidence or ())}
    facts = json.dumps({"origin": origin, "note": found.note, "images": len(found.labels)})
    with files.replacing(path, _AGAIN) as partial, partial.open("wb") as file:
        np.savez_compressed(file, facts=np.array(facts), **arrays)  # pyright: ignore[reportArgumentType]


def _load(path: Path, origin: Mapping[str, Any]) -> Findings | None:
    """Returns what was kept; None where nothing serves."""
    try:
        with np.load(path) as kept:
            facts = json.loads(str(kept["facts"]))
            if facts["origin"] != json.loads(json.dumps(origin)):
                return None
            labels = [kept[f"labels{k}"] for k in range(facts["images"])]
            confidence = [kept[f"confidence{k}"] for k in range(facts["images"]) if f"confidence{k}" in kept]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return Findings(labels, confidence or None, facts["note"])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
