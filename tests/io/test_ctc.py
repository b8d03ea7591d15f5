"""Reading and writing CTC folders: what is written is read, and what cannot be read is never read in part."""

import errno
import os
import shutil

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.io import ctc
from celltrack_jax.io.tif import read_tif
from celltrack_jax.lineage import Lineage
from tests.ctc_folders import movies, write_masks, write_truth

VOLUME = np.random.default_rng(0).integers(0, 9, (3, 40, 50)).astype(np.uint16)
LAYOUTS = {
    "pages": {"metadata": None},
    "shaped": {},
    "truncated_series": {"truncate": True},
    "imagej": {"imagej": True},
    "ome": {"ome": True},
    "bigtiff": {"bigtiff": True},
    "big_endian": {"byteorder": ">"},
    "small_strips": {"rowsperstrip": 3, "compression": "lzw"},
    "deflate_predictor": {"compression": "zlib", "predictor": True},
    "packbits": {"compression": "packbits"},
    "lzma": {"compression": "lzma"},
    "zstd_tiles": {"compression": "zstd", "tile": (16, 16)},
    "volume_tiles": {"volumetric": True, "tile": (16, 16, 16)},
}
OPTIONS = {"deadline": None, "max_examples": 25}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("image", [VOLUME, VOLUME[0], VOLUME.astype(np.uint8)], ids=["3d", "2d", "uint8"])
def test_reads_every_layout_and_compression(tmp_path, layout, image):
    if image.ndim == 2 and layout in ("truncated_series", "volume_tiles"):
        pytest.skip("a layout of volumes")
    path = tmp_path / "t0007.tif"
    tifffile.imwrite(path, image, photometric="minisblack", **LAYOUTS[layout])
    read = ctc.read_image(path)
    assert read.dtype == image.dtype
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "i4", "f4", "f8", "?"])
def test_keeps_the_dtype(tmp_path, dtype):
    image = (VOLUME[0] % 2).astype(dtype)
    tifffile.imwrite(tmp_path / "t000.tif", image)
    assert ctc.read_image(tmp_path / "t000.tif").dtype == image.dtype


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_truncated_file_is_never_read_in_part(tmp_path, layout):
    path = tmp_path / "mask012.tif"
    tifffile.imwrite(path, VOLUME, photometric="minisblack", **LAYOUTS[layout])
    whole = path.read_bytes()
    refused = []
    for cut in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:cut])
        try:
            image = ctc.read_image(path)
        except InputError as error:
            refused.append(str(error))
        else:  # only metadata behind the pixels is gone
            np.testing.assert_array_equal(image, VOLUME)
    assert len(refused) > 30
    assert all("mask012.tif (frame 12)" in message for message in refused)
    assert not any("zip()" in message for message in refused)
    assert "truncated" in refused[-1] or "failed to read" in refused[-1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("integer modulo by zero"), "it is damaged, probably truncated; write"),
        (IndexError("list index out of range"), "it is damaged, probably truncated; write"),
        (ValueError("unknown\n compression"), "unknown compression; write"),
    ],
)
def test_what_a_library_says_of_its_own_stumbling_is_not_told(tmp_path, monkeypatch, error, said):
    path = tmp_path / "mask012.tif"
    tifffile.imwrite(path, VOLUME[0])

    def stumbles(*_, **__):
        raise error

    monkeypatch.setattr(tifffile, "TiffFile", stumbles)
    with pytest.raises(InputError, match=rf"cannot read .*mask012\.tif \(frame 12\): {said}"):
        ctc.read_image(path)


def test_an_empty_file_is_called_so(tmp_path):
    (tmp_path / "mask012.tif").touch()
    with pytest.raises(InputError, match=r"mask012\.tif \(frame 12\): it is empty"):
        ctc.read_image(tmp_path / "mask012.tif")


