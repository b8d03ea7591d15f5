"""Targets of real masks decode to the masks. The bounds lie just below what was measured."""

import numpy as np
import pytest
import tifffile

from tests.representations.arms import build, decoded
from tests.representations.cells import dense, seg_score

FOLDERS = {
    "sim, tracking masks": ("Fluo-N2DH-SIM+", "01_GT/TRA/*.tif", 16, (1, 1)),
    "gowt1": ("Fluo-N2DH-GOWT1", "01_GT/SEG/*.tif", 10, (1, 1)),
    "dsb2018": ("DSB2018-fluo", "masks/*.tif", 60, (1, 1)),
    "psc": ("PhC-C2DL-PSC", "01_GT/SEG/*.tif", 150, (1, 1)),
    "stardist 3d": ("stardist_samples", "mask3d.tif", 1, (2, 1, 1)),
}
"""Data set, files, every n-th of them, voxel size relative to the smallest."""

ARMS = {
    "distance of the cell": {"max_distance": 60.0, "max_cells": 1024},
    "touching border": {"min_core": 5},
}
BOUNDS = {
    ("distance of the cell", "sim, tracking masks"): 0.99,
    ("distance of the cell", "gowt1"): 0.99,
    ("distance of the cell", "dsb2018"): 0.98,
    ("distance of the cell", "psc"): 0.99,
    ("distance of the cell", "stardist 3d"): 0.99,
    ("touching border", "sim, tracking masks"): 0.99,
    ("touching border", "gowt1"): 0.99,
    ("touching border", "dsb2018"): 0.99,
    ("touching border", "psc"): 0.99,
    ("touching border", "stardist 3d"): 0.98,
}


SLOW = ("sim, tracking masks", "psc")
"""Which say nothing that the others do not."""


@pytest.mark.parametrize(
    ("arm", "masks"),
    [pytest.param(*case, marks=pytest.mark.slow if case[1] in SLOW else ()) for case in BOUNDS],
)
def test_the_target_decodes_to_the_masks(arm, masks, real_data):
    name, pattern, step, voxel = FOLDERS[masks]
    spacing = np.array(voxel, np.float32)
    changes = ARMS[arm] | ({"width": float(spacing[0])} if arm == "touching border" else {})
    representation = build(arm, **changes)
    scores = []
    for path in sorted(real_data(name).glob(pattern))[::step]:
        labels = dense(tifffile.imread(path).astype(np.int32))
        scores.append(seg_score(labels, decoded(representation, labels, spacing)))
    assert scores
    assert np.mean(scores) >= BOUNDS[arm, masks], scores
