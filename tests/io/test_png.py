"""PNGs of grey values, and what is none."""

import numpy as np
import pytest
from PIL import Image

from celltrack_jax.errors import InputError
from celltrack_jax.io.png import png_shape, read_png, write_png

GREY = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_there_and_back_in_8_and_16_bits(dtype, tmp_path):
    image = GREY.astype(dtype) * (200 if dtype == np.uint16 else 1)
    write_png(tmp_path / "a.png", image)
    found = read_png(tmp_path / "a.png")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
    assert png_shape(tmp_path / "a.png") == image.shape


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_values_stored_in_other_modes_are_grey_values(mode, tmp_path):
    Image.fromarray(GREY).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), GREY)


def test_colours_are_refused_with_a_cure(tmp_path):
    Image.fromarray(np.stack([GREY, GREY, GREY // 2], -1)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png \(frame 3\) has colours: .*convert it to grey values"):
        read_png(tmp_path / "a.png", 3)
    Image.fromarray(np.stack([GREY // 2, GREY // 2, GREY // 2 + 1], -1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_png(tmp_path / "a.png", colour_tolerance=1), GREY // 2)


def test_what_is_transparent_in_part_is_refused(tmp_path):
    Image.fromarray(np.stack([GREY] * 3 + [GREY], -1)).save(tmp_path / "a.png")
    with pytest.raises(
        InputError, match="is transparent in part: write grey values without an alpha channel"
    ):
        read_png(tmp_path / "a.png")


def test_damaged_files_and_others_are_refused(tmp_path):
    path = tmp_path / "a.png"
    for read in (read_png, png_shape):
        with pytest.raises(InputError, match=r"a\.png does not exist: copy the file there"):
            read(path)
    write_png(path, GREY)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:-20], b"", b"GIF89a" + whole[6:]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"cannot read .*a\.png"):
            read_png(path)
    with pytest.raises(InputError, match=r"a\.png: it is no PNG"):
        png_shape(path)
