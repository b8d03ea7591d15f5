"""Synthetic bursts: as crowded as HeLa bursts, boxes that are those of the cells, and the same bytes for a seed."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from scipy.spatial import KDTree

from celltrack_jax.data.synthetic import make_movie
from celltrack_jax.data.synthetic.bursts import CROWDED, boxes, write_bursts
from celltrack_jax.io import bursts

SHAPE = (336, 464)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two bursts to train on and one to test on, of six frames."""
    folder = tmp_path_factory.mktemp("bursts")
    write_bursts(folder, train=2, test=1, frames=6, seed=0)
    return folder


def every(root) -> list[bursts.Burst]:
    splits = (root / "train", root / "test")
    return [bursts.open_burst(split, name) for split in splits for name in bursts.find_bursts(split)]


def test_splits_are_bursts_of_wells_of_their_own(root):
    names = [burst.name for burst in every(root)]
    assert names == [f"Burst{n}_A{n}_1_VesselID-29_1-0" for n in (1, 2, 3)]
    assert bursts.find_bursts(root / "test") == names[2:]
    for burst in every(root):
        assert list(burst.images) == list(range(1, 7))
        assert set(burst.cells.frame.tolist()) == set(burst.images)
        assert burst.notes == []


def test_images_are_grey_values_of_8_bits_stored_as_colours(root):
    for burst in every(root):
        for path in burst.images.values():
            colours = tifffile.imread(path)
            assert (colours.shape, colours.dtype) == ((*SHAPE, 3), np.uint8)
            assert (colours == colours[..., :1]).all()
            assert (colours == 255).mean() < 0.01


def test_cells_are_as_many_and_as_near_as_in_hela_bursts(root):
    counts, nearest, pairs = [], [], 0
    for burst in every(root):
        for frame in burst.images:
            middle = burst.cells.position[burst.cells.frame == frame][:, 1:]
            tree = KDTree(middle)
            counts.append(len(middle))
            nearest.append(tree.query(middle, k=2)[0][:, 1])
            first, second = tree.query_pairs(14, output_type="ndarray").T
            pairs += int((np.linalg.norm(middle[first] - middle[second], axis=1) >= 10).sum())
    assert np.mean(counts) == pytest.approx(80, abs=8)
    assert 20 <= np.median(np.concatenate(nearest)) <= 26
    assert 0.5 <= pairs / len(counts) <= 3


def test_boxes_are_those_of_the_cells():
    movie = make_movie(replace(CROWDED, frames=2), 3)
    cells = boxes(movie)
    assert len(cells.frame) == sum(len(np.unique(mask[mask > 0])) for mask in movie.labels)
    for frame, label, (_, y, x), (depth, height, width) in zip(*cells, strict=True):
        rows, columns = np.nonzero(movie.labels[frame - 1] == label)
        assert (y, x) == (
            rows.min() + (np.ptp(rows) + 1) // 2,
            columns.min() + (np.ptp(columns) + 1) // 2,
        )
        assert (depth, height, width) == (1, np.ptp(rows) + 1, np.ptp(columns) + 1)


def test_a_seed_gives_the_same_bytes_and_more_bursts_change_none(root, tmp_path):
    write_bursts(tmp_path / "again", train=1, test=0, frames=6, seed=0)
    write_bursts(tmp_path / "other", train=1, test=0, frames=6, seed=1)
    first = hashes(root / "train" / "Burst1_A1_1_VesselID-29_1-0")
    assert hashes(tmp_path / "again" / "train" / "Burst1_A1_1_VesselID-29_1-0") == first
    other = hashes(tmp_path / "other" / "train" / "Burst1_A1_1_VesselID-29_1-0")
    assert other.keys() == first.keys()
    assert not set(other.values()) & set(first.values())


def hashes(folder) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
