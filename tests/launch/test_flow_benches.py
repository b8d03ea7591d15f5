"""The benchmarks of flows and of Cellpose's network at a small size, without their peer."""

import pytest

from celltrack_jax.errors import InputError
from launch.benches import cpnet, flows


def test_flows_and_masks_of_all_cells_are_timed(monkeypatch):
    for name, value in {"SIDE": 160, "CELLS": 12, "AXES": (8.0, 14.0), "REPEATS": 1}.items():
        monkeypatch.setattr(flows, name, value)
    targets, masks = flows.run(None)
    assert targets["name"] == "flows of 160x160, 12 cells"
    assert targets["ours_s"] > 0
    assert masks["cells"] == 12


@pytest.mark.slow
def test_a_step_of_the_network_is_timed(monkeypatch):
    for name, value in {"SIZES": ((1, 16, 16), (2, 8, 16)), "WIDTHS": (4, 6), "REPEATS": 1}.items():
        monkeypatch.setattr(cpnet, name, value)
    assert [row["name"] for row in cpnet.run(None)] == ["cpnet step, 1x16x16", "cpnet step, 2x8x16"]


@pytest.mark.parametrize("bench", [flows, cpnet])
def test_an_unknown_peer_is_bad_input(bench):
    with pytest.raises(InputError, match="no peer 'omnipose'"):
        bench.run("omnipose")