def test_pages_without_data_are_refused(tmp_path):
    """Zero offsets are sparse pages by some extensions of the format; in a mask they are a writer's crash."""
    path = tmp_path / "mask012.tif"
    tifffile.imwrite(path, VOLUME[0], metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["StripOffsets"].overwrite(0)
    with pytest.raises(InputError, match=r"mask012.tif \(frame 12\): truncated: page 0 has no data"):
        ctc.read_image(path)


def test_ome_metadata_do_not_add_planes_of_other_files(tmp_path):
    names = ("t000.tif", "t001.tif")
    planes = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="2"><UUID FileName="{name}">urn:uuid:{t}</UUID></TiffData>'
        for t, name in enumerate(names)
    )
    description = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="50" SizeY="40" '
        f'SizeZ="2" SizeC="1" SizeT="2">{planes}</Pixels></Image></OME>'
    )
    for t, name in enumerate(names):
        tifffile.imwrite(tmp_path / name, VOLUME[t : t + 2], description=description, metadata=None)
    assert tifffile.imread(tmp_path / names[0]).shape == (2, 2, 40, 50)
    np.testing.assert_array_equal(ctc.read_image(tmp_path / names[1]), VOLUME[1:])


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "mask012.tif"
    tifffile.imwrite(path, VOLUME[0], compression="zlib")
    data = bytearray(path.read_bytes())
    data[-200:-100] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cannot read .*mask012.tif \(frame 12\).*again"):
        ctc.read_image(path)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((20, 30, 4), np.uint8), "4 samples per pixel"),
        (np.zeros((2, 4, 20, 30), np.uint8), "one channel"),
    ],
)
def test_colours_and_channels_are_refused(tmp_path, image, text):
    tifffile.imwrite(tmp_path / "t001.tif", image, photometric="rgb" if image.ndim == 3 else "minisblack")
    with pytest.raises(InputError, match=text):
        ctc.read_image(tmp_path / "t001.tif")


COLOURS = {
    "pixels": {"photometric": "rgb"},
    "planar": {"photometric": "rgb", "planarconfig": "separate"},
    "plain": {"photometric": "rgb", "metadata": None},
    "imagej": {"photometric": "rgb", "imagej": True},
    "zlib": {"photometric": "rgb", "compression": "zlib", "predictor": True},
    "as_planes": {"photometric": "minisblack"},
    "as_plain_planes": {"photometric": "minisblack", "metadata": None},
}


STACKS_TOO = ("pixels", "plain", "zlib")


@pytest.mark.parametrize(
    ("layout", "image"),
    [*((name, VOLUME[0]) for name in COLOURS), *((name, VOLUME) for name in STACKS_TOO)],
)
def test_grey_values_stored_as_colours_are_grey_values(tmp_path, layout, image):
    path = tmp_path / "t007.tif"
    grey = image.astype(np.uint8)
    blue = grey.copy()
    blue[..., 3, 2] += 3
    axis = 0 if layout == "planar" else -1
    tifffile.imwrite(path, np.stack([grey] * 3, axis=axis), **COLOURS[layout])
    np.testing.assert_array_equal(ctc.read_image(path), grey)
    tifffile.imwrite(path, np.stack([grey, grey, blue], axis=axis), **COLOURS[layout])
    with pytest.raises(
        InputError, match=r"t007\.tif \(frame 7\) has colours: .* by up to 3 counts; convert it to grey"
    ):
        ctc.read_image(path)
    np.testing.assert_array_equal(read_tif(path, colour_tolerance=3), grey)


def test_narrow_stacks_are_no_colours(tmp_path):
    image = np.arange(15 * 20 * 3, dtype=np.uint16).reshape(15, 20, 3)
    tifffile.imwrite(tmp_path / "t000.tif", image, photometric="minisblack")
    np.testing.assert_array_equal(ctc.read_image(tmp_path / "t000.tif"), image)


def test_pages_of_different_shapes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "t001.tif") as tif:
        tif.write(VOLUME[0])
        tif.write(VOLUME[0, :30])
    with pytest.raises(InputError, match=r"page 1 is uint16 \(30, 50\), page 0 is uint16 \(40, 50\)"):
        ctc.read_image(tmp_path / "t001.tif")


def test_missing_file_and_folder(tmp_path):
    (tmp_path / "t001.tif").mkdir()
    for name in ("t000.tif", "t001.tif"):
        with pytest.raises(InputError, match=name):
            ctc.read_image(tmp_path / name)
    with pytest.raises(InputError, match="nowhere"):
        ctc.frame_files(tmp_path / "nowhere", "t")


@pytest.mark.parametrize("digits", [1, 3, 4, 6])
def test_frames_come_in_order_for_any_number_of_digits(tmp_path, digits):
    frames = [9, 3, 1000, 11]
    write_masks(tmp_path, "t", {frame: VOLUME[0] for frame in frames}, digits)
    for name in ("t.tif", "tt003.tif", "t003.txt", "._t003.tif", "t003.tif.partial", "mask003.tif"):
        (tmp_path / name).touch()
    (tmp_path / "t012.TIFF").touch()
    assert list(ctc.frame_files(tmp_path, "t")) == [3, 9, 11, 12, 1000]


