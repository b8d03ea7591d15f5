"""What links are expected to cost in AOGM, from how likely each decision is.

The most probable lineage is not the one of the lowest expected AOGM: there a missed link costs more than a wrong one, and
to leave out a true cell ten times what a false one costs. `ilp` finds the best lineage under these costs as well.

Shapes: N detections, E candidates.
"""

import numpy as np
from scipy.special import expit

from celltrack_jax.metrics.aogm import WEIGHTS
from celltrack_jax.tracking.scored_links import Costs


def expected_aogm(
    frame: np.ndarray, source: np.ndarray, target: np.ndarray, nats: Costs, *, reject: float
) -> Costs:
    """Turns negative log-odds into expected AOGM.

    Of a detection exactly one is true: one of its candidate sources is its predecessor, it appears, or it is false. A
    network answers these questions one by one, so its probabilities are divided by their sum; without a candidate it is
    false or appears, whatever was said about the latter. With p of a link over g
    skipped frames, in which the cell is drawn, and the weights of Matula et al. 2015 (doi:10.1371/journal.pone.0144959),

        link      (1 - p) max(g FP, ED) - p ((g + 1) EA + g FN)     edges at a drawn cell that is none are not counted
        division  (1 - 2 p) EC                                      of the daughter that would be linked anyway
        left out  (1 - p) reject - p FP

    and beginning or ending costs nothing. Whether decisions are right together is not looked at, so a division whose
    other daughter is wrong counts as if it were right.

    Args:
      frame: (N,) integers.
      source: (E,) integers.
      target: (E,) integers.
      nats: negative log-odds, such as `learned.costs` gives.
      reject: what it costs to leave out a true cell, in AOGM; FN there, less where false cells disturb more.

    Returns:
      Costs whose sum over a lineage is its expected AOGM, but for a constant.

    Raises:
      ValueError: `reject` is negative.
    """
    if reject < 0:
        raise ValueError(f"reject={reject} must not be negative")
    link, false = _of_one_past(target, nats)
    gap = frame[target] - frame[source] - 1
    wrong = np.maximum(gap * WEIGHTS["FP"], WEIGHTS["ED"])
    right = (gap + 1) * WEIGHTS["EA"] + gap * WEIGHTS["FN"]
    nothing = np.zeros(len(frame))
    return Costs(
        edge=np.where(np.isposinf(nats.edge), np.inf, (1 - link) * wrong - link * right),
        appear=nothing,
        disappear=nothing,
        divide=np.where(np.isposinf(nats.divide), np.inf, WEIGHTS["EC"] * (1 - 2 * expit(-nats.divide))),
        false=np.where(np.isposinf(nats.false), np.inf, (1 - false) * reject - false * WEIGHTS["FP"]),
    )


def _of_one_past(target: np.ndarray, nats: Costs) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (E,) of the links and (N,) of being false, such that those of a detection's pasts add up to 1."""
    link, appear, false = (expit(-cost) for cost in (nats.edge, nats.appear, nats.false))
    alone = np.bincount(target, minlength=len(appear)) == 0
    appear = np.where(alone, 1 - false, appear)
    total = appear + false + np.bincount(target, link, len(appear))
    total = np.where(total > 0, total, 1)
    return link / total[target], false / total
