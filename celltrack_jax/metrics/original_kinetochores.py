"""The rules by which kinetochores were first judged, for comparison (docs/originals.md, 2.6).

Both count in voxels, take no account of how large these are, and let a peak or a source match several of the others:
random points score well by them, see `localisation.by_chance`. Sources and peaks were whole voxels; any position will do
here. Undefined measures are None.

Shapes: N sources (reference points) of a frame, M peaks (found points); axes are z, y, x.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.spatial import cKDTree

from celltrack_jax.metrics.localisation import Frames

SEUC_VARIANCE = np.array([3.0, 1.3, 1.3])
"""Voxels squared by which squared differences are divided. They look like spacings, and so shrink z, not widen it."""
SEUC_LIMITS = (6.0, 8.0)
"""The later and the first one."""
EDT_SAMPLING = np.array([2.0, 1.0, 1.0])
EDT_LIMITS = (8.0,)


def original_measures(frames: Frames) -> dict[str, float | None]:
    """Returns `seuc_measures` and `edt_measures` within the limits that were used."""
    return seuc_measures(frames, SEUC_LIMITS) | edt_measures(frames, EDT_LIMITS)


def seuc_measures(frames: Frames, limits: Sequence[float]) -> dict[str, float | None]:
    """Scores peaks by the standardised Euclidean distance, the later rule.

    Right are sources with a peak at most that far, missed the other ones, false the peaks without a source.

    Args:
      frames: (N, 3) and (M, 3) voxels of each.
      limits: distances.

    Returns:
      seuc<limit>/precision, /recall and /F1 for each limit, over all frames.
    """
    measures: dict[str, float | None] = {}
    for limit in limits:
        rows = []
        for ref, found in frames:
            source, peak = (_tree(points, SEUC_VARIANCE**-0.5) for points in (ref, found))
            near = source.sparse_distance_matrix(peak, limit, output_type="ndarray")
            hit = len(np.unique(near["i"]))
            rows.append((hit, len(ref) - hit, len(found) - len(np.unique(near["j"]))))
        scores = _scores(rows)
        measures |= {f"seuc{limit:g}/{key}": value for key, value in scores.items()}
    return measures


def edt_measures(frames: Frames, limits: Sequence[float]) -> dict[str, float | None]:
    """Scores peaks by the distance transform of the sources, the first rule.

    Each peak takes the source that is nearest, with z counted twice, if it is near enough. How precision came about is
    not known: here peaks without a source are false, and those beyond a source's first are neither right nor false.

    Args:
      frames: as above. Two sources in one voxel, of which the transform knows one, stay two.
      limits: distances.

    Returns:
      For each limit, over all frames, edt<limit>/precision, /recall and /F1, and as means over frames
      /matched and /unmatched, the sources with a peak and without, and /over_matched, the peaks beyond each one's first.
    """
    measures: dict[str, float | None] = {}
    for limit in limits:
        rows, over = [], []
        for ref, found in frames:
            distance, nearest = _tree(ref, EDT_SAMPLING).query(np.reshape(found, (-1, 3)) * EDT_SAMPLING)
            taken = nearest[distance <= limit]
            hit = len(np.unique(taken))
            rows.append((hit, len(ref) - hit, len(found) - len(taken)))
            over.append(len(taken) - hit)
        scores = _scores(rows)
        for name, counts in (
            ("matched", [row[0] for row in rows]),
            ("over_matched", over),
            ("unmatched", [row[1] for row in rows]),
        ):
            scores[name] = float(np.mean(counts)) if counts else None
        measures |= {f"edt{limit:g}/{key}": value for key, value in scores.items()}
    return measures


def _tree(points: np.ndarray, scale: np.ndarray) -> cKDTree:
    return cKDTree(np.reshape(np.asarray(points, np.float64), (-1, 3)) * scale)


def _scores(rows: Iterable[tuple[int, int, int]]) -> dict[str, float | None]:
    """Of (right, missed, false) of each frame."""
    right, missed, false = np.sum([(0, 0, 0), *rows], axis=0).tolist()
    return {
        "precision": right / (right + false) if right + false else None,
        "recall": right / (right + missed) if right + missed else None,
        "F1": 2 * right / (2 * right + missed + false) if right + missed + false else None,
    }
