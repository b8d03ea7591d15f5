"""The benchmark of candidate graphs measures what it says."""

import pytest

from celltrack_jax.errors import InputError
from launch.benches import graph


def test_a_row_for_each_part(monkeypatch):
    for name, value in {"FRAMES": 12, "CELLS": 30, "REPEATS": 1}.items():
        monkeypatch.setattr(graph, name, value)
    linked, described, cut = graph.run(None)
    assert linked["true"] == 11 * 30
    assert linked["edges"] > linked["true"]
    assert cut["windows"] == 3
    assert all(row["ours_s"] > 0 and "360 cells" in row["name"] for row in (linked, described, cut))
    with pytest.raises(InputError, match="no peer 'torch'"):
        graph.run("torch")
