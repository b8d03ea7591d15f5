"""No candidate is lost without a word."""

import logging

import numpy as np
import pytest

from celltrack_jax.representations import room
from tests.representations.arms import ARMS, build, decoded
from tests.representations.cells import touching_cells

LABELS = touching_cells((64, 72), (1, 1), 8.0, seed=0)
GROWING = (
    "heat, focal, offset",
    "heat, focal, ball",
    "heat, focal, votes",
    "heat, spots",
    "heat, point distance",
)


@pytest.fixture(autouse=True)
def _said_anew():
    room.tell.cache_clear()


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.startswith(GROWING)])
def test_a_frame_of_more_cells_than_there_is_room_for_is_read_whole(arm):
    assert LABELS.max() > 9
    whole = decoded(build(arm), LABELS, np.ones(2))
    np.testing.assert_array_equal(decoded(build(arm, max_peaks=3), LABELS, np.ones(2)), whole)


@pytest.mark.parametrize(("arm", "setting"), [("clusters", "max_found"), ("star", "max_candidates")])
def test_what_is_left_out_is_said_once(arm, setting, caplog):
    for _ in range(2):
        assert decoded(build(arm, **{setting: 2}), LABELS, np.ones(2)).max() == 2
    assert len(caplog.records) == 1
    assert (
        f"more than 2 candidates, of which the surest are read: raise representation.{setting}" in caplog.text
    )


def test_mean_shift_says_so_too(caplog):
    decoded(build("harmonic, mean shift", max_peaks=3), LABELS, np.ones(2))
    assert "raise representation.max_peaks" in caplog.text


def test_room_grows_as_long_as_it_is_full_and_no_further_than_it_may(caplog):
    asked = []

    def find(there):
        def found(count):
            asked.append(count)
            return np.arange(min(count, there)), None, there >= count

        return found

    rows, nothing = room.with_room(find(40), 8)
    assert (len(rows), nothing, asked) == (32 + 8, None, [8, 32, 128])
    assert not caplog.records
    asked.clear()
    with caplog.at_level(logging.WARNING):
        (rows, _) = room.with_room(find(10**6), 3000)
    assert (len(rows), asked) == (room.MOST, [3000, room.MOST])
    assert f"more than {room.MOST} candidates" in caplog.text
