"""The benchmark of the input pipeline measures what it says."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from configs.ctc import segment
from launch.benches import input as bench


@pytest.fixture
def small(monkeypatch):
    movie = dataclasses.replace(bench.MOVIE, frames=4, shape=(330, 340), cells=12)
    monkeypatch.setattr(bench, "MOVIE", movie)
    monkeypatch.setattr(bench, "BATCHES", 2)


def test_the_row_has_a_rate_for_each_kind_of_annotation_and_for_the_peer(small, capsys):
    row = bench.run("zarr", repeats=1)
    assert {"name", "ours_s", "peer_s", "ratio"} <= row.keys()
    data: Any = segment.get_config("sim").data
    batch = data.batch_size
    assert row["crops_per_s"] == 2 * batch / row["ours_s"]
    assert row["crops_per_s_peer"] == 2 * batch / row["peer_s"]
    assert row["crops_per_s_markers"] > 0
    assert "crops_per_s" in capsys.readouterr().out
    with pytest.raises(InputError, match="no peer 'torch'"):
        bench.run("torch")


def test_the_peer_reads_the_same_crops(small, tmp_path):
    """zarr is an oracle of the whole pipeline too: another reader of the same store gives equal batches."""
    data: Any = segment.get_config("sim").data
    sequences = bench.prepare_movie(tmp_path)
    through_zarr = [bench._through_zarr(sequence, tmp_path) for sequence in sequences]
    for kind in ("full", "markers"):
        ours, theirs = (bench.make_batches(s, kind, data)[1] for s in (sequences, through_zarr))
        for key, values in ours.items():
            np.testing.assert_array_equal(values, theirs[key])
        # Less its margin a crop lies in the frame, so that only open markers leave something unknown there.
        inner = tuple(slice(margin, -margin) for margin in data.margin)
        assert (ours["labels"][:, *inner] == -1).any() == (kind == "markers")
