"""What a threshold and a watershed find where they can: bright discs, touching ones apart, textured ones, nothing."""

import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax.inference.threshold import threshold_and_watershed
from celltrack_jax.metrics.competition import competition_measures
from celltrack_jax.metrics.overlap import overlap
from tests.data.collections_on_disk import discs

SHAPE = (90, 110)


def score(labels, image) -> float:
    found = threshold_and_watershed(image)
    assert (found.shape, found.dtype) == (labels.shape, np.int32)
    return competition_measures([overlap(labels, found, 0)])["AP50"] or 0.0


def textured(labels: np.ndarray) -> np.ndarray:
    """Grains in cells, of the background's mean, in a background that is brighter on one side."""
    grains = 40 * np.random.default_rng(0).choice([-1, 1], labels.shape) * (labels > 0)
    return 100 + grains + np.linspace(0, 20, labels.shape[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_bright_discs_are_found_and_touching_ones_divided(dtype):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    labels = discs(SHAPE, 9.0, 1)
    labels[:] = 0
    for label, centre in enumerate(((30, 30), (30, 47), (65, 80)), 1):
        labels[((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= 81) & (labels == 0)] = label
    noise = np.random.default_rng(1).normal(0, 3, SHAPE)
    image = np.clip(20 + 100 * ndimage.gaussian_filter((labels > 0) * 1.0, 1) + noise, 0, 255)
    assert score(labels, image.astype(dtype)) == 1


def test_cells_may_differ_from_the_background_by_texture_alone():
    labels = discs(SHAPE, 12.0, 1)
    assert score(labels, textured(labels)) == 1


def test_an_image_of_one_value_has_no_cell():
    assert not threshold_and_watershed(np.full(SHAPE, 7, np.uint8)).any()
