"""Links from scored candidates, as a learned tracker gives them; `ilp.py` chooses all of them at once.

Shapes: N detections, E candidates. A candidate is a pair (source, target) of detections, the source in an earlier
frame; it may skip frames, and a pair occurs once.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from celltrack_jax.lineage import Detections
from celltrack_jax.tracking.links import assign

_GRAIN = 2.0**-20
"""Nats to which assignments tell costs apart."""


class Scored(NamedTuple):
    """What a network thought of candidates."""

    source: np.ndarray
    """(E,) int64, index of a detection."""
    target: np.ndarray
    """(E,) int64, of one in a later frame."""
    probability: np.ndarray
    """(E,) float32, to be a link."""


class Links(NamedTuple):
    """What a linker decided about each detection."""

    parent: np.ndarray
    """(N,) int64, the predecessor as an index, -1 for none. At most two name the same one, save where
    `greedy_ben_haim2022` says otherwise."""
    kept: np.ndarray
    """(N,) bool, False for a detection that is judged to be false; it has no links."""
    scored: Scored | None = None
    """The candidates it chose from, where it knows how likely they are."""


class Costs(NamedTuple):
    """What each decision costs, in nats.

    Let every decision be a coin of its own that falls on yes with probability p: candidate e is a link, detection
    n's cell appears at n, disappears after n, divides after n, or n is false. Of all ways in which the coins may
    fall, few make a lineage: a detection is false and has no part in anything, or it has one predecessor or
    appears, and it has one successor or disappears, or has two and divides. With each cost the negative log-odds
    -log(p / (1 - p)), or the loss of a binary classifier's logit as it comes out, -logit, the lineage of the
    lowest sum is the most probable one (maximum a posteriori): the log-probability of a lineage is minus that
    sum plus a constant that is the same for all.
    """

    edge: np.ndarray
    """(E,) float64, of a link; inf never links."""
    appear: np.ndarray
    """(N,) float64, of having no predecessor; finite."""
    disappear: np.ndarray
    """(N,) float64, of having no successor; finite."""
    divide: np.ndarray
    """(N,) float64, of having two successors; inf never divides."""
    false: np.ndarray
    """(N,) float64, of leaving the detection out; inf never does."""


def free_ends(costs: Costs, frame: np.ndarray, *, first: int, last: int) -> Costs:
    """Makes it cost nothing to be there when the movie begins, and to be there still when it ends.

    Args:
      costs: of the movie.
      frame: (N,) integers, the frame of each detection.
      first: number of the movie's first frame.
      last: number of its last frame.
    """
    appear = np.where(frame == first, 0.0, costs.appear)
    return costs._replace(appear=appear, disappear=np.where(frame == last, 0.0, costs.disappear))


def total_cost(source: np.ndarray, target: np.ndarray, costs: Costs, links: Links) -> float:
    """Sums what links cost, in nats.

    Raises:
      ValueError: a link is no candidate, or a detection that was left out has one.
    """
    count = len(links.parent)
    linked = links.parent >= 0
    chosen = links.parent[target] == source
    children = np.bincount(links.parent[linked], minlength=count)
    if chosen.sum() != linked.sum():
        raise ValueError(f"{linked.sum() - chosen.sum()} of the links are no candidates")
    if np.any((linked | (children > 0)) & ~links.kept):
        raise ValueError("a detection that was left out has links")
    return float(
        costs.edge[chosen].sum()
        + costs.appear[links.kept & ~linked].sum()
        + costs.disappear[links.kept & (children == 0)].sum()
        + costs.divide[children == 2].sum()
        + costs.false[~links.kept].sum()
    )


def without_false(detections: Detections, links: Links) -> tuple[Detections, Links]:
    """Leaves out the detections that were judged to be false, and candidates with such ends.

    Returns:
      The other detections, in their order, and their links: what `tracks.TrackPainter` takes.
    """
    index = np.cumsum(links.kept) - 1
    parent = links.parent[links.kept]
    parent = np.where(parent >= 0, index[parent], -1)
    scored = links.scored
    if scored is not None:
        both = links.kept[scored.source] & links.kept[scored.target]
        source, target = index[scored.source[both]], index[scored.target[both]]
        scored = Scored(source, target, scored.probability[both])
    kept = Detections(*(column[links.kept] for column in detections))
    return kept, Links(parent, np.ones(len(parent), bool), scored)


def link_probability(links: Links) -> np.ndarray:
    """Returns (N,) float32, how likely each detection's link to its predecessor is; NaN for none, or unknown."""
    found = np.full(len(links.parent), np.nan, np.float32)
    if links.scored is not None:
        source, target, probability = links.scored
        chosen = links.parent[target] == source
        found[target[chosen]] = probability[chosen]
    return found


