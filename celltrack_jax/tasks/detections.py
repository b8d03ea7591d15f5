"""What Mask R-CNN finds in an image: boxes, scores, classes and soft masks, and the one label map made of them.

Shapes: Y, X the image, L levels, P proposals, K detections, C classes, m pixels of a mask along each axis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.models.mask_rcnn import MASK_SIZE, BoxRegions, MaskRegions
from celltrack_jax.ops import boxes as box_maths
from celltrack_jax.ops import nms, paste
from celltrack_jax.ops.distance import largest_of_batch
from celltrack_jax.representations import instances
from celltrack_jax.tasks.regions import Proposing, Sampling, propose

_CHUNK = 64
"""Detections whose masks are told at once."""


@dataclass(frozen=True)
class Detecting:
    """What is kept of what the network says, whatever the class."""

    count: int
    """K; the detections with the lowest scores are lost beyond it."""
    min_score: float
    """Below this nothing is a detection, nor does it say of which class the image is."""
    one_class: bool
    """Whether an image has cells of one class: that of most detections; the others are dropped."""

    def __post_init__(self):
        if self.count < 1 or not 0 <= self.min_score < 1:
            raise InputError(
                f"config.detection: count {self.count} is at least 1, min_score {self.min_score} lies in [0, 1)"
            )


@dataclass(frozen=True)
class Rules:
    """How anchors become detections, whatever the class."""

    proposing: Proposing
    sampling: Sampling
    """Of it the weights of the boxes matter here; the rest is for training."""
    detecting: Detecting


@dataclass(frozen=True)
class ClassReading:
    """How detections of one class are read."""

    score: float
    """They exceed it."""
    nms_iou: float
    """Of two whose boxes overlap by more, the one with the lower score is dropped."""
    pixel: float
    """A pixel belongs to a detection where its mask exceeds this."""
    min_area: float
    """Least sum of the soft mask, pixels."""
    max_area: float
    """Largest one."""
    min_pixels: int
    """Cells with fewer pixels in the label map are removed."""


class Reading(NamedTuple):
    """`ClassReading` of all classes, as arrays, so that other thresholds need no other program."""

    score: np.ndarray
    """(C,) float32, as all the others."""
    nms_iou: np.ndarray
    pixel: np.ndarray
    min_area: np.ndarray
    max_area: np.ndarray
    min_pixels: np.ndarray


class Detections(NamedTuple):
    """What is found in an image, from the highest score down."""

    boxes: jax.Array
    """(K, 4) float32."""
    scores: jax.Array
    """(K,) float32, the probability of the class."""
    classes: jax.Array
    """(K,) int32."""
    masks: jax.Array
    """(K, m, m) float32, the probability of each part of the box to be the cell's."""
    valid: jax.Array
    """(K,) bool; the other rows, behind these, are padding."""
    lost: jax.Array
    """() int32, detections beyond K."""


class Found(NamedTuple):
    """The cells of an image."""

    labels: np.ndarray
    """(Y, X) int32, 1..n, 0 background; lower labels have higher scores."""
    score: np.ndarray
    """(n,) float32."""
    category: np.ndarray
    """(n,) int32."""


def reading_of(per_class: Mapping[str, Mapping[str, Any]], categories: Sequence[str]) -> Reading:
    """Reads a config's `detection.per_class`.

    Args:
      per_class: settings of `ClassReading` by category.
      categories: C names, in the order of the classes.

    Raises:
      InputError: a category lacks, or one is not known.
    """
    if set(per_class) != set(categories):
        raise InputError(
            f"config.detection.per_class is of {sorted(per_class)}: give it for {sorted(categories)}, the categories of "
            "config.data"
        )
    rows = [from_mapping(ClassReading, per_class[name], f"detection.per_class.{name}") for name in categories]
    return Reading(*(np.array([getattr(row, name) for row in rows], np.float32) for name in Reading._fields))


def detect(
    apply: Callable[[Any], Any],
    image: jax.Array,
    size: jax.Array,
    levels: Sequence[np.ndarray],
    reading: Reading,
    rules: Rules,
) -> Detections:
    """Applies the network to a whole image; the cost of masks goes with their number, the program does not.

    Args:
      apply: the network, `models.mask_rcnn.MaskRCNN`, with its parameters.
      image: (Y, X, C) float32, padded.
      size: (2,) int32 y, x without the padding.
      levels: anchors over the padded image.
      reading: of the classes.
      rules: of the config.
    """
    pyramid, every = _told(apply, image, size, levels, rules)
    _, chosen = _choose(every, reading, rules.detecting)
    masks = _masks(apply, pyramid, chosen.boxes, chosen.classes, chosen.valid.sum())
    return chosen._replace(masks=masks)


def candidates(
    apply: Callable[[Any], Any],
    image: jax.Array,
    size: jax.Array,
    levels: Sequence[np.ndarray],
    rules: Rules,
) -> Detections:
    """Finds all N boxes, of any class, that some thresholds would make detections, with their masks.

    Arguments as of `detect`; `choose` reads them.
    """
    pyramid, every = _told(apply, image, size, levels, rules)
    order = jnp.argsort(-every.scores)
    boxes, scores, classes = (each[order] for each in every)
    valid = jnp.isfinite(scores)
    masks = _masks(apply, pyramid, boxes, classes, valid.sum())
    return Detections(boxes, scores, classes, masks, valid, jnp.int32(0))


