"""Dense prediction: crops of frames -> a map of cells, judged on whole held-out frames.

Shapes: B batch, S spatial axes (Y, X in 2D; Z, Y, X in 3D), R the read size (S plus margins), C channels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.config import Config
from celltrack_jax.data import augment, store
from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics import ctc, instances
from celltrack_jax.metrics.overlap import Overlap
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.representations.heatmap import Heatmap
from celltrack_jax.tasks.frames import HEAD, FrameTask, labelled, seen
from celltrack_jax.tasks.outlines import OutlineData
from celltrack_jax.tracking import features, links, tracks

_THRESHOLDS = (0.25, 0.5, 0.75)
"""IoU of the instance measures."""


class _Judged(NamedTuple):
    """What held-out frames of a sequence tell."""

    measures: dict[str, float | None]
    """Of the sequence alone."""
    gold: list[Overlap]
    """With the truth, one per frame whose cells are all outlined."""
    silver: list[Overlap]
    """With silver outlines, one per frame that has them, if they are used."""


def build(config: Config) -> "DenseTask":
    """Makes the task from a config."""
    return DenseTask(config)


class DenseTask(OutlineData, FrameTask):
    """Learns one representation of the cells from crops; the Task protocol of `celltrack_jax.tasks`."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: as of `FrameTask`.
        """
        super().__init__(config)
        if isinstance(self.representation, Heatmap) and self.representation.step_weight:
            raise InputError(
                f"representation.step_weight is {self.representation.step_weight}, but masks of single frames tell no "
                'steps: set it to 0, or take the task "detect"'
            )

    def loss(
        self,
        apply: Callable[..., tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Augments, makes targets, predicts and compares; all on the device."""

        def prepare(image: jax.Array, labels: jax.Array, spacing: jax.Array, key: jax.Array) -> Any:
            image, labels = augment.augment(image, labels, key, size=self.crop, spec=self.augmentation)
            return image, self.representation.target(labels, spacing / jnp.min(spacing))

        image, target = jax.vmap(prepare)(batch["image"], batch["labels"], batch["spacing"], keys)
        outputs, stats = self._outputs(apply, image, keys)
        value, metrics = self.representation.loss(outputs[HEAD], target, step)
        return value, stats, metrics

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Scores held-out frames: CTC and instance measures, for the images as they are and with less contrast.

        Measures against silver outlines, where `data.silver` takes them, have the prefix "silver/".
        """
        forward = self.predictor(model, variables)
        scores: dict[str, float | None] = {}
        halves = []
        for contrast in self.config.evaluation.contrasts:
            judged = self._judge(forward, contrast, stop)
            if judged is None:
                return None
            prefix = "" if contrast == 1 else f"contrast_{contrast:g}/"
            row = _mean([one.measures for one in judged])
            row |= _of_instances([overlap for one in judged for overlap in one.gold])
            silver = _of_instances([overlap for one in judged for overlap in one.silver])
            row |= {f"silver/{key}": value for key, value in silver.items()}
            scores |= {prefix + key: value for key, value in row.items()}
            outlines = "silver/SEG" if row.get("SEG") is None else "SEG"
            halves += [value for value in (row.get(outlines), row.get("TRA")) if value is not None]
        # Held-out frames may lack outlines or tracks: what is judged of OP_CTB's two halves decides then.
        scores["score"] = float(np.mean(halves)) if halves else None
        return scores

    def overlaps(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> dict[str, list[Overlap]] | None:
        """Returns how the cells of held-out frames overlap with "gold" and with "silver" outlines, as `evaluate` sees
        them in the images as they are; None when `stop()` became true."""
        judged = self._judge(self.predictor(model, variables), 1.0, stop)
        if judged is None:
            return None
        return {
            "gold": [overlap for one in judged for overlap in one.gold],
            "silver": [overlap for one in judged for overlap in one.silver],
        }

    def _judge(self, forward: Callable, contrast: float, stop: Callable[[], bool]) -> list[_Judged] | None:
        judged = []
        for sequence, held_out in self._held_out():
            one = self._judge_sequence(sequence, held_out, forward, contrast, stop)
            if stop():
                return None
            judged += [one] if one else []
        return judged

    def _judge_sequence(
        self,
        sequence: store.StoredSequence,
        held_out: list[int],
        forward: Callable,
        contrast: float,
        stop: Callable[[], bool],
    ) -> _Judged | None:
        tracked, more = self._judged_frames(sequence, held_out)
        if not tracked:
            return None
        labelled = list(self._segment(sequence, sorted({*tracked, *more}), forward, contrast, stop))
        if stop() or not labelled:
            return None
        apart = {int(sequence.frames[t]) for t in more}
        chain = [(t, labels) for t, labels in labelled if t not in apart]
        spacing = np.asarray(sequence.spacing_um)
        found = features.detections_from_masks(chain, spacing)
        parent = links.hungarian(found, **self.config.tracking.to_dict())
        painter = tracks.TrackPainter(
            found, parent, [t for t, _ in chain], spacing, fill_gaps=True, min_length=1
        )
        painted = {t: labels if t in apart else painter.paint(t, labels) for t, labels in labelled}
        lineage, window = painter.lineage(), self._window(sequence)
        return _measures(sequence, tracked, more, painted, lineage, window, silver=self.config.data.silver)

    def _judged_frames(
        self, sequence: store.StoredSequence, held_out: list[int]
    ) -> tuple[list[int], list[int]]:
        """Held-out frames that are tracked, and more, with gold outlines, of which the outlines alone are judged.

        Where silver outlines hold out whole stretches of a movie, gold ones are too rare to be met in its first frames.
        """
        most = self.config.evaluation.max_frames
        gold = [t for t in held_out if labelled(sequence, "segmentation", t)]
        if not self.config.data.silver or len(set(gold) & set(held_out[:most])) >= min(most // 2, len(gold)):
            return held_out[:most], []
        more = [t for t in gold if t not in held_out[: most - most // 2]][: most // 2]
        return [t for t in held_out if t not in more][: most - len(more)], more

    def _segment(
        self,
        sequence: store.StoredSequence,
        frames: list[int],
        forward: Callable,
        contrast: float,
        stop: Callable[[], bool],
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (frame number, labels) of the evaluation window; decoding overlaps the next forward pass."""
        spacing = self.lengths(np.asarray(sequence.spacing_um)[-self.ndim :])

        def decode(predicted: tuple[int, Callable[[], np.ndarray]]) -> tuple[int, np.ndarray]:
            t, output = predicted
            return int(sequence.frames[t]), self.representation.decode(output(), spacing)

        yield from threads.mapped(decode, self._predictions(sequence, frames, forward, contrast, stop), 2)


