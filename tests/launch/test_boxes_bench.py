"""The benchmark of boxes at a small size: both keep the same."""

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from launch.benches import boxes


@pytest.fixture
def small(monkeypatch):
    changes = {"BOXES": 60, "REGIONS": 8, "SIZE": (64, 96), "CHANNELS": 4, "REPEATS": 1}
    for name, value in changes.items():
        monkeypatch.setattr(boxes, name, value)


def test_both_keep_as_many_boxes_with_one_program(small):
    rows = boxes.run("numpy")
    assert [row["kept"] for row in rows[:3]] == [row["kept_peer"] for row in rows[:3]]
    assert rows[2]["kept"] == 30
    assert all(row["programs"] == 1 for row in rows)
    assert len(rows) == 5


def test_a_chain_keeps_every_other_box(small):
    name, chain, threshold = boxes.cases()[2]
    assert name == "chain"
    np.testing.assert_array_equal(boxes.greedy(chain, threshold), np.arange(60) % 2 == 0)


def test_an_unknown_peer_is_bad_input():
    with pytest.raises(InputError, match="no peer 'opencv'"):
        boxes.run("opencv")
