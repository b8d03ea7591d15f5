"""Sisters: pairs of tracks, such as the two kinetochores of a chromosome, that stay a constant distance apart.

Which pairs there are is chosen for all tracks at once, as the disjoint pairs of the largest total weight, so a track
whose sister was never found is left alone where pairing it would part two others.

Shapes: N points of a movie, T tracks, F frames with points, E candidate pairs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

_NORMAL_MAD = 1.4826
"""Standard deviation of normal values over the median of their absolute deviations."""
_MOST_S = 60.0
"""Seconds that pairs are looked for."""


@dataclass(frozen=True)
class Sisters:
    """What sisters are like."""

    gate_um: tuple[float, float]
    """Least and largest median distance."""
    max_spread_um: float
    """Largest spread of the distance over the frames."""
    min_frames: int
    """Frames in which both are seen, at least."""
    typical_um: float
    """Mean of the distance over pairs."""
    tolerance_um: float
    """Its standard deviation."""
    steady_um: float
    """Scale of the spread, half-normal over pairs."""
    alone: float
    """Nats that speak against two tracks without sisters: how unlikely a pair may be before it is left out."""


KINETOCHORES = Sisters(
    gate_um=(0.4, 1.6),
    max_spread_um=0.4,
    min_frames=3,
    typical_um=0.9,
    tolerance_um=0.15,
    steady_um=0.1,
    alone=10.0,
)
"""Of a zygote's chromosomes (docs/originals.md, 2.1). In ten synthetic clouds each of 40 pairs over 18 frames,
F1 is .92 where all move as one, .985 where pairs also move by 0.05 µm a frame on their own, .995 by 0.1 µm."""


class SisterCandidates(NamedTuple):
    """Pairs of tracks that may be sisters, or are taken for such."""

    first: np.ndarray
    """(E,) int64 track."""
    second: np.ndarray
    """(E,) int64 track, the larger number."""
    frames: np.ndarray
    """(E,) int64 frames in which both are seen."""
    distance_um: np.ndarray
    """(E,) float64 median over these."""
    spread_um: np.ndarray
    """(E,) float64 around the median; a few frames with a wrong point do not count."""
    weight: np.ndarray
    """(E,) float64 nats for being sisters, against both being alone."""


def sisters(frame: np.ndarray, track: np.ndarray, position_um: np.ndarray, model: Sisters) -> np.ndarray:
    """Pairs tracks.

    Args:
      frame: (N,) integers.
      track: (N,) integers, at most one point of each in a frame.
      position_um: (N, 3).
      model: what sisters are like.

    Returns:
      (P, 2) int64 tracks, the smaller number first, sorted; no track comes twice.

    Raises:
      ValueError: a track has two points in a frame.
    """
    found = paired(frame, track, position_um, model)
    return np.stack([found.first, found.second], axis=1)


def paired(frame: np.ndarray, track: np.ndarray, position_um: np.ndarray, model: Sisters) -> SisterCandidates:
    """Pairs tracks and describes the pairs; arguments, order and errors as of `sisters`."""
    found = candidates(frame, track, position_um, model)
    chosen = heaviest_pairs(found.first, found.second, found.weight)
    return SisterCandidates(*(column[chosen] for column in found))


def candidates(
    frame: np.ndarray, track: np.ndarray, position_um: np.ndarray, model: Sisters
) -> SisterCandidates:
    """Lists the pairs that keep to the gate, sorted; arguments and errors as of `sisters`.

    The weight is `alone`, less how unlikely the median distance d and the spread s are for sisters: d is normal,
    and other points lie at d as often as its square says, so with typical distance m, tolerance t and steadiness u
    it is alone - ((d - m) / t)^2 / 2 - (s / u)^2 / 2 - 2 log(d / m).
    """
    names, of = np.unique(np.asarray(track, np.int64), return_inverse=True)
    times, when = np.unique(frame, return_inverse=True)
    place = np.full((len(names), len(times), 3), np.nan)
    place[of, when] = position_um
    if np.isfinite(place[..., 0]).sum() != len(of):
        raise ValueError(f"{len(of)} points, but {np.isfinite(place[..., 0]).sum()} pairs of track and frame")
    first, second = _near(place, model.gate_um[1]).T
    apart = np.linalg.norm(place[first] - place[second], axis=-1)
    frames = np.isfinite(apart).sum(1)
    distance = np.nanmedian(apart, axis=1) if len(first) else np.zeros(0)
    spread = np.nanmedian(np.abs(apart - distance[:, None]), axis=1) if len(first) else np.zeros(0)
    spread *= _NORMAL_MAD
    low, high = model.gate_um
    kept = (frames >= model.min_frames) & (distance >= low) & (distance <= high)
    kept &= spread <= model.max_spread_um
    distance, spread = distance[kept], spread[kept]
    unlikely = ((distance - model.typical_um) / model.tolerance_um) ** 2 / 2
    unlikely += (spread / model.steady_um) ** 2 / 2 + 2 * np.log(distance / model.typical_um)
    return SisterCandidates(
        names[first[kept]], names[second[kept]], frames[kept], distance, spread, model.alone - unlikely
    )


def _near(place: np.ndarray, radius: float) -> np.ndarray:
    """(E, 2) rows of tracks that come within a radius of each other in any frame, the smaller first, sorted.

    Args:
      place: (T, F, 3), NaN where a track is not seen.
      radius: a pair whose median distance is less comes nearer than it.
    """
    pairs = [np.zeros((0, 2), np.int64)]
    for at in place.swapaxes(0, 1):
        here = np.flatnonzero(np.isfinite(at[:, 0]))
        pairs.append(here[cKDTree(at[here]).query_pairs(radius, output_type="ndarray")])
    return np.unique(np.concatenate(pairs), axis=0)


def heaviest_pairs(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Chooses disjoint pairs of the largest total weight, by integer linear programming.

    2,000 tracks at random in a volume of 80 take 5 s. Beyond `_MOST_S` the best pairs found so far are chosen.

    Args:
      first: (E,) integers, a member of each pair.
      second: (E,) integers, the other one.
      weight: (E,) of each; a pair that does not weigh more than 0 is not chosen.

    Returns:
      (E,) bool.

    Raises:
      ValueError: a member is its own partner, or a weight is NaN or infinite.
      RuntimeError: HiGHS finds no solution, though choosing none is one.
    """
    first, second, weight = np.asarray(first), np.asarray(second), np.asarray(weight, np.float64)
    if np.any(first == second) or not np.isfinite(weight).all():
        raise ValueError("pairs have to be of two members each, with finite weights")
    chosen = np.zeros(len(weight), bool)
    pays = np.flatnonzero(weight > 0)
    if not len(pays):
        return chosen
    members, row = np.unique(np.concatenate([first[pays], second[pays]]), return_inverse=True)
    column = np.tile(np.arange(len(pays)), 2)
    meets = csr_array((np.ones(len(row)), (row, column)), shape=(len(members), len(pays)))
    solved = milp(
        -weight[pays],
        integrality=np.ones(len(pays)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(meets, -np.inf, 1),  # pyright: ignore[reportArgumentType]
        options={"mip_rel_gap": 0, "time_limit": _MOST_S},
    )
    if solved.x is None:
        raise RuntimeError(f"no pairs: {solved.message}")
    chosen[pays] = solved.x > 0.5
    return chosen
