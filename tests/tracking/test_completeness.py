"""How many detections lack a mutual nearest neighbour, against loops over frames."""

import numpy as np
import pytest

from celltrack_jax.lineage import Detections
from celltrack_jax.tracking.completeness import unmatched_shares
from celltrack_jax.tracking.graph import Candidates, candidates


def movie(seed, frames=14, cells=6):
    rng = np.random.default_rng(seed)
    frame = np.sort(rng.integers(4, 4 + frames, frames * cells))
    frame = frame[frame != 9]
    position = rng.random((len(frame), 3)) * [0, 60, 60]
    found = Detections(frame, np.arange(1, len(frame) + 1), position, np.ones(len(frame)))
    return found, candidates(found, radius_um=12.0, max_gap=2, max_neighbours=4)


def by_loops(frame, position, edges):
    """For each detection, counts those within five frames that have nobody in the frame before, or after."""
    joined = set(zip(edges.source.tolist(), edges.target.tolist(), strict=True))

    def nearest(one, others):
        near = [(np.linalg.norm(position[one] - position[two]), two) for two in others]
        return min(near)[1] if near else None

    def alone(one, step):
        others = np.flatnonzero(frame == frame[one] + step).tolist()
        pair = (lambda a, b: (b, a)) if step < 0 else (lambda a, b: (a, b))
        two = nearest(one, [other for other in others if pair(one, other) in joined])
        if two is None:
            return True
        back = np.flatnonzero(frame == frame[one]).tolist()
        return nearest(two, [other for other in back if pair(other, two) in joined]) != one

    result = np.zeros((len(frame), 2))
    for i in range(len(frame)):
        for column, (step, end) in enumerate(((-1, frame[0]), (1, frame[-1]))):
            around = np.flatnonzero((abs(frame - frame[i]) <= 5) & (frame != end))
            missed = sum(alone(one, step) for one in around.tolist())
            result[i, column] = 1 + np.log((missed + 0.5) / (len(around) + 10)) / 2
    return result


@pytest.mark.parametrize("seed", range(3))
def test_shares_equal_those_of_loops(seed):
    found, edges = movie(seed)
    assert len(edges.source) > 20
    shares = unmatched_shares(found.frame, found.position_um, edges)
    np.testing.assert_allclose(shares, by_loops(found.frame, found.position_um, edges), rtol=1e-5, atol=1e-6)


def test_dropped_cells_raise_the_shares_and_no_cells_have_none():
    frame, cell = (each.ravel() for each in np.meshgrid(np.arange(20), np.arange(50), indexing="ij"))
    position = np.stack([0 * cell, 10 * (cell // 8), 10 * (cell % 8)], 1).astype(float)

    def shares(kept):
        found = Detections(frame[kept], cell[kept] + 1, position[kept], np.ones(kept.sum()))
        edges = candidates(found, radius_um=4.0, max_gap=1, max_neighbours=4)
        return unmatched_shares(found.frame, found.position_um, edges)

    whole = np.random.default_rng(0).random(len(frame))
    perfect, some, many = (shares(whole >= rate) for rate in (0, 0.05, 0.2))
    assert perfect.max() < some.min()
    assert some.max() < many.min()
    none = np.zeros(0, np.int64)
    assert unmatched_shares(none, np.zeros((0, 3)), Candidates(none, none)).shape == (0, 2)
