"""How far off found points are, how well they are found where they are dense, and what chance would find.

Positions and radii are in one unit, micrometres where axes have different spacings; pairs are those of `points.match`.
Undefined measures are None.

Shapes: N reference points of a frame, M found points, D axes, P pairs of all frames.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.spatial import cKDTree

from celltrack_jax.metrics.points import match

Frames = Sequence[tuple[np.ndarray, np.ndarray]]
"""(N, D) reference and (M, D) found positions of each frame."""


def error_measures(frames: Frames, radii: Sequence[float]) -> dict[str, float | None]:
    """Measures the errors of matched pairs.

    Args:
      frames: D is 2 or 3.
      radii: of matches.

    Returns:
      For each radius r, over the pairs of all frames: error_median_<r> and error_mean_<r> of the distances, and the
      median along z, error_z_<r> (3D alone), and in the plane of y and x, error_xy_<r>.
    """
    measures: dict[str, float | None] = {}
    for radius in radii:
        error = _errors(frames, radius)
        far = np.linalg.norm(error, axis=1)
        measures[f"error_median_{radius:g}"] = float(np.median(far)) if len(far) else None
        measures[f"error_mean_{radius:g}"] = float(far.mean()) if len(far) else None
        if error.shape[1] == 3:
            measures[f"error_z_{radius:g}"] = float(np.median(np.abs(error[:, 0]))) if len(far) else None
        plane = np.linalg.norm(error[:, -2:], axis=1)
        measures[f"error_xy_{radius:g}"] = float(np.median(plane)) if len(far) else None
    return measures


def _errors(frames: Frames, radius: float) -> np.ndarray:
    """(P, D) found minus reference position."""
    parts = [np.zeros((0, frames[0][0].shape[1] if frames else 2))]
    for ref, found in frames:
        pair = match(ref, found, radius)
        parts.append(np.asarray(found)[pair.found] - np.asarray(ref)[pair.ref])
    return np.concatenate(parts)


def density_measures(
    frames: Frames, radii: Sequence[float], edges: Sequence[float]
) -> dict[str, float | None]:
    """Scores points by how near to each other the reference points lie.

    A reference point is as far apart as its nearest neighbour in the frame is. A found point counts where its match
    does, else where the reference point nearest to it does.

    Args:
      frames: as above.
      radii: of matches.
      edges: ascending distances that part the bins, which go from 0 to infinity.

    Returns:
      recall_<r>_nn<a>-<b>, precision_ and F1_ likewise, for each radius r and bin a <= distance < b, over all frames.
    """
    limits = np.array([0.0, *edges, np.inf])
    measures: dict[str, float | None] = {}
    for radius in radii:
        matched, true, given = np.zeros((3, len(limits) - 1), np.int64)
        for ref, found in frames:
            pair = match(ref, found, radius)
            ref_bin, found_bin = _bins(ref, found, limits)
            found_bin[pair.found] = ref_bin[pair.ref]
            matched += np.bincount(ref_bin[pair.ref], minlength=len(matched))
            true += np.bincount(ref_bin, minlength=len(true))
            given += np.bincount(found_bin, minlength=len(given))
        for k, (low, high) in enumerate(itertools.pairwise(limits)):
            name = f"{radius:g}_nn{low:g}-{high:g}"
            measures[f"precision_{name}"] = float(matched[k] / given[k]) if given[k] else None
            measures[f"recall_{name}"] = float(matched[k] / true[k]) if true[k] else None
            total = true[k] + given[k]
            measures[f"F1_{name}"] = float(2 * matched[k] / total) if total else None
    return measures


def _bins(ref: np.ndarray, found: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) and (M,) the bin of each reference point, and of the one that is nearest to each found point."""
    last = len(limits) - 2
    if not len(ref):
        return np.zeros(0, np.int64), np.full(len(found), last)
    tree = cKDTree(ref)
    # The first one is the point itself; of a single point the second is infinitely far.
    apart = tree.query(ref, k=2)[0][:, 1]
    ref_bin = np.clip(np.searchsorted(limits, apart, side="right") - 1, 0, last)
    nearest = tree.query(found)[1] if len(found) else np.zeros(0, np.int64)
    return ref_bin, ref_bin[nearest]


def by_chance(
    measures: Callable[[Frames], Mapping[str, float | None]], frames: Frames, *, draws: int, seed: int
) -> dict[str, float | None]:
    """Scores as many random points as were found, uniform in the box around each frame's reference points.

    Args:
      measures: of frames, such as `points.detection_measures` within some radii.
      frames: as above. Points of a frame without a reference stay: they are false wherever they lie.
      draws: to average over.
      seed: of them.

    Returns:
      The mean of each measure over the draws in which it is defined.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(draws):
        drawn = [
            (ref, rng.uniform(np.min(ref, 0), np.max(ref, 0), np.shape(found)) if len(ref) else found)
            for ref, found in frames
        ]
        rows.append(measures(drawn))
    means: dict[str, float | None] = {}
    for key in rows[0] if rows else ():
        values = [value for row in rows if (value := row[key]) is not None]
        means[key] = float(np.mean(values)) if values else None
    return means