def test_a_frame_with_two_files_is_refused(tmp_path):
    write_masks(tmp_path, "t", {5: VOLUME[0]}, 3)
    write_masks(tmp_path, "t", {5: VOLUME[0]}, 4)
    with pytest.raises(InputError, match=r"frame 5.*t0005.tif"):
        ctc.frame_files(tmp_path, "t")


def test_planes_and_whole_frames_of_seg(tmp_path):
    for name in ("man_seg_003_010", "man_seg_003_002", "man_seg007", "man_seg_0001_000"):
        tifffile.imwrite(tmp_path / f"{name}.tif", VOLUME[0])
    files = ctc.segmentation_files(tmp_path)
    assert {frame: [z for z, _ in planes] for frame, planes in files.items()} == {
        1: [0],
        3: [2, 10],
        7: [None],
    }
    assert list(files) == [1, 3, 7]
    tifffile.imwrite(tmp_path / "man_seg_007_001.tif", VOLUME[0])
    with pytest.raises(InputError, match=r"man_seg_007_001.tif: frame 7"):
        ctc.segmentation_files(tmp_path)


@settings(**OPTIONS)
@given(movies(), st.sampled_from([3, 4, 6]))
def test_writer_and_reader_agree(tmp_path_factory, movie, digits):
    folder = tmp_path_factory.mktemp("result") / "01_RES"
    lineage = Lineage.from_rows(movie.rows)
    with ctc.ResultWriter(folder, digits) as writer:
        for frame, mask in movie.masks.items():
            writer.write(frame, mask.astype(np.int64))
        writer.finish(lineage)
    files, read = ctc.read_result(folder)
    assert read is not None
    np.testing.assert_array_equal(read.rows(), lineage.rows())
    assert list(files) == sorted(movie.masks)
    assert len({len(path.name) for path in files.values()}) == 1
    for frame, path in files.items():
        image = ctc.read_image(path)
        assert image.dtype == np.uint16
        np.testing.assert_array_equal(image, movie.masks[frame])


def test_a_result_without_tracks_has_no_track_file(tmp_path):
    with ctc.ResultWriter(tmp_path / "01_RES") as writer:
        writer.write(0, VOLUME)
        writer.finish(None)
    assert ctc.read_result(tmp_path / "01_RES")[1] is None


@pytest.mark.parametrize("lineage", [None, Lineage.from_rows([[1, 1, 1, 0]])])
def test_a_new_result_replaces_the_old_one_and_nothing_else(tmp_path, lineage):
    folder = tmp_path / "01_RES"
    write_masks(folder, "mask", {frame: VOLUME[0] for frame in range(5)}, digits=6)
    (folder / "res_track.txt").write_text("1 0 4 0\n")
    (folder / "TRA_log.txt").write_text("kept")
    with ctc.ResultWriter(folder) as writer:
        writer.write(1, VOLUME[1])
        writer.finish(lineage)
    tracks = set() if lineage is None else {"res_track.txt"}
    assert {path.name for path in folder.iterdir()} == {"TRA_log.txt", "mask001.tif"} | tracks
    assert [path.name for path in tmp_path.iterdir()] == ["01_RES"]
    read = ctc.read_result(folder)[1]
    assert (read is None) == (lineage is None)
    assert read is None or read.rows().tolist() == [[1, 1, 1, 0]]


