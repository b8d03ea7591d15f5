"""Movies from CTC folders and OME-Zarr, and what is refused about them."""

import json

import numpy as np
import pytest
import tifffile

from celltrack_jax.data import prepare, sources
from celltrack_jax.errors import InputError
from celltrack_jax.inference.movies import chosen_frames, in_model_axes, open_movie
from celltrack_jax.io.tif import write_tif
from tests.ctc_folders import write_masks


def images(frames, shape=(6, 5), dtype="uint16") -> dict[int, np.ndarray]:
    """Random frames."""
    rng = np.random.default_rng(0)
    return {frame: rng.integers(0, 200, shape).astype(dtype) for frame in frames}


@pytest.mark.parametrize("digits", [3, 4, 6])
@pytest.mark.parametrize("shape", [(6, 5), (3, 6, 5)])
def test_a_folder_of_tifs(tmp_path, digits, shape):
    frames = images((7, 8, 1000), shape)
    write_masks(tmp_path, "t", frames, digits)
    movie = open_movie(tmp_path)
    assert (movie.frames, movie.digits) == ([7, 8, 1000], max(digits, 4))
    assert movie.shape == (1, 3 if len(shape) == 3 else 1, 6, 5)
    assert (movie.spacing_um.tolist(), movie.spacing_known) == ([1, 1, 1], False)
    model = in_model_axes(movie, len(shape), 1)
    for frame, image in frames.items():
        np.testing.assert_array_equal(movie.read(frame), image.reshape(movie.shape))
        np.testing.assert_array_equal(model.read(frame), image[None])
    assert movie.changed_ns(7) == (tmp_path / f"t{7:0{digits}d}.tif").stat().st_mtime_ns


def test_a_movie_of_one_frame_of_grey_values_stored_as_colours(tmp_path):
    (frame,) = images((3,), (20, 30), "uint8").values()
    tifffile.imwrite(tmp_path / "t003.tif", np.stack([frame] * 3, axis=-1), photometric="rgb")
    movie = open_movie(tmp_path)
    assert (movie.frames, movie.shape) == ([3], (1, 1, 20, 30))
    np.testing.assert_array_equal(movie.read(3)[0, 0], frame)
    tifffile.imwrite(tmp_path / "t003.tif", np.stack([frame, frame, 255 - frame], axis=-1), photometric="rgb")
    with pytest.raises(InputError, match=r"t003\.tif \(frame 3\) has colours: .*convert it to grey"):
        open_movie(tmp_path)


def test_a_burst_may_be_as_compressed_as_where_it_is_prepared(tmp_path):
    (frame,) = images((1,), (20, 30), "uint8").values()
    tifffile.imwrite(
        tmp_path / "000001.tiff", np.stack([frame, frame + 3, frame], axis=-1), photometric="rgb"
    )
    np.testing.assert_array_equal(open_movie(tmp_path).read(1)[0, 0], frame)


def test_a_sequence_of_a_store_keeps_its_frame_numbers(tmp_path):
    frames = images((4, 5, 9))
    write_masks(tmp_path / "source" / "01", "t", frames)
    found = sources.open_sources(tmp_path / "source", "ctc", None, allow_gaps=True)
    prepare.prepare(
        tmp_path / "store",
        found,
        layout="ctc",
        origin="a",
        spacing_um=[1.0, 0.5, 0.25],
        advance=lambda *_: None,
    )
    group = tmp_path / "store" / "01.ome.zarr"
    movie = open_movie(group)
    assert movie.frames == [4, 5, 9]
    assert (movie.spacing_um.tolist(), movie.spacing_known) == ([1.0, 0.5, 0.25], True)
    np.testing.assert_array_equal(in_model_axes(movie, 2, 1).read(9), frames[9][None])

    with pytest.raises(InputError, match=r"is a store .* give one of them \(01.ome.zarr\)"):
        open_movie(tmp_path / "store")
    attributes = json.loads((group / "zarr.json").read_text())
    attributes["attributes"]["celltrack"]["complete"] = False
    (group / "zarr.json").write_text(json.dumps(attributes))
    with pytest.raises(InputError, match=r"half-written: run launch\.prepare again"):
        open_movie(group)


