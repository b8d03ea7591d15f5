"""What Mask R-CNN learns and finds in one image: pure functions of arrays of static sizes, vmapped by the caller.

The rules are those of docs/originals.md, 3.3 and 3.6. Losses are divided by fixed counts, not by how many boxes
happen to take part. Shapes: Y, X the image, L levels, n anchors of a level, N of all, P proposals, R regions, M of them
that may have a mask, K true boxes (those of padding have no area), C classes, m pixels of a mask along each axis.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from celltrack_jax.errors import InputError
from celltrack_jax.ops import anchors, assignment, nms, roi_align
from celltrack_jax.ops import boxes as box_maths
from celltrack_jax.ops.assignment import NEGATIVE, POSITIVE
from celltrack_jax.ops.peaks import highest

_ANCHOR_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
_MASK_SAMPLES = 2
"""Along each axis of a pixel of a mask's target."""


@dataclass(frozen=True)
class Proposing:
    """How anchors become proposals, and what they learn."""

    sizes: tuple[tuple[float, ...], ...]
    """Of the anchors of each level, pixels: square roots of areas."""
    ratios: tuple[float, ...]
    """Height over width."""
    before: int
    """Anchors of each level, the likeliest ones, that suppression sees."""
    count: int
    """P: proposals of all levels together that are left."""
    nms_iou: float
    positive_iou: float
    """Anchors that overlap with a cell by at least this are positive, beside the best one of each cell."""
    negative_iou: float
    """Those below this with all cells are negative."""
    samples: int
    """Anchors of an image that count in the loss."""
    positive_share: float
    """Of them, at most."""
    max_unknown: float
    """Boxes of which more is unknown are no negatives; of regions too."""

    def __post_init__(self):
        shares = (self.nms_iou, self.positive_iou, self.negative_iou, self.positive_share, self.max_unknown)
        if min(shares) < 0 or max(shares) > 1 or self.negative_iou > self.positive_iou:
            raise InputError(
                "config.proposals: nms_iou, positive_share and max_unknown lie in 0..1, and so do negative_iou <= "
                f"positive_iou, but they are {shares}"
            )
        if min(self.before, self.count, self.samples) < 1:
            raise InputError("config.proposals: before, count and samples are at least 1")
        if len({len(sizes) for sizes in self.sizes}) != 1:
            raise InputError(f"config.proposals.sizes {self.sizes}: give each level as many sizes")

    @property
    def per_place(self) -> int:
        """Anchors of each place of a level."""
        return len(self.sizes[0]) * len(self.ratios)


@dataclass(frozen=True)
class Sampling:
    """Which proposals learn classes, boxes and masks."""

    samples: int
    """R."""
    positive_share: float
    """M / R."""
    positive_iou: float
    """Proposals that overlap with a cell by at least this are positive, the others negative."""
    weights: tuple[float, float, float, float]
    """Of the differences between boxes, see `ops.boxes.encode`."""

    def __post_init__(self):
        if not (0 < self.positive_share <= 1 and 0 < self.positive_iou <= 1 and self.samples > 0):
            raise InputError(
                f"config.regions: samples {self.samples} are at least 1, positive_share {self.positive_share} and "
                f"positive_iou {self.positive_iou} lie in (0, 1]"
            )

    @property
    def positives(self) -> int:
        """M."""
        return max(1, int(self.samples * self.positive_share))


class Truth(NamedTuple):
    """What is known of an image."""

    labels: jax.Array
    """(Y, X) int32: cells 1.., 0 background, -1 unknown."""
    boxes: jax.Array
    """(K, 4) float32; row k is cell k + 1."""
    category: jax.Array
    """() int32, the class of all its cells; -1 unknown."""


class Regions(NamedTuple):
    """Boxes that learn, positives first."""

    boxes: jax.Array
    """(R, 4) float32."""
    role: jax.Array
    """(R,) int32, see `ops.assignment`."""
    truth: jax.Array
    """(R,) int32, row of the true box."""


