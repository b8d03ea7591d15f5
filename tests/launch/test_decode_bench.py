"""The benchmark of decoding at a small size: both find the blobs."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from celltrack_jax.errors import InputError
from launch.benches import decode


@pytest.fixture
def small(monkeypatch):
    for name, value in {"SIDE": 160, "PEAKS": 20, "REPEATS": 1}.items():
        monkeypatch.setattr(decode, name, value)


def test_both_find_the_same_blobs(small):
    heat = decode.make_map()
    positions, pixels = decode.ours(heat, 8), decode.theirs(heat, 8)
    assert len(positions) == len(pixels) == 20
    distance, partner = cKDTree(positions).query(pixels)
    assert distance.max() < 0.75
    assert len(np.unique(partner)) == 20


def test_a_row_per_distance(small):
    rows = decode.run("skimage")
    assert [row["peaks"] for row in rows] == [20] * 3
    assert [row["peaks_peer"] for row in rows] == [20] * 3
    assert all(row["ratio"] > 0 for row in rows)
    assert "ratio" not in decode.run(None)[0]


def test_an_unknown_peer_is_bad_input():
    with pytest.raises(InputError, match="no peer 'opencv'"):
        decode.run("opencv")
