"""Bursts, whose cells are boxes alone: what is read from disk, what is refused, and what of it the store holds."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile

from celltrack_jax.data import prepare, sources, store
from celltrack_jax.errors import InputError
from celltrack_jax.io import bursts
from celltrack_jax.io.points import PointTable, write_mot
from tests import geff_graphs, mains
from tests.data import datasets

SHAPE = (24, 30)
NAME = "Burst4_A2_1_VesselID-29_1-0"
# frame, id, y, x; 2 pauses in frame 2, frame 3 has no cell.
CELLS = [[1, 1, 4, 5], [1, 2, 12, 20], [2, 1, 5, 5], [4, 2, 14, 22]]


def image(frame: int, shape=SHAPE) -> np.ndarray:
    return datasets.image(shape, frame, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A burst of four frames."""
    frame, label, y, x = np.array(CELLS, np.float64).T
    flat = np.zeros(len(frame))
    cells = PointTable(
        frame.astype(np.int64),
        label.astype(np.int64),
        np.stack([flat, y, x], axis=1),
        np.stack([flat + 1, flat + 6, flat + 5], axis=1),
    )
    images = np.stack([image(number) for number in range(1, 5)])
    bursts.write_burst(tmp_path / "train", NAME, images, cells)
    return tmp_path / "train"


def opened(folder: Path, **options) -> sources.Source:
    (source,) = sources.open_sources(folder, "bursts", None, **options)
    return source


def launch(*flags: str) -> subprocess.CompletedProcess:
    return mains.call("prepare", "--format=bursts", *flags)


def test_a_burst_is_read_as_it_was_written(folder):
    source = opened(folder)
    assert source.name == NAME
    assert list(source.files) == [1, 2, 3, 4]
    assert source.tracks_file == folder / NAME / "gt" / "gt.txt"
    assert source.lineage is not None
    assert source.lineage.rows().tolist() == [[1, 1, 2, 0], [2, 1, 4, 0]]
    for number in source.files:
        frame = source.read(number)
        np.testing.assert_array_equal(frame.image[0, 0], image(number))
        assert frame.points is not None
        cells = np.column_stack([frame.points.label, frame.points.position[:, 1:]])
        assert cells.tolist() == [row[1:] for row in CELLS if row[0] == number]
        assert (frame.points.size == [1, 6, 5]).all()


def test_the_store_holds_the_boxes(folder, tmp_path):
    source = opened(folder)
    for _ in range(2):  # the second time, it is whole already
        prepare.prepare(
            tmp_path / "store",
            [source],
            layout="bursts",
            origin="train",
            spacing_um=None,
            advance=lambda name, frames: None,
        )
    (movie,) = store.open_store(tmp_path / "store")
    assert movie.shape == (4, 1, 1, *SHAPE)
    assert movie.image.dtype.numpy_dtype == np.uint8
    assert movie.annotation == ["points"] * 4
    assert movie.pointed.all()
    rows = [[frame - 1, 0, y, x, label, 1, 6, 5] for frame, label, y, x in CELLS]
    assert movie.points.tolist() == rows
    tracks = geff_graphs.read(tmp_path / "store" / f"{NAME}.geff")
    assert tracks.frame[tracks.edges].tolist() == [[1, 2], [1, 4]]


def test_a_burst_of_one_frame_and_files_of_any_digits_and_dtype(tmp_path):
    pixels = tmp_path / NAME / "img1"
    pixels.mkdir(parents=True)
    (tmp_path / NAME / "gt").mkdir()
    (tmp_path / NAME / "gt" / "gt.txt").write_text("9,1,2,3,4,5\n")
    tifffile.imwrite(pixels / "9.tif", image(9).astype(np.uint16) * 50)
    assert list(opened(tmp_path).files) == [9]
    (tmp_path / NAME / "gt" / "gt.txt").write_text("9,1,2,3,4,5\n10,1,2,3,4,5\n")
    tifffile.imwrite(pixels / "010.tiff", image(10).astype(np.uint16) * 50)
    source = opened(tmp_path)
    assert list(source.files) == [9, 10]
    np.testing.assert_array_equal(source.read(10).image[0, 0], image(10).astype(np.uint16) * 50)


def test_frames_that_are_missing_are_refused_unless_they_are_allowed(folder):
    (folder / NAME / "img1" / "000002.tiff").unlink()
    with pytest.raises(InputError, match=r"img1/000002\.tiff, frame 2: the file is missing.*--allow_gaps"):
        opened(folder)
    source = opened(folder, allow_gaps=True)
    assert list(source.files) == [1, 3, 4]
    assert source.lineage is not None
    assert source.lineage.rows().tolist() == [[1, 1, 2, 0], [2, 1, 4, 0]]


