"""What an evaluation of points says beside F1, as its config asks for it."""

import dataclasses

import numpy as np
import pytest

from celltrack_jax.tasks.point_scores import PointFrame, measures
from celltrack_jax.tracking.sisters import KINETOCHORES
from configs.hela import centroids

SPACING = np.array([0.3, 0.13, 0.13])


def frame_of(truth, found):
    label = np.arange(1, len(truth) + 1)
    return PointFrame(0, truth, label, found, None, SPACING, None, None)


@pytest.fixture
def frames():
    """One frame, in voxels: two cells 0.5 µm apart of which one is found, and one found 0.3 µm too high."""
    truth = np.array([[10.0, 20, 20], [10, 20, 20 + 0.5 / 0.13], [10, 60, 60]])
    return [frame_of(truth, truth[[0, 2]] + [[0, 0, 0], [1, 0, 0]])]


def scores(frames, **changes):
    config = centroids.get_config("tiny")
    config.evaluation.update({"radii": (0.5,), "radius": 0.5, "linkers": (), **changes})
    return measures([frames], config.evaluation.to_dict(), config.tracking.to_dict())


def test_configs_that_ask_for_no_more_get_no_more(frames):
    assert set(scores(frames)) == {
        *(f"{name}_0.5" for name in ("precision", "recall", "F1", "RMSE")),
        *("count_error", "count_bias"),
    }


def test_lengths_are_in_the_unit_of_radii_and_the_originals_in_voxels(frames):
    found = scores(frames, localisation=True, density_edges=(0.6,), original_rules=True)
    expected = {
        "error_median_0.5": 0.15,
        "error_mean_0.5": 0.15,
        "error_z_0.5": 0.15,
        "error_xy_0.5": 0,
        "recall_0.5_nn0-0.6": 0.5,
        "recall_0.5_nn0.6-inf": 1,
        "precision_0.5_nn0-0.6": 1,
        # One peak stands for both of the cells that are near to each other.
        "seuc6/recall": 1,
        "seuc8/F1": 1,
        "edt8/recall": 2 / 3,
        "edt8/unmatched": 1,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_sisters_are_paired_over_the_tracks_that_were_found():
    """Six pairs that move as one, 0.9 µm apart and 3 µm from each other; one sister is lost for good, one in a frame."""
    frames = []
    for t in range(5):
        middle = np.stack(np.meshgrid([0.0, 3.0], [0.0, 3.0, 6.0], indexing="ij"), -1).reshape(-1, 2)
        place = np.repeat(np.column_stack([np.full(6, 3.0), middle + 3 + 0.1 * t]), 2, axis=0)
        place[1::2, 2] += 0.9
        truth = place / SPACING
        lost = [3] if t != 2 else [3, 8]
        frames.append(frame_of(truth, np.delete(truth, lost, 0))._replace(frame=t))
    found = scores(frames, linkers=("hungarian",), sisters=dataclasses.asdict(KINETOCHORES))
    assert found["pairs_precision"] == 1
    # The linker fills the gap of a frame.
    assert found["pairs_recall"] == pytest.approx(5 / 6)
    assert found["pairs_F1"] == pytest.approx(10 / 11)