def truth_of(labels: jax.Array, category: jax.Array, max_cells: int) -> Truth:
    """Reads boxes from a label map: K is max_cells, and cells with greater ids are left out."""
    return Truth(labels, box_maths.of_labels(labels, max_cells), category)


def make_anchors(size: Sequence[int], strides: Sequence[int], spec: Proposing) -> list[np.ndarray]:
    """(n, 4) float32 anchors of each level over an image of Y, X pixels."""
    return anchors.pyramid_anchors(size, strides, spec.sizes, spec.ratios)


def anchor_losses(
    objectness: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    levels: Sequence[np.ndarray],
    truth: Truth,
    key: jax.Array,
    spec: Proposing,
) -> tuple[jax.Array, jax.Array]:
    """What the network says of a random sample of anchors, against the truth.

    Args:
      objectness: per level (n,) float32 logits.
      deltas: per level (n, 4) float32.
      levels: anchors, (n, 4) float32 each.
      truth: of the image.
      key: random key.
      spec: of the proposals.

    Returns:
      () float32 loss of objectness, and of the boxes of positives.
    """
    # The compiler would fold what is made of constants alone, for seconds.
    every = lax.optimization_barrier(jnp.concatenate([jnp.asarray(level) for level in levels]))
    matches = assignment.match(
        every,
        truth.boxes,
        box_maths.shares(truth.labels < 0, every),
        positive_iou=spec.positive_iou,
        negative_iou=spec.negative_iou,
        best_of_truth=True,
        max_unknown=spec.max_unknown,
    )
    count = min(spec.samples, len(every))
    most = max(1, int(count * spec.positive_share))
    drawn = assignment.sample(key, matches.role, count, most)
    said = assignment.take(jnp.concatenate(objectness), drawn.row)
    positive, used = drawn.role == POSITIVE, drawn.role >= NEGATIVE
    entropy = jax.nn.softplus(said) - jnp.where(positive, said, 0.0)

    index = drawn.row[:most]
    true = assignment.take(truth.boxes, assignment.take(matches.truth, index))
    wanted = box_maths.encode(true, assignment.take(every, index), _ANCHOR_WEIGHTS)
    off = jnp.abs(assignment.take(jnp.concatenate(deltas), index) - wanted).sum(-1)
    return (
        jnp.where(used, entropy, 0.0).sum() / spec.samples,
        jnp.where(positive[:most], off, 0.0).sum() / spec.samples,
    )


def propose(
    objectness: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    levels: Sequence[np.ndarray],
    size: jax.Array | Sequence[int],
    spec: Proposing,
) -> tuple[jax.Array, jax.Array]:
    """The boxes that the network proposes: the likeliest of each level, without those that overlap, P of them all.

    Args:
      objectness: per level (n,) float32 logits.
      deltas: per level (n, 4) float32.
      levels: anchors, (n, 4) float32 each.
      size: y, x of the image without its padding; boxes are cut to it. May be traced.
      spec: of the proposals.

    Returns:
      (P, 4) float32 boxes from the likeliest down, zeros for padding, and (P,) float32 logits, -inf for padding.
    """
    boxes, scores = [], []
    for logits, moves, own in zip(objectness, deltas, levels, strict=True):
        score, row = highest(logits, min(spec.before, len(own)))
        box = box_maths.decode(assignment.take(moves, row), jnp.asarray(own)[row], _ANCHOR_WEIGHTS)
        padding = (0, spec.before - len(row))
        boxes.append(jnp.pad(box_maths.clip(box, size), (padding, (0, 0))))
        scores.append(jnp.pad(score, padding, constant_values=-jnp.inf))
    # As many rows for each level, so that one program settles all.
    box, score = jnp.stack(boxes), jnp.stack(scores)
    kept = jax.vmap(functools.partial(nms.survivors, threshold=spec.nms_iou))(box, score)
    box, score = box.reshape(-1, 4), jnp.where(kept, score, -jnp.inf).reshape(-1)
    score, row = lax.top_k(score, min(spec.count, len(score)))
    return jnp.where(jnp.isfinite(score)[:, None], box[row], 0.0), score


