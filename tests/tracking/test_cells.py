"""Measures of cells against scikit-image and against a loop over the voxels of each cell."""

import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops_table

from celltrack_jax.errors import InputError
from celltrack_jax.tracking import features
from celltrack_jax.tracking.cells import MEAN, STD, measure_and_embed, measure_cells, select
from celltrack_jax.tracking.features import detections_from_masks

SPACING = np.array([2.0, 0.5, 0.25])


@st.composite
def movies(draw):
    """Up to three frames (number, mask, image or None) of one shape, ids small or far beyond the voxels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from([(1, 1), (6, 7), (3, 5, 4), (1, 4, 6), (4, 1, 3)]))
    ids = np.array([0, *draw(st.sampled_from([(1, 2, 3), (4, 9), (), (7, 2**40)]))])
    numbers = sorted(draw(st.sets(st.integers(0, 1200), max_size=3)))
    bright = draw(st.sampled_from([0, 60_000]))
    images = [rng.integers(bright, bright + 9, shape).astype(np.uint16) for _ in numbers]
    seen = draw(st.booleans())
    return [
        (frame, rng.choice(ids, shape), image if seen else None)
        for frame, image in zip(numbers, images, strict=True)
    ]


def brute_force(frames):
    """Covariance, box and intensity of each cell, voxel by voxel."""
    rows = []
    for _, mask, image in frames:
        for label in np.unique(mask[mask > 0]):
            voxels = np.argwhere(mask == label)
            padded = np.zeros((len(voxels), 3))
            padded[:, 3 - mask.ndim :] = voxels
            values = np.full(1, np.nan) if image is None else image[mask == label].astype(np.float64)
            rows.append(
                (
                    np.cov((padded * SPACING).T, bias=True).reshape(3, 3),
                    padded.min(0),
                    padded.max(0) + 1,
                    [values.min(), values.mean(), values.max(), values.std()],
                )
            )
    return [np.array(column) for column in zip(*rows, strict=True)]


@settings(deadline=None, max_examples=60)
@given(movies())
def test_measures_are_those_of_a_loop(frames):
    cells = measure_cells(frames, SPACING)
    plain = detections_from_masks([(frame, mask) for frame, mask, _ in frames], SPACING)
    for one, two in zip(cells.detections, plain, strict=True):
        np.testing.assert_array_equal(one, two)
    if len(plain.frame):
        covariance, low, high, intensity = brute_force(frames)
        np.testing.assert_allclose(cells.covariance_um, covariance, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(cells.low, low)
        np.testing.assert_array_equal(cells.high, high)
        np.testing.assert_allclose(cells.intensity, intensity, rtol=1e-6, atol=1e-6)
    voxels = cells.detections.volume_um / np.prod(cells.spacing_um)
    assert voxels.sum() == pytest.approx(sum((mask > 0).sum() for _, mask, _ in frames))
    shape = frames[0][1].shape if frames else (0, 0, 0)
    assert cells.shape.tolist() == [*(1,) * (3 - len(shape)), *shape]


@settings(deadline=None, max_examples=30)
@given(movies())
def test_measures_are_those_of_scikit_image(frames):
    cells = measure_cells(frames, SPACING)
    spacing = cells.spacing_um
    for frame, mask, image in frames:
        names, compact = np.unique(mask, return_inverse=True)
        compact = compact.reshape(mask.shape) + (names[0] != 0)
        whole = compact[(None,) * (3 - mask.ndim)]
        told = regionprops_table(
            whole,
            None if image is None else image.astype(np.float64).reshape(whole.shape),
            properties=(
                "area",
                "bbox",
                "centroid",
                *(() if image is None else ("intensity_mean", "intensity_std")),
            ),
        )
        here = select(cells, cells.detections.frame == frame)
        assert here.detections.label.tolist() == names[names > 0].tolist()
        np.testing.assert_allclose(here.detections.volume_um / np.prod(spacing), told["area"])
        for axis in range(3):
            np.testing.assert_array_equal(here.low[:, axis], told[f"bbox-{axis}"])
            np.testing.assert_array_equal(here.high[:, axis], told[f"bbox-{axis + 3}"])
            centre = here.detections.position_um[:, axis] / spacing[axis]
            np.testing.assert_allclose(centre, told[f"centroid-{axis}"])
        if image is not None:
            np.testing.assert_allclose(here.intensity[:, MEAN], told["intensity_mean"], rtol=1e-6)
            np.testing.assert_allclose(here.intensity[:, STD], told["intensity_std"], rtol=1e-6, atol=1e-6)


def test_a_frame_measured_in_blocks_is_measured_whole(monkeypatch):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 9, (6, 5, 7)).astype(np.uint16)
    image = rng.random(mask.shape).astype(np.float32)
    whole = measure_cells([(0, mask, image)], SPACING)
    monkeypatch.setattr(features, "BLOCK", 40)
    blocks = measure_cells([(0, mask, image)], SPACING)
    for one, two in zip(whole.detections + whole[1:], blocks.detections + blocks[1:], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_frames_are_let_go_of():
    alive: list[weakref.ref[np.ndarray]] = []

    def frames():
        for number in range(4):
            assert all(one() is None for one in alive[:-1])
            mask = np.full((9, 9), number + 1)
            alive.append(weakref.ref(mask))
            yield number, mask, None

    assert measure_cells(frames(), SPACING).detections.label.tolist() == [1, 2, 3, 4]


@settings(deadline=None, max_examples=20)
@given(movies())
def test_an_embedder_is_given_each_frame_with_its_cells(frames):
    class Sums:
        outputs, needs_range = 2, True
        light: Any = None

        def of_movie(self, least, largest):
            self.light = least, largest
            return self

        def __call__(self, labels, image, ids, low, high):
            boxes = [
                tuple(slice(*ends) for ends in box) for box in np.stack([low, high], -1)[:, -labels.ndim :]
            ]
            size = [(labels[box] == label).sum() for box, label in zip(boxes, ids, strict=True)]
            light = np.zeros(len(ids)) if image is None else [image[labels == label].max() for label in ids]
            return np.stack([size, light], -1).astype(np.float32).reshape(-1, 2)

    embed = Sums()
    cells = measure_and_embed(lambda: frames, SPACING, embed)
    light = np.concatenate([np.zeros(0), *(i[m > 0] for _, m, i in frames if i is not None)])
    assert embed.light == pytest.approx((light.min(initial=np.inf), light.max(initial=-np.inf)), rel=1e-6)
    assert cells.embedding.shape == (len(cells.low), 2)
    voxels = cells.detections.volume_um / np.prod(cells.spacing_um)
    np.testing.assert_allclose(cells.embedding[:, 0], voxels)
    np.testing.assert_array_equal(cells.embedding[:, 1], np.nan_to_num(cells.intensity[:, 2]))
    assert measure_cells(frames, SPACING).embedding.shape == (len(cells.low), 0)


def test_what_does_not_belong_together_is_refused():
    mask = np.ones((2, 3), np.int32)
    with pytest.raises(InputError, match=r"frame 7 has an image of shape \(3, 2\) for a mask of \(2, 3\)"):
        measure_cells([(6, mask, None), (7, mask, mask.T)], np.ones(3))
    with pytest.raises(InputError, match=r"frame 7 is of shape \(3, 2\), those before of \(2, 3\)"):
        measure_cells([(6, mask, None), (7, mask.T, None)], np.ones(3))
    with pytest.raises(ValueError, match="frame 6 comes after frame 6"):
        measure_cells([(6, mask, None), (6, mask, None)], np.ones(3))
    with pytest.raises(ValueError, match="label -1"):
        measure_cells([(0, -mask, None)], np.ones(3))
