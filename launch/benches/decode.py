"""Peaks of a heat map, ours against scikit-image's: `python -m launch.bench decode --against=skimage`.

Both read the same map of blobs on noise from host memory and leave pixels and heights there. scikit-image's
`peak_local_max` finds the maxima of square windows, to whole pixels; ours is what the representation "heatmap"
decodes with.
"""

import functools
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from launch.benches import timing

SIDE, PEAKS, SIGMA = 1024, 500, 3.0
NOISE, THRESHOLD = 0.05, 0.3
"""Height of the noise between blobs of height 1, and what peaks must exceed."""
DISTANCES = (3, 5, 8)
"""Pixels."""
COUNT = 512
REPEATS = 15


def run(against: str | None) -> list[dict[str, Any]]:
    """Times a map at several least distances between peaks.

    Args:
      against: "skimage", or None for ours alone.

    Returns:
      A row per distance, as `timing` makes them, with the peaks that each found.

    Raises:
      InputError: an unknown peer.
    """
    if against not in (None, "skimage"):
        raise InputError(f"bench decode: no peer {against!r}; give --against=skimage or leave it out")
    heat = make_map()
    rows = []
    for distance in DISTANCES:
        name = f"decode {SIDE}x{SIDE}, {PEAKS} peaks, distance {distance}"
        decode = functools.partial(ours, heat, distance)
        if against is None:
            row = timing.alone_row(name, timing.alone(decode, REPEATS))
        else:
            peer = functools.partial(theirs, heat, distance)
            row = timing.interleaved(decode, peer, REPEATS).row(name) | {"peaks_peer": len(peer())}
        rows.append(row | {"peaks": len(decode())})
    return rows


def make_map(seed: int = 0) -> np.ndarray:
    """Draws blobs at least 15 px apart on noise: (SIDE, SIDE) float32."""
    rng = np.random.default_rng(seed)
    cells = int(np.ceil(np.sqrt(PEAKS)))
    pitch = (SIDE - 30) / cells
    corner = np.stack(np.divmod(rng.permutation(cells**2)[:PEAKS], cells), 1) * pitch + 15
    centre = corner + rng.random((PEAKS, 2)) * (pitch - 15)
    rows, columns = (np.exp(-0.5 * ((np.arange(SIDE) - c[:, None]) / SIGMA) ** 2) for c in centre.T)
    return (rows.T @ columns + NOISE * rng.random((SIDE, SIDE))).astype(np.float32)


def ours(heat: np.ndarray, distance: float) -> np.ndarray:
    """Returns (N, 2) sub-pixel positions."""
    found = _compiled()(heat, np.ones(2, np.float32), threshold=THRESHOLD, min_distance=distance)
    return np.asarray(found.position)[np.asarray(found.valid)]


def theirs(heat: np.ndarray, distance: int) -> np.ndarray:
    """Returns (N, 2) pixels."""
    from skimage.feature import peak_local_max

    return peak_local_max(heat, min_distance=distance, threshold_abs=THRESHOLD)


@functools.cache
def _compiled():
    import jax

    from celltrack_jax.ops.peaks import find_peaks

    return jax.jit(functools.partial(find_peaks, count=COUNT))
