"""Synthetic bright field: a valid CTC data set, silver outlines near the truth, cells that no threshold finds."""

import hashlib

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage import filters

from celltrack_jax.data.synthetic import Movie, write_ctc
from celltrack_jax.data.synthetic.bright_field import (
    make_bright_field,
    silver_outlines,
    write_bright_field,
)
from celltrack_jax.io import ctc
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.instances import pixel_iou
from celltrack_jax.metrics.overlap import overlap
from tests.ctc_validators import validate_truth

SHAPE = (300, 320)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two sequences of twelve small frames."""
    folder = tmp_path_factory.mktemp("bright_field")
    write_bright_field(folder, sequences=2, frames=12, shape=SHAPE, seed=0)
    return folder


@pytest.fixture(scope="module")
def movie():
    return make_bright_field(40, (400, 410), 1)


def test_it_is_a_ctc_data_set_with_gold_in_few_frames_and_silver_in_all(root):
    assert ctc.find_sequences(root) == ["01", "02"]
    for name in ("01", "02"):
        assert validate_truth(root / f"{name}_GT") == []
        assert len(list((root / name).iterdir())) == 12
        gold = sorted(path.name for path in (root / f"{name}_GT" / "SEG").iterdir())
        assert gold == ["man_seg000.tif", "man_seg010.tif"]
        silver = sorted(path.name for path in (root / f"{name}_ST" / "SEG").iterdir())
        assert silver == [f"man_seg{t:03d}.tif" for t in range(12)]
        image = tifffile.imread(root / name / "t000.tif")
        assert (image.shape, image.dtype) == (SHAPE, np.uint8)


def test_numbers_have_four_digits_where_three_do_not_suffice(tmp_path):
    labels = np.ones((1001, 4, 4), np.uint16)
    movie = Movie(labels.astype(np.uint8), labels, Lineage.from_rows([(1, 0, 1000, 0)]), (0.645, 0.645))
    write_ctc(tmp_path, "01", movie, outlined=(0, 1000), silver=labels)
    assert (tmp_path / "01" / "t0000.tif").is_file()
    assert (tmp_path / "01_ST" / "SEG" / "man_seg1000.tif").is_file()
    gold = sorted(path.name for path in (tmp_path / "01_GT" / "SEG").iterdir())
    assert gold == ["man_seg0000.tif", "man_seg1000.tif"]
    assert validate_truth(tmp_path / "01_GT") == []


def test_cells_are_few_move_divide_and_touch(movie):
    counts = [len(np.unique(mask)) - 1 for mask in movie.labels]
    assert min(counts) >= 6
    assert max(counts) <= 28
    assert len(np.unique(movie.lineage.parent)) > 3
    sizes = np.concatenate([np.bincount(mask.ravel())[1:] for mask in movie.labels])
    diameter = 2 * np.sqrt(np.median(sizes[sizes > 0]) / np.pi)
    assert 16 <= diameter <= 24
    steps, touching = [], 0
    for before, after in zip(movie.labels[:-1], movie.labels[1:], strict=True):
        both = np.intersect1d(before[before > 0], after[after > 0])
        middles = (np.array(ndimage.center_of_mass(mask > 0, mask, both)) for mask in (before, after))
        steps.extend(np.linalg.norm(np.subtract(*middles), axis=1))
        ys, xs = after[:-1, :-1], after[:-1, 1:]
        touching += bool(np.any((ys != xs) & (ys > 0) & (xs > 0)))
    assert 3 <= np.median(steps) <= 10
    assert touching >= 2


def test_shapes_change_from_round_to_spindle(movie):
    ratios = []
    for mask in movie.labels:
        for label in np.unique(mask[mask > 0]):
            points = np.argwhere(mask == label)
            if points.min() > 0 and np.all(points.max(axis=0) < np.array(mask.shape) - 1):
                low, high = np.linalg.eigvalsh(np.cov(points.T))
                ratios.append(np.sqrt(high / low))
    assert np.percentile(ratios, 10) < 1.3
    assert np.percentile(ratios, 90) > 2


def test_silver_is_near_the_truth_and_not_the_truth(movie):
    silver = list(silver_outlines(movie.labels, 5))
    near = pixel_iou(overlap(*pair, t) for t, pair in enumerate(zip(movie.labels, silver, strict=True)))
    assert near is not None
    assert 0.75 < near < 0.97
    missed = 0
    for t, (mask, made) in enumerate(zip(movie.labels, silver, strict=True)):
        present, found = set(np.unique(mask)), set(np.unique(made))
        assert found <= present
        missed += len(present - found)
        for label in found - {0} if t % 8 == 0 else ():
            assert np.any((mask == label) & (made == label))
            distance = np.asarray(ndimage.distance_transform_edt(mask != label))
            assert distance[made == label].max() <= 2
    assert 0 < missed < 0.2 * sum(len(np.unique(mask)) - 1 for mask in movie.labels)


def test_contrast_is_low_and_light_drifts(movie):
    images = movie.images.astype(float)
    for image, mask in zip(images[::10], movie.labels[::10], strict=True):
        cells, dish = image[mask > 0], image[mask == 0]
        assert abs(cells.mean() - dish.mean()) < 8, "cells are as bright as the dish in the mean"
        assert 1.5 < cells.std() / dish.std() < 6
        assert np.mean((image == 0) | (image == 255)) == 0
    wide = [ndimage.gaussian_filter(image, 30) for image in (images[0], images[20])]
    assert np.abs(wide[0] - wide[1]).max() > 2


def test_no_threshold_segments_it(movie):
    """Neither the best of all thresholds of the image, nor Otsu's of its distance from the local mean."""
    for image, mask in zip(movie.images[::10].astype(float), movie.labels[::10], strict=True):
        best = max(
            iou(mask, side)
            for level in range(int(image.min()), int(image.max()))
            for side in (image > level, image <= level)
        )
        assert best < 0.5
        apart = np.abs(image - ndimage.gaussian_filter(image, 20))
        assert iou(mask, apart > filters.threshold_otsu(apart)) < 0.5


def iou(mask: np.ndarray, found: np.ndarray) -> float:
    return float(np.sum((mask > 0) & found) / np.sum((mask > 0) | found))


def test_a_seed_gives_the_same_bytes_and_more_sequences_change_none(root, tmp_path):
    write_bright_field(tmp_path / "again", sequences=1, frames=12, shape=SHAPE, seed=0)
    write_bright_field(tmp_path / "other", sequences=1, frames=12, shape=SHAPE, seed=1)
    for sub in ("01", "01_GT", "01_ST"):
        assert hashes(tmp_path / "again" / sub) == hashes(root / sub)
        assert not set(hashes(tmp_path / "other" / sub).values()) & set(hashes(root / sub).values())


def hashes(folder) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