def test_boxes_of_frames_beyond_the_last_image_are_refused(folder):
    (folder / NAME / "img1" / "000004.tiff").unlink()
    with pytest.raises(InputError, match=r"img1/000004\.tiff, frame 4: the file is missing.*copy what is"):
        opened(folder)
    assert list(opened(folder, allow_gaps=True).files) == [1, 2, 3]


@pytest.mark.parametrize("spread", [3, 4])
def test_colours_have_to_be_nearly_alike(spread, folder):
    colours = np.stack([image(2)] * 3, axis=-1)
    colours[5, 6] = [100, 100, 100 - spread]
    tifffile.imwrite(folder / NAME / "img1" / "000002.tiff", colours, photometric="rgb")
    if spread == 3:
        np.testing.assert_array_equal(opened(folder).read(2).image[0, 0], colours[..., 0])
        return
    with pytest.raises(InputError, match=r"000002\.tiff \(frame 2\) has colours: .* by up to 4 .*convert it"):
        opened(folder).read(2)


def damage_boxes(text: str):
    return lambda burst: (burst / "gt" / "gt.txt").write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_boxes(""), ("gt.txt has no box, so", "copy the file again", "--sequences")),
        (damage_boxes("1,1,90,4,5,6\n"), ("gt.txt has no box in the frame",)),
        (damage_boxes("1,1,2,4,5,6\n1,1,9,9,5,6\n"), ("gt.txt, line 2: frame 1 has the id 1 already",)),
        (lambda burst: shutil.rmtree(burst / "gt"), ("gt/gt.txt does not exist: copy it", "--sequences")),
        (lambda burst: shutil.rmtree(burst / "img1"), ("img1 is not a folder",)),
        (
            lambda burst: [path.unlink() for path in (burst / "img1").iterdir()],
            ("img1 holds no images: write them as 1.tiff",),
        ),
        (
            lambda burst: tifffile.imwrite(burst / "img1" / "1.tif", image(1)),
            ("frame 1 is also in 000001.tiff; keep one",),
        ),
        (
            lambda burst: tifffile.imwrite(burst / "img1" / "000001.tiff", image(1, (2, *SHAPE))),
            ("000001.tiff (frame 1) has 2 planes", "boxes have no z"),
        ),
        (
            lambda burst: (burst / "img1" / "000001.tiff").write_bytes(b"II*\0"),
            ("cannot read", "000001.tiff (frame 1)"),
        ),
    ],
)
@pytest.mark.parametrize("allow_gaps", [False, True])
def test_bad_bursts_are_named_with_a_cure(damage, words, allow_gaps, folder):
    damage(folder / NAME)
    with pytest.raises(InputError) as caught:
        opened(folder, allow_gaps=allow_gaps)
    assert [word for word in (NAME, *words) if word not in str(caught.value)] == []


def test_the_folder_of_the_splits_is_not_one_of_them(folder, tmp_path):
    with pytest.raises(InputError, match=r"holds no bursts but its folders train do: give one of them"):
        opened(folder.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no images in the layout 'bursts'"):
        opened(tmp_path / "empty")


def test_a_folder_of_another_layout_says_which(folder):
    with pytest.raises(InputError, match=r"holds no images in the layout 'ctc': give --format=bursts"):
        sources.open_sources(folder, "ctc", None)


def test_boxes_outside_of_the_frame_are_noted_on_the_terminal(folder, tmp_path):
    boxes = folder / NAME / "gt" / "gt.txt"
    boxes.write_text(boxes.read_text() + "2,3,29,2,5,6\n4,5,-20,2,5,6\n")
    done = launch(f"--source={folder}", f"--store={tmp_path / 'store'}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        f"note: {boxes}: the middle of 2 boxes lies outside of the frame of 24 x 30; left out: frame 2 id 3, "
        "frame 4 id 5\n"
    )
    assert "1 sequences, 4 frames, 1 sequences written" in done.stdout
    (movie,) = store.open_store(tmp_path / "store")
    assert movie.lineage is not None
    assert set(movie.points[:, 4]) == set(movie.lineage.label.tolist()) == {1, 2}
    write_mot(boxes, bursts.open_burst(folder, NAME).cells)
    done = launch(f"--source={folder}", f"--store={tmp_path / 'store'}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "prepared from other files" in done.stderr
