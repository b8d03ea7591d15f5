"""Data sets are checked when they are opened, before any image is read."""

import shutil

import numpy as np
import pytest
import tifffile

from celltrack_jax.data import sources
from celltrack_jax.errors import InputError
from tests.ctc_folders import write_rows
from tests.data import datasets

ROWS = [[1, 0, 3, 0], [2, 0, 1, 0], [3, 2, 3, 2], [4, 2, 3, 2]]


@pytest.fixture
def dataset(tmp_path):
    """A movie of four frames in which 2 divides into 3 and 4."""
    return datasets.write_movie(tmp_path / "set")


@pytest.fixture
def no_reading(monkeypatch):
    """Lets the test fail where an image is read."""
    monkeypatch.setattr(sources.pixels, "read_tif", None)
    monkeypatch.setattr(tifffile, "TiffFile", None)


def opened(dataset, **options) -> list[sources.Source]:
    return sources.open_sources(dataset, "ctc", None, **options)


def test_a_movie_that_is_whole_is_opened(dataset, no_reading):
    (source,) = opened(dataset)
    assert list(source.files) == [0, 1, 2, 3]
    assert source.tracks_file == dataset / "01_GT" / "TRA" / "man_track.txt"


@pytest.mark.parametrize("allow_gaps", [False, True])
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [*ROWS[:2], [3, 1, 3, 2], ROWS[3]],
            ("label 3", "line 3", "parent 2 lives to frame 1", "begins in frame 1"),
        ),
        ([*ROWS, [4, 2, 3, 0]], ("label 4", "lines 4, 5 have the same label")),
        ([*ROWS[:3], [4, 3, 2, 2]], ("label 4", "ends in frame 2 before it begins in frame 3")),
        ([*ROWS[:3], [4, 2, 3, 9]], ("label 4", "no track for the parent 9")),
        ([*ROWS[:3], [4, 2, 3, 4]], ("label 4", "its own parent")),
        ([*ROWS, [0, 2, 3, 0]], ("label 0", "labels are positive")),
        ([*ROWS[:2], [3, 1, 3, 2], [4, 1, 3, 2]], ("label 3", "(and 1 more)")),
    ],
)
def test_a_track_file_that_contradicts_itself_is_refused(rows, words, allow_gaps, dataset, no_reading):
    write_rows(dataset / "01_GT" / "TRA" / "man_track.txt", rows)
    with pytest.raises(InputError) as caught:
        opened(dataset, allow_gaps=allow_gaps)
    message = str(caught.value)
    assert [word for word in ("man_track.txt", *words, "; correct the file") if word not in message] == []


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["01/t001.tif"], ("01/t001.tif, frame 1: the file is missing",)),
        (["01/t001.tif", "01/t002.tif"], ("t001.tif, frame 1: the files of frames 1 to 2 are missing",)),
        (["01/t003.tif"], ("01/t003.tif, frame 3: the file is missing",)),
        (["01_GT/TRA/man_track000.tif"], ("TRA/man_track000.tif, frame 0: the file is missing",)),
        (["01_GT/TRA/man_track003.tif"], ("TRA/man_track003.tif, frame 3: the file is missing",)),
        (
            [f"01_GT/TRA/man_track{t:03d}.tif" for t in range(4)],
            ("man_track000.tif, frame 0: the files of frames 0 to 3 are",),
        ),
        (
            ["01_GT/TRA/man_track000.tif", "01_GT/TRA/man_track002.tif"],
            ("man_track000.tif, frame 0: the file is missing", "(and 1 more)"),
        ),
        (
            ["01/t003.tif", "01_GT/TRA/man_track003.tif", "01_GT/SEG/man_seg003.tif"],
            ("man_track.txt, frame 3, label 1: the track lives in frames 0 to 3", "of frames 0 to 2"),
        ),
    ],
)
def test_gaps_are_refused_unless_they_are_allowed(missing, words, dataset, no_reading):
    for path in missing:
        (dataset / path).unlink()
    with pytest.raises(InputError) as caught:
        opened(dataset)
    assert [word for word in (*words, "--allow_gaps") if word not in str(caught.value)] == []
    (source,) = opened(dataset, allow_gaps=True)
    assert len(source.files) == 4 - sum(path.startswith("01/") for path in missing)


def test_outlines_of_some_frames_are_no_gap(dataset, no_reading):
    for frame in (0, 2):
        (dataset / "01_GT" / "SEG" / f"man_seg{frame:03d}.tif").unlink()
    assert opened(dataset)


def test_a_movie_that_starts_late_and_one_without_annotation_have_no_gaps(tmp_path, no_reading):
    dataset = datasets.write_movie(tmp_path / "set", frames=range(998, 1003))
    datasets.write_ctc(dataset, "02", images={frame: datasets.image((9, 9), 0) for frame in (4, 5)})
    assert [len(source.files) for source in opened(dataset)] == [5, 2]


def test_grey_values_stored_as_colours_are_images_of_one_channel(tmp_path):
    grey = datasets.image((20, 30), 0, np.uint8)
    dataset = datasets.write_ctc(tmp_path / "set", images={4: grey})
    path = dataset / "01" / "t004.tif"
    tifffile.imwrite(path, np.stack([grey] * 3, axis=-1), photometric="rgb")
    np.testing.assert_array_equal(opened(dataset)[0].read(4).image, grey[None, None])
    tifffile.imwrite(path, np.stack([grey, grey, grey + 1], axis=-1), photometric="rgb")
    with pytest.raises(InputError, match=r"t004\.tif \(frame 4\) has colours: .*convert it to grey"):
        opened(dataset)[0].read(4)


@pytest.mark.parametrize(
    ("name", "layout", "gaps"),
    [
        ("Fluo-N2DH-SIM+", "ctc", False),
        ("Fluo-N2DH-GOWT1", "ctc", False),
        ("Fluo-N2DL-HeLa_partial", "ctc", True),
        ("DSB2018-fluo", "dsb", False),
    ],
)
def test_real_data_need_allow_gaps_only_where_frames_are_missing(name, layout, gaps, real_data, no_reading):
    if gaps:
        with pytest.raises(InputError, match=r"01/t001\.tif, frame 1: the file is missing.*--allow_gaps"):
            sources.open_sources(real_data(name), layout, None)
    assert sources.open_sources(real_data(name), layout, None, allow_gaps=gaps)


def test_annotation_alone_is_a_movie_without_images(dataset):
    shutil.rmtree(dataset / "01")
    (source,) = opened(dataset)
    assert not source.has_images
    assert list(source.files) == [0, 1, 2, 3]
    frame = source.read(2)
    assert not frame.image.any()
    assert frame.image.shape[1:] == frame.masks["markers"].shape
    assert source.lineage is not None
    (dataset / "01_GT" / "TRA" / "man_track002.tif").unlink()
    with pytest.raises(InputError, match=r"man_track002.tif"):
        opened(dataset)


def test_a_data_set_with_images_leaves_out_what_has_none(dataset):
    datasets.write_movie(dataset, "02")
    shutil.rmtree(dataset / "02")
    assert [source.name for source in opened(dataset)] == ["01"]
