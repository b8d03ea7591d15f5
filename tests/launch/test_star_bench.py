"""The benchmark of star-convex cells at a small size: ours and StarDist agree on what is timed."""

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from launch.benches import star


@pytest.fixture
def small(monkeypatch):
    changes = {
        **{"SHAPE": (16, 30, 30), "CELLS": 8, "RAYS": 32, "RADII": (3.0,), "CANDIDATES": 200, "CHUNK": 256},
        **{"REPEATS": 1, "THINNING_REPEATS": 1, "DRAWN_RADII": (3.0,), "DRAWN_RAYS": (32, 96)},
    }
    for name, value in changes.items():
        monkeypatch.setattr(star, name, value)


def test_rows_of_ours_alone(small):
    rows = star.run(None)
    assert [row["name"].split(",")[0] for row in rows] == [
        "32 rays of 16x30x30",
        "32 rays of 16x30x30",
        "200 candidates of radius 3 thinned by pixels",
        "200 candidates of radius 3 thinned by balls",
        "drawn",
    ]
    assert rows[2]["left"] == rows[3]["left"] == 8
    assert rows[4]["iou_96"] >= 0.9


def test_stardist_leaves_the_same_cells_and_draws_them_coarser(small):
    pytest.importorskip("stardist")
    rows = star.run("stardist")
    assert [row["left_peer"] for row in rows[2:4]] == [8, 8]
    assert rows[4]["iou_96_peer"] < rows[4]["iou_96"]
    labels = star.cells(3.0)[1]
    own, peer = star.ours(labels, 32, 8.0), star.theirs(labels, 32)
    assert own.shape == peer.shape
    np.testing.assert_array_equal(np.abs(star.in_one_program(labels, 32, 8.0)), own)
    assert 0.3 < np.median((peer - own)[labels > 0]) < 1


def test_an_unknown_peer_is_bad_input():
    with pytest.raises(InputError, match="no peer 'cellpose'"):
        star.run("cellpose")