def test_a_crash_leaves_the_old_result_as_it_was(tmp_path):
    folder = tmp_path / "01_RES"
    write_masks(folder, "mask", {0: VOLUME[0]})
    before = (folder / "mask000.tif").read_bytes()

    def crash():
        with ctc.ResultWriter(folder) as writer:
            writer.write(0, VOLUME[1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    assert (folder / "mask000.tif").read_bytes() == before
    assert [path.name for path in tmp_path.rglob("*")] == ["01_RES", "mask000.tif"]


def test_what_a_killed_writer_left_is_not_taken_over(tmp_path):
    write_masks(tmp_path / "01_RES.partial", "mask", {7: VOLUME[0]})
    with ctc.ResultWriter(tmp_path / "01_RES") as writer:
        writer.write(0, VOLUME[0])
        writer.finish(None)
    assert list(ctc.read_result(tmp_path / "01_RES")[0]) == [0]


@pytest.mark.parametrize("label", [-1, 65536, 2**40])
def test_labels_beyond_16_bits_are_refused_with_the_cure(tmp_path, label):
    mask = np.zeros((4, 5), np.int64)
    mask[1, 2] = label
    with (
        ctc.ResultWriter(tmp_path / "01_RES") as writer,
        pytest.raises(InputError, match=rf"01_RES, frame 3: label {label} .*number the tracks"),
    ):
        writer.write(3, mask)
    with ctc.ResultWriter(tmp_path / "01_RES") as writer, pytest.raises(TypeError, match="float"):
        writer.write(3, mask.astype(float))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_error(code, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(ctc, "write_tif", full)
    with (
        ctc.ResultWriter(tmp_path / "01_RES") as writer,
        pytest.raises(InputError, match=rf"01_RES/mask004.tif: {os.strerror(code)}; free some space"),
    ):
        writer.write(4, VOLUME)
    assert list(tmp_path.iterdir()) == []


def test_a_track_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "man_track.txt"
    ctc.write_tracks(path, Lineage.from_rows([[1, 0, 3, 0]]))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"man_track.txt: No space left on device; free some space"):
        ctc.write_tracks(path, Lineage.from_rows([[2, 0, 3, 0]]))
    assert path.read_text() == "1 0 3 0\n"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="choose another folder"),
        ctc.ResultWriter(tmp_path / "file" / "RES"),
    ):
        pass


@pytest.mark.parametrize("text", ["", "\n", "1 0 3 0\n\n2 4 5 1", "\ufeff1 0 3 0\r\n2\t4  5 1\r\n"])
def test_track_files_of_all_habits(tmp_path, text):
    (tmp_path / "man_track.txt").write_text(text, "utf-8", newline="")
    rows = ctc.read_tracks(tmp_path / "man_track.txt").rows()
    np.testing.assert_array_equal(rows, np.array([[1, 0, 3, 0], [2, 4, 5, 1]])[: len(rows)])
    assert len(rows) == (2 if "1" in text else 0)


@pytest.mark.parametrize(
    "line", ["1 0 3", "1 0 3 0 0", "1,0,3,0", "1 0 x 0", "1.0 0 3 0", "1 0 3 9e9", "1" * 40]
)
def test_a_malformed_line_is_named(tmp_path, line):
    (tmp_path / "res_track.txt").write_text(f"7 0 3 0\n{line}\n")
    with pytest.raises(InputError, match=r"res_track.txt, line 2: .* is not four integers"):
        ctc.read_tracks(tmp_path / "res_track.txt")


def test_a_binary_track_file_is_refused(tmp_path):
    (tmp_path / "res_track.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=r"res_track.txt: it is not a text file"):
        ctc.read_tracks(tmp_path / "res_track.txt")


@settings(**OPTIONS)
@given(movies(min_tracks=1))
def test_sequences_are_found_and_opened(tmp_path_factory, movie):
    dataset = tmp_path_factory.mktemp("dataset")
    write_masks(dataset / "01", "t", movie.masks)
    write_truth(dataset / "01_GT", movie)
    write_truth(dataset / "02_GT", movie)
    shutil.copytree(dataset / "01_GT" / "SEG", dataset / "01_ST" / "SEG")
    (dataset / "03").mkdir()
    assert ctc.find_sequences(dataset) == ["01"]
    assert ctc.find_sequences(dataset, need_images=False) == ["01", "02"]
    sequence = ctc.open_sequence(dataset, "01")
    assert list(sequence.images) == list(sequence.markers) == list(sequence.segmentation) == list(movie.masks)
    assert sequence.silver.keys() == sequence.segmentation.keys()
    assert sequence.tracks is not None
    assert sequence.tracks.rows().tolist() == sorted(movie.rows)
    only = ctc.open_sequence(dataset, "02")
    assert (only.images, only.silver) == ({}, {})
    with pytest.raises(InputError, match="neither a folder 04 nor 04_GT"):
        ctc.open_sequence(dataset, "04")


def test_real_sequences_open(real_data):
    sequence = ctc.open_sequence(real_data("Fluo-N2DL-HeLa_partial"), "01")
    counts = len(sequence.images), len(sequence.markers), len(sequence.segmentation), len(sequence.silver)
    assert counts == (18, 12, 3, 9)
    assert ctc.read_image(sequence.images[0]).shape == (700, 1100)