def draw_regions(
    proposals: jax.Array, truth: Truth, key: jax.Array, spec: Sampling, max_unknown: float
) -> Regions:
    """Draws the boxes that learn from proposals (P, 4) and, so that there are positives from the start, true boxes."""
    every = jnp.concatenate([truth.boxes, proposals])
    matches = assignment.match(
        every,
        truth.boxes,
        box_maths.shares(truth.labels < 0, every),
        positive_iou=spec.positive_iou,
        negative_iou=spec.positive_iou,
        best_of_truth=False,
        max_unknown=max_unknown,
    )
    drawn = assignment.sample(key, matches.role, min(spec.samples, len(every)), spec.positives)
    boxes = assignment.take(every, drawn.row)
    return Regions(boxes, drawn.role, assignment.take(matches.truth, drawn.row))


def box_losses(
    logits: jax.Array, deltas: jax.Array, regions: Regions, truth: Truth, spec: Sampling
) -> tuple[jax.Array, jax.Array]:
    """What the network says of regions, against the truth; positives of an image whose class is unknown are left out.

    Args:
      logits: (R, 1 + C) float32, of background and of each class.
      deltas: (R, C, 4) float32.
      regions: as drawn.
      truth: of the image.
      spec: of the regions.

    Returns:
      () float32 loss of classes, and of the boxes of positives.
    """
    known = truth.category >= 0
    positive = (regions.role == POSITIVE) & known
    used = positive | (regions.role == NEGATIVE)
    own = jnp.maximum(truth.category, 0)
    said = jax.nn.log_softmax(logits)
    entropy = -jnp.where(positive, said[:, 1 + own], said[:, 0])
    wanted = box_maths.encode(assignment.take(truth.boxes, regions.truth), regions.boxes, spec.weights)
    off = jnp.abs(deltas[:, own] - wanted).sum(-1)
    return (
        jnp.where(used, entropy, 0.0).sum() / spec.samples,
        jnp.where(positive, off, 0.0).sum() / spec.samples,
    )


def mask_loss(logits: jax.Array, regions: Regions, truth: Truth, spec: Sampling) -> jax.Array:
    """What the network says of the masks of the first M regions, against the label map.

    Args:
      logits: (M, m, m, C) float32.
      regions: as drawn; positives stand first.
      truth: of the image.
      spec: of the regions.

    Returns:
      () float32: cross entropy in the class's channel, the mean over known pixels, over M.
    """
    count, pixels = logits.shape[:2]
    own = regions.truth[:count]
    target, known = roi_align.mask_targets(
        truth.labels, own + 1, regions.boxes[:count], size=pixels, samples=_MASK_SAMPLES
    )
    said = logits[..., jnp.maximum(truth.category, 0)]
    # Halves of a pixel may be unknown: the target is the share of what is known.
    target = target / jnp.where(known > 0, known, 1.0)
    entropy = known * (jax.nn.softplus(said) - target * said)
    total = known.sum((1, 2))
    each = entropy.sum((1, 2)) / jnp.where(total > 0, total, 1.0)
    positive = (regions.role[:count] == POSITIVE) & (truth.category >= 0)
    return jnp.where(positive, each, 0.0).sum() / spec.positives


def recall(proposals: jax.Array, truth: Truth, iou: float) -> jax.Array:
    """() float32: share of the true boxes that a proposal (P, 4) overlaps with by `iou` or more; 1 without any."""
    real = box_maths.areas(truth.boxes) > 0
    met = real & (box_maths.pairwise_iou(truth.boxes, proposals).max(1) >= iou)
    return jnp.where(real.any(), met.sum() / jnp.maximum(real.sum(), 1), 1.0)