def choose(found: Detections, reading: Reading, detecting: Detecting) -> Detections:
    """Makes of `candidates` what `detect` finds with a reading; traceable, and one program for any thresholds."""
    row, chosen = _choose(_Boxes(found.boxes, found.scores, found.classes), reading, detecting)
    masks = jnp.where(chosen.valid[:, None, None], jnp.asarray(found.masks)[row], 0.0)
    return chosen._replace(masks=masks)


class _Boxes(NamedTuple):
    """Boxes before any is suppressed."""

    boxes: jax.Array
    """(N, 4) float32, one for each proposal and class."""
    scores: jax.Array
    """(N,) float32; -inf where it is none."""
    classes: jax.Array
    """(N,) int32."""


def _told(
    apply: Callable[[Any], Any],
    image: jax.Array,
    size: jax.Array,
    levels: Sequence[np.ndarray],
    rules: Rules,
) -> tuple[Any, _Boxes]:
    """Returns the pyramid, and what the network says of each proposal."""
    told = apply(image[None])
    proposals, _ = propose(
        [x[0] for x in told.objectness], [x[0] for x in told.deltas], levels, size, rules.proposing
    )
    said = apply(BoxRegions(told.pyramid, proposals[None]))
    probability = jax.nn.softmax(said.logits[0])[:, 1:]
    placed = box_maths.decode(said.deltas[0], proposals[:, None], rules.sampling.weights)
    placed = box_maths.clip(placed, size).reshape(-1, 4)
    likely = (box_maths.areas(proposals) > 0)[:, None] & (probability > rules.detecting.min_score)
    score = jnp.where(likely, probability, -jnp.inf).reshape(-1)
    kind = jnp.tile(jnp.arange(probability.shape[1]), len(proposals))
    return told.pyramid, _Boxes(placed, score, kind)


def _choose(every: _Boxes, reading: Reading, detecting: Detecting) -> tuple[jax.Array, Detections]:
    """Returns (K,) the row of each detection, and the detections, still without masks."""
    kept = nms.best(
        every.boxes, every.scores, jnp.asarray(reading.nms_iou)[every.classes], detecting.count, every.classes
    )
    score, kind, valid = every.scores[kept.row], every.classes[kept.row], kept.valid
    if detecting.one_class:
        votes = jnp.zeros(len(reading.score), jnp.int32).at[kind].add(valid.astype(jnp.int32))
        valid &= kind == votes.argmax()
    valid &= score > jnp.asarray(reading.score)[kind]
    first = jnp.argsort(~valid, stable=True)
    row, valid, kind = kept.row[first], valid[first], kind[first]
    boxes = jnp.where(valid[:, None], every.boxes[row], 0.0)
    nothing = jnp.zeros((len(row), 0, 0), jnp.float32)
    return row, Detections(boxes, jnp.where(valid, score[first], 0.0), kind, nothing, valid, kept.lost)


def _masks(
    apply: Callable[[Any], Any], pyramid: Any, boxes: jax.Array, kind: jax.Array, count: jax.Array
) -> jax.Array:
    """(K, m, m) float32 probabilities of the first `count` boxes (K, 4), each of its own class (K,); zeros behind."""
    padding = -len(boxes) % _CHUNK
    padded, kinds = jnp.pad(boxes, ((0, padding), (0, 0))), jnp.pad(kind, (0, padding))

    def tell(number: jax.Array, masks: jax.Array) -> jax.Array:
        start = number * _CHUNK
        own, of = (lax.dynamic_slice_in_dim(each, start, _CHUNK) for each in (padded, kinds))
        logits = apply(MaskRegions(pyramid, own[None]))[0]
        chosen = jnp.take_along_axis(logits, of[:, None, None, None], -1)[..., 0]
        return lax.dynamic_update_slice_in_dim(masks, jax.nn.sigmoid(chosen), start, 0)

    chunks = largest_of_batch((count + _CHUNK - 1) // _CHUNK)
    nothing = jnp.zeros((len(padded), MASK_SIZE, MASK_SIZE), jnp.float32)
    masks = lax.fori_loop(0, chunks, tell, nothing)[: len(boxes)]
    return jnp.where((jnp.arange(len(boxes)) < count)[:, None, None], masks, 0.0)


def paint(found: Detections, reading: Reading, size: tuple[int, int]) -> jax.Array:
    """(Y, X) int32: k + 1 where detection k is, 0 elsewhere; traceable, and one program for any thresholds."""
    of = [jnp.asarray(each)[found.classes] for each in (reading.pixel, reading.min_area, reading.max_area)]
    areas = jnp.stack(of[1:], -1)
    return paste.paint(found.masks, found.boxes, of[0], areas, found.valid, size)[0]


def finish(painted: np.ndarray, found: Detections, reading: Reading) -> Found:
    """Fills holes, removes what is too small, and numbers the cells in a row; on the host.

    Args:
      painted: (Y, X) int32, of `paint`.
      found: what was painted.
      reading: of the classes.
    """
    filled = instances.fill_holes(painted)
    category = np.asarray(found.classes)
    pixels = np.bincount(filled.reshape(-1), minlength=len(category) + 1)[1:]
    kept = (pixels > 0) & (pixels >= reading.min_pixels[category])
    number = np.append(0, np.cumsum(kept) * kept).astype(np.int32)
    return Found(number[filled], np.asarray(found.scores)[kept], category[kept])
