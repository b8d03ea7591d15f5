"""What batches for metric learning hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.data.per_track import PerTrack


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=6, max_size=10),
    per_class=st.integers(2, 5),
    far=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_a_batch_has_so_many_cells_of_so_many_tracks(lengths, per_class, far, seed):
    track = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(lengths)), lengths))
    long_enough = sum(length > 1 for length in lengths)
    make = lambda: PerTrack(track, classes=3, per_class=per_class, far_share=far, seed=seed)  # noqa: E731
    if long_enough < 3:
        with pytest.raises(ValueError, match="for batches of 3"):
            make()
        return
    chosen = make().batch(7)
    np.testing.assert_array_equal(chosen, make().batch(7))
    groups = chosen.reshape(3, per_class)
    owners = track[groups]
    assert (owners == owners[:, :1]).all()
    assert len(set(owners[:, 0])) == 3
    near = per_class - min(round(far * per_class), per_class - 1)
    for group, owner in zip(groups, owners[:, 0], strict=True):
        own = np.flatnonzero(track == owner)
        assert len(set(group)) == min(len(own), per_class)
        if len(own) >= per_class:
            assert (np.diff(np.searchsorted(own, group[:near])) == 1).all()


def test_without_a_far_share_cells_are_neighbours_in_time_and_with_it_they_are_not():
    track = np.repeat(np.arange(10), 50)
    spread = {}
    for share in (0.0, 0.5):
        sampler = PerTrack(track, classes=8, per_class=4, far_share=share, seed=0)
        spread[share] = np.mean([np.ptp(sampler.batch(i).reshape(8, 4), axis=1).mean() for i in range(40)])
    assert spread[0.0] == 3
    assert spread[0.5] > 20