@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Dimension . is too small:UserWarning")
def test_another_program_s_ome_zarr(tmp_path):
    import zarr
    from ome_zarr.writer import write_image

    volume = np.random.default_rng(0).integers(0, 99, (2, 2, 3, 6, 5)).astype(np.uint8)
    write_image(volume, zarr.open_group(tmp_path / "a.zarr", mode="w"), axes="tczyx")
    movie = open_movie(tmp_path / "a.zarr")
    assert (movie.frames, movie.shape) == ([0, 1], (2, 3, 6, 5))
    np.testing.assert_array_equal(in_model_axes(movie, 3, 2).read(1), volume[1])


def test_folders_without_a_movie_are_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        open_movie(tmp_path / "absent")
    with pytest.raises(InputError, match=r"has no frames: name the images t000\.tif"):
        open_movie(tmp_path)


@pytest.mark.parametrize("odd", [np.zeros((6, 4), np.uint16), np.zeros((6, 5), np.uint8)])
def test_a_frame_of_another_shape_or_type_is_named(tmp_path, odd):
    write_masks(tmp_path, "t", images((0, 1)) | {2: odd})
    movie = open_movie(tmp_path)
    with pytest.raises(
        InputError, match=rf"t002.tif \(frame 2\) is {odd.dtype} .*, t000.tif is uint16 \(6, 5\)"
    ):
        movie.read(2)


def test_a_truncated_frame_is_named(tmp_path):
    write_masks(tmp_path, "t", images((0, 1), (60, 50)))
    path = tmp_path / "t001.tif"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"t001.tif \(frame 1\)"):
        open_movie(tmp_path).read(1)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_frame_that_is_not_finite_is_named_with_its_file(tmp_path, odd):
    frames = {t: image.astype(np.float32) for t, image in images((0, 1)).items()}
    frames[1][2, 3] = odd
    for t, image in frames.items():
        write_tif(tmp_path / f"t{t:03d}.tif", image)
    movie = open_movie(tmp_path)
    np.testing.assert_array_equal(movie.read(0)[0, 0], frames[0])
    with pytest.raises(
        InputError, match=r"t001\.tif \(frame 1\): the image holds NaN or infinite values; write it"
    ):
        movie.read(1)


@pytest.mark.parametrize(
    ("shape", "ndim", "channels", "message"),
    [
        ((6, 5), 3, 1, "is 2D and the model 3D"),
        ((4, 6, 5), 2, 1, r"is 3D \(4 planes\) and the model 2D"),
        ((6, 5), 2, 2, "has 1 channels and the model takes 2"),
    ],
)
def test_movies_that_do_not_fit_the_model_are_refused(tmp_path, shape, ndim, channels, message):
    write_masks(tmp_path, "t", images((0,), shape))
    with pytest.raises(InputError, match=message):
        in_model_axes(open_movie(tmp_path), ndim, channels)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("", [3, 4, 5, 6]), (":5", [3, 4]), ("4:", [4, 5, 6]), ("4:6", [4, 5]), ("0:99", [3, 4, 5, 6])],
)
def test_frames_are_chosen_by_number(tmp_path, wanted, chosen):
    assert chosen_frames([3, 4, 5, 6], wanted, False, tmp_path) == chosen


def test_missing_frames_are_listed_unless_accepted(tmp_path):
    frames = [0, 1, 5, 9, 10]
    with pytest.raises(InputError, match="lacks the frames 2-4, 6-8, so tracks would break"):
        chosen_frames(frames, "", False, tmp_path)
    assert chosen_frames(frames, "", True, tmp_path) == frames
    assert chosen_frames(frames, "9:", False, tmp_path) == [9, 10]


@pytest.mark.parametrize("wanted", ["5", "a:b", "-1:3", "1:2:3"])
def test_what_is_no_range_is_refused(tmp_path, wanted):
    with pytest.raises(InputError, match="is no range: write first:end"):
        chosen_frames([0, 1], wanted, False, tmp_path)


def test_a_range_without_frames_says_which_there_are(tmp_path):
    with pytest.raises(InputError, match="no frames in '7:9': it has 0-2, 5"):
        chosen_frames([0, 1, 2, 5], "7:9", False, tmp_path)
