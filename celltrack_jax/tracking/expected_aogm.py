"""What links are expected to cost in AOGM, from how likely each decision is.

The most probable lineage is not the one of the lowest expected AOGM: there a missed link costs more than a wrong one, and
to leave out a true cell ten times what a false one costs. `ilp` finds the best lineage under these costs as well.

Shapes: N detections, E candidates.
"""

import numpy as np
from scipy.special import expit

from celltrack_jax.metrics.aogm import WEIGHTS
from celltrack_jax.tracking.scored_links import Costs

_SURE = 30.0
"""Nats beyond which an answer is as good as certain."""


def expected_aogm(
    frame: np.ndarray, source: np.ndarray, target: np.ndarray, nats: Costs, *, reject: float, drawn: float
) -> Costs:
    """Turns negative log-odds into expected AOGM.

    A network answers questions about a detection one by one, and its answers are made to fit together. Exactly one is
    true: one of its candidate sources is its predecessor, it appears, or it is false; the probabilities of these are
    divided by their sum. And it is false with the odds of that against those of a past times those of a future: of an
    appearance or any link to it, and of a disappearance or any link from it. With p of a link over g skipped frames,
    in which the cell is drawn and lies right there with probability q, 1 without a gap, and with the weights of Matula
    et al. 2015 (doi:10.1371/journal.pone.0144959),

        link      (1 - p) max(g FP, ED) + p ((1 - q) g FP - q ((g + 1) EA + g FN))
        division  (1 - 2 p) EC
        left out  (1 - p) reject - p FP

    and beginning or ending costs nothing. Edges at a drawn cell that is none are not counted; the EC of a division is of
    the daughter that would be linked anyway. Whether decisions are right together is not looked at, so a division whose
    other daughter is wrong counts as if it were right.

    Args:
      frame: (N,) integers.
      source: (E,) integers.
      target: (E,) integers.
      nats: negative log-odds, such as `learned.costs` gives.
      reject: what it costs to leave out a true cell, in AOGM; FN there, less where false cells disturb more.
      drawn: q, from 0 to 1.

    Returns:
      Costs whose sum over a lineage is its expected AOGM, but for a constant.

    Raises:
      ValueError: `reject` is negative, or `drawn` no probability.
    """
    if reject < 0:
        raise ValueError(f"reject={reject} must not be negative")
    if not 0 <= drawn <= 1:
        raise ValueError(f"drawn={drawn} must be between 0 and 1")
    link, false = _links(target, nats), _false(source, target, nats)
    gap = frame[target] - frame[source] - 1
    wrong = np.maximum(gap * WEIGHTS["FP"], WEIGHTS["ED"])
    there = np.where(gap > 0, drawn, 1.0)
    right = there * ((gap + 1) * WEIGHTS["EA"] + gap * WEIGHTS["FN"]) - (1 - there) * gap * WEIGHTS["FP"]
    nothing = np.zeros(len(frame))
    return Costs(
        edge=np.where(np.isposinf(nats.edge), np.inf, (1 - link) * wrong - link * right),
        appear=nothing,
        disappear=nothing,
        divide=np.where(np.isposinf(nats.divide), np.inf, WEIGHTS["EC"] * (1 - 2 * expit(-nats.divide))),
        false=np.where(np.isposinf(nats.false), np.inf, (1 - false) * reject - false * WEIGHTS["FP"]),
    )


def _links(target: np.ndarray, nats: Costs) -> np.ndarray:
    """Probabilities (E,) that add up to 1 over the pasts of a detection."""
    link, appear, false = (expit(-cost) for cost in (nats.edge, nats.appear, nats.false))
    total = appear + false + np.bincount(target, link, len(appear))
    return link / np.where(total > 0, total, 1)[target]


def _false(source: np.ndarray, target: np.ndarray, nats: Costs) -> np.ndarray:
    """Probabilities (N,) of being false against having a past and a future."""
    link, appear, disappear, _, false = (np.exp(np.clip(-cost, -_SURE, _SURE)) for cost in nats)
    past = appear + np.bincount(target, link, len(appear))
    future = disappear + np.bincount(source, link, len(appear))
    return false / (false + past * future)