def greedy_ben_haim2022(
    frame: np.ndarray, position: np.ndarray, source: np.ndarray, target: np.ndarray, probability: np.ndarray
) -> Links:
    """Links as Ben-Haim & Riklin-Raviv (ECCV 2022) do; the rule of the original, good for comparisons alone.

    A candidate is active if its probability exceeds 0.5. A source with several active targets takes the nearest,
    whatever their probabilities. A detection that no source takes begins a track; its parent is the nearest
    detection of the frame before that takes no target, at any distance, and any number of tracks may have the
    same parent.

    Two things cannot be said in links. Where several sources take one target, the original goes on with both and
    gives the tracks one label; here the most probable source keeps it, the tracks of the others end, and they are
    nobody's parent, as in the original they did not end. Where a track begins alone from its parent, the original
    calls that a division into one; here the parent's track goes on.

    Args:
      frame: (N,) integers.
      position: (N, D) centroids; the original rounds them to voxels and knows no anisotropy.
      source: (E,) integers.
      target: (E,) integers.
      probability: (E,) of each candidate to be a link.

    Returns:
      Links that keep all detections.

    Raises:
      ValueError: a candidate does not go forward in time.
    """
    check_forward(frame, source, target)
    count = len(frame)
    active = probability > 0.5
    source, target, probability = source[active], target[active], probability[active]
    distance = ((position[source] - position[target]) ** 2).sum(axis=1)
    taken = _first_of_each(source, np.lexsort((target, distance, source)))
    source, target, probability = source[taken], target[taken], probability[taken]
    takes_none = np.ones(count, bool)
    takes_none[source] = False
    parent = np.full(count, -1, np.int64)
    best = _first_of_each(target, np.lexsort((source, -probability, target)))
    parent[target[best]] = source[best]

    begins = np.flatnonzero(parent < 0)
    for number in np.unique(frame[begins]):
        ended = np.flatnonzero((frame == number - 1) & takes_none)
        new = begins[frame[begins] == number]
        if len(ended):
            parent[new] = ended[cKDTree(position[ended]).query(position[new])[1]]
    return Links(parent, np.ones(count, bool))


def hungarian_scored(frame: np.ndarray, source: np.ndarray, target: np.ndarray, costs: Costs) -> Links:
    """Links by assignment, frame by frame, of largest total gain: what links save against none.

    A first link saves its target's appearing and its source's disappearing, a second one the appearing alone, and
    costs the division; a pair that saves nothing is not linked, so with neither appearing nor disappearing at a
    cost, links are those of positive log-odds. The candidates from the nearest frame are assigned first, those
    from frames before it to what is left. Both daughters are in one assignment; without candidates that skip
    frames, without false detections and with divisions that cost at least what disappearing does not
    (divide + disappear >= 0) the links are the best there are. Detections without links are left out where that
    is cheaper.

    Args:
      frame: (N,) integers.
      source: (E,) integers.
      target: (E,) integers.
      costs: in nats.

    Returns:
      Links.

    Raises:
      ValueError: a candidate does not go forward in time, or a cost is nan or infinite where it may not be.
    """
    check_forward(frame, source, target)
    check_costs(costs, len(source), len(frame))
    chosen = assign_frames(frame, source, target, costs, np.zeros(len(frame), np.int64))
    parent = np.full(len(frame), -1, np.int64)
    parent[target[chosen]] = source[chosen]
    return Links(parent, keep(source[chosen], target[chosen], costs))


