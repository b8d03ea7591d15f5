"""Blocks of a movie: each frame is kept once, all blocks have one size, and the ends are mirrored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celltrack_jax.data.blocks import blocks


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 9), st.integers(0, 9))
def test_every_frame_is_kept_once_in_order_and_all_blocks_have_one_size(count, length, before, after):
    cut = blocks(count, length, before, after)
    assert [t for block in cut for t in block.frames[block.kept]] == list(range(count))
    assert {len(block.frames) for block in cut} == {length + before + after}
    assert all(0 <= t < count for block in cut for t in block.frames)
    assert len(cut) == -(-count // length)


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 9), st.integers(0, 9))
def test_frames_follow_each_other_and_kept_ones_have_their_context(count, length, before, after):
    for block in blocks(count, length, before, after):
        steps = [b - a for a, b in zip(block.frames[:-1], block.frames[1:], strict=True)]
        assert set(steps) <= {1, -1}
        assert block.kept.start >= before
        assert len(block.frames) - block.kept.stop >= after
        for place, t in enumerate(block.frames[:-1]):
            # Only at an end of the movie does it turn round.
            if place and steps[place] != steps[place - 1]:
                assert t in (0, count - 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((4, 2, 1, 1), [((1, 0, 1, 2), (0, 1)), ((1, 2, 3, 2), (2, 3))]),
        ((5, 2, 0, 0), [((0, 1), (0, 1)), ((2, 3), (2, 3)), ((3, 4), (4,))]),
        ((3, 5, 1, 0), [((1, 0, 1, 2, 1, 0), (0, 1, 2))]),
        ((1, 3, 2, 2), [((0,) * 7, (0,))]),
        ((6, 3, 2, 0), [((2, 1, 0, 1, 2), (0, 1, 2)), ((1, 2, 3, 4, 5), (3, 4, 5))]),
    ],
)
def test_blocks_by_hand(arguments, expected):
    assert [(block.frames, block.frames[block.kept]) for block in blocks(*arguments)] == expected