def _measures(
    sequence: store.StoredSequence,
    tracked: list[int],
    more: list[int],
    result: dict[int, np.ndarray],
    lineage: Lineage,
    window: tuple[slice, ...],
    *,
    silver: bool,
) -> _Judged:
    """CTC measures from the tracking markers of tracked frames, and from the outlines of these and more."""
    tracking, segmentation, complete, computed = [], [], [], []
    for t in sorted({*tracked, *more}):
        number = int(sequence.frames[t])
        found = result[number].reshape([part.stop - part.start for part in window])
        if t in tracked and labelled(sequence, "markers", t):
            tracking.append(ctc.overlap(_truth(sequence, "markers", t, window), found, number))
        planes = _annotated_planes(sequence, t, window)
        if labelled(sequence, "segmentation", t) and planes:
            truth = _truth(sequence, "segmentation", t, window)
            segmentation.append(ctc.overlap(truth[planes], found[planes], number))
            if sequence.annotation[t] == "full":
                complete.append(segmentation[-1])
        if silver and labelled(sequence, "silver", t):
            computed.append(ctc.overlap(_truth(sequence, "silver", t, window), found, number))
    truth_lineage = seen(tracking, sequence.lineage)
    scores = ctc.ctc_measures(tracking or None, truth_lineage, lineage, segmentation or None)
    chosen = {key: scores[key] for key in ("SEG", "DET", "TRA", "LNK", "OP_CSB", "OP_CTB")}
    if complete:
        whole = instances.instance_measures(complete, thresholds=(0.5,))
        chosen |= {"AP50": whole["AP"][0.5], "F1_50": whole["F1"][0.5], "PQ": whole["PQ"]}
    if computed:
        chosen["silver/SEG"] = ctc.segmentation_accuracy(computed)
    return _Judged(chosen, complete, computed)


def _of_instances(overlaps: Sequence[Overlap]) -> dict[str, float | None]:
    """Pixel IoU, and precision and recall of the cells of all frames together; nothing where there is no frame."""
    if not overlaps:
        return {}
    whole = instances.instance_measures(overlaps, _THRESHOLDS)
    scores = {"IoU": instances.pixel_iou(overlaps)}
    for threshold in _THRESHOLDS:
        name = f"{100 * threshold:.0f}"
        scores |= {f"P_{name}": whole["precision"][threshold], f"R_{name}": whole["recall"][threshold]}
    return scores


def _mean(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Averages each measure over the sequences that have it."""
    means = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [value for row in rows if (value := row.get(key)) is not None]
        means[key] = float(np.mean(values)) if values else None
    return means


def _truth(sequence: store.StoredSequence, kind: str, t: int, window: tuple[slice, ...]) -> np.ndarray:
    return np.asarray(sequence.labels[kind][(t, 0, *window)].read().result(), np.int64)


def _annotated_planes(sequence: store.StoredSequence, t: int, window: tuple[slice, ...]) -> list[int]:
    """Returns the segmented planes of a frame, counted from the window's first one."""
    shown = range(window[0].start, window[0].stop)
    return [z - shown.start for z in sequence.planes.get(t, shown) if z in shown]