def keep(source: np.ndarray, target: np.ndarray, costs: Costs) -> np.ndarray:
    """Keeps the ends of links, and other detections where that costs no more than leaving them out: (N,) bool."""
    kept = costs.appear + costs.disappear <= costs.false
    kept[source] = True
    kept[target] = True
    return kept


def assign_frames(
    frame: np.ndarray, source: np.ndarray, target: np.ndarray, costs: Costs, children: np.ndarray
) -> np.ndarray:
    """Chooses candidates frame by frame, as `hungarian_scored` says.

    Args:
      frame: (N,) integers.
      source: (E,) integers.
      target: (E,) integers.
      costs: in nats.
      children: (N,) links that leave each detection already.

    Returns:
      Indices of the chosen candidates.
    """
    children = children.copy()
    orphan = np.ones(len(frame), bool)
    # In whole grains, as second links of a source all gain the same more or less than its first ones do; where
    # that differs by rounding alone, the assignment takes steps of such size, and minutes.
    edge, appear, disappear, divide, _ = (np.rint(column / _GRAIN) * _GRAIN for column in costs)
    second = appear[target] - edge - divide[source]
    first = appear[target] - edge + disappear[source]
    # A division that is better than a link must not draw away one of its daughters alone.
    gains = np.stack([first, np.minimum(first, second)])
    order = np.lexsort((-frame[source], frame[target]))
    both = np.stack([frame[target[order]], frame[source[order]]])
    rounds = np.flatnonzero(np.any(np.diff(both, axis=1, prepend=-1) != 0, axis=0))
    chosen = []
    for pairs in np.split(order, rounds[1:]) if len(order) else []:
        # Row 0 holds the pairs as first links of their sources, row 1 as second ones.
        free = orphan[target[pairs]] & (gains[:, pairs] > 0)
        free &= np.stack([children[source[pairs]] == 0, children[source[pairs]] <= 1])
        place, which = np.nonzero(free)
        found = pairs[which]
        sources, row = np.unique(2 * source[found] + place, return_inverse=True)
        targets, column = np.unique(target[found], return_inverse=True)
        links = found[assign(row, column, gains[place, found], (len(sources), len(targets)))]
        orphan[target[links]] = False
        np.add.at(children, source[links], 1)
        chosen.append(links)
    return np.concatenate([*chosen, np.zeros(0, np.int64)]).astype(np.int64)


def check_forward(frame: np.ndarray, source: np.ndarray, target: np.ndarray) -> None:
    """Refuses candidates that do not go forward in time.

    Raises:
      ValueError: there is one.
    """
    wrong = np.flatnonzero(frame[source] >= frame[target])
    if len(wrong):
        one = wrong[0]
        raise ValueError(
            f"candidate {one} goes from frame {frame[source[one]]} to frame {frame[target[one]]}: a source must "
            "lie in an earlier frame than its target"
        )


def check_costs(costs: Costs, candidates: int, detections: int) -> None:
    """Refuses costs of other shapes, nan, and infinities that no lineage could pay or refuse.

    Raises:
      ValueError: there are such costs.
    """
    for name, values in costs._asdict().items():
        shape = (candidates if name == "edge" else detections,)
        if values.shape != shape:
            raise ValueError(f"costs.{name} has shape {values.shape}, not {shape}")
        usable = np.isfinite(values) if name in ("appear", "disappear") else values > -np.inf
        if not usable.all():
            one = int(np.flatnonzero(~usable)[0])
            raise ValueError(f"costs.{name}[{one}] is {values[one]}: give a finite number of nats")


def _first_of_each(group: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns the indices that come first of their group in an order that keeps groups together."""
    return order[np.unique(group[order], return_index=True)[1]]
