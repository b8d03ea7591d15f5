"""Folders of single images: what is read, what is done again, and large images in tiles."""

import os

import numpy as np
import pytest
import tifffile

from celltrack_jax.errors import InputError
from celltrack_jax.inference import images
from celltrack_jax.io.png import write_png
from celltrack_jax.tasks import ImageCells
from tests.inference.toys import Toy

LABELS = np.arange(12, dtype=np.int32).reshape(3, 4)


def folder_of(path, *names):
    path.mkdir()
    for number, name in enumerate(names):
        image = np.full((3, 4), number, np.uint8)
        image[0, 0] = 9
        write_png(path / name, image) if name.endswith("png") else tifffile.imwrite(path / name, image)
    return path


def test_images_are_found_by_name_and_other_files_named(tmp_path):
    folder = folder_of(tmp_path / "in", "b.TIF", "a x.png", "c.tiff", ".hidden.png")
    (folder / "notes.txt").write_text("")
    (folder / "more").mkdir()
    found, others = images.find(folder)
    assert list(found) == ["a x", "b", "c"]
    assert others == ["notes.txt"]
    write_png(folder / "b.png", np.zeros((3, 4), np.uint8))
    with pytest.raises(
        InputError, match=r"b\.TIF and .*b\.png have one name|b\.png and .*b\.TIF have one name"
    ):
        images.find(folder)
    with pytest.raises(InputError, match="has no images"):
        images.find(folder / "more")
    with pytest.raises(InputError, match="is not a folder"):
        images.find(folder / "notes.txt")


def test_every_kind_of_grey_values_is_read_on_one_scale(tmp_path):
    grey = np.random.default_rng(0).integers(0, 200, (20, 30)).astype(np.uint8)
    write_png(tmp_path / "a.png", grey)
    write_png(tmp_path / "b.png", np.repeat(grey[..., None], 3, 2))
    tifffile.imwrite(tmp_path / "c.tif", 100 * grey.astype(np.uint16))
    tifffile.imwrite(tmp_path / "d.tif", grey.astype(np.float32) / 7)
    for name in ("a.png", "b.png", "c.tif", "d.tif"):
        image = images.read(tmp_path / name)
        assert (image.shape, image.dtype) == ((1, 20, 30), np.float32)
        np.testing.assert_allclose(image, images.read(tmp_path / "a.png"), atol=1e-5)


def test_what_is_no_image_of_grey_values_is_refused(tmp_path):
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[3, 4, 1] = 50
    write_png(tmp_path / "colours.png", colours)
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 20, 30), np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "nan.tif", np.full((20, 30), np.nan, np.float32))
    for name, message in (
        ("colours.png", r"colours\.png has colours: .* convert it to grey values"),
        ("stack.tif", r"stack\.tif is a stack of 5 planes"),
        ("nan.tif", r"nan\.tif: the image holds NaN"),
    ):
        with pytest.raises(InputError, match=message):
            images.read(tmp_path / name)
    tifffile.imwrite(tmp_path / "one.tif", np.zeros((20, 30), np.uint8))
    with pytest.raises(InputError, match="has 1 channels and the model takes 2"):
        images.read(tmp_path / "one.tif", 2)


def test_large_images_in_tiles_are_as_in_one():
    toy = Toy(2)
    image = np.random.default_rng(1).random((1, 96, 120, 1)).astype(np.float32)
    whole = toy(image)
    toy.calls.clear()
    found = images.in_parts(toy, toy.halo, toy.stride, 60 * 60)(image)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    assert len(toy.calls) > 3
    assert all(shape[1] * shape[2] <= 3600 for shape in toy.calls)
    toy.calls.clear()
    np.testing.assert_array_equal(images.in_parts(toy, toy.halo, toy.stride, 96 * 120)(image), whole)
    assert len(toy.calls) == 1


def test_what_is_there_and_made_the_same_way_is_not_made_again(tmp_path):
    found, _ = images.find(folder_of(tmp_path / "in", "a.png", "b.png"))
    folder = images.LabelFolder(tmp_path / "out", found, "so")
    assert folder.missing == ["a", "b"]
    made = []

    def reader(image):
        made.append(image)
        return ImageCells(LABELS, np.full(11, 0.5, np.float32), np.zeros(11, np.int32))

    done = list(images.segment(folder, ["a"], reader, channels=1, classes=("cell",)))
    assert done == ["a"]
    assert images.LabelFolder(tmp_path / "out", found, "so").missing == ["b"]
    assert images.LabelFolder(tmp_path / "out", found, "other").missing == ["a", "b"]
    np.testing.assert_array_equal(folder["a"], LABELS)
    name, kept = next(folder.maps())
    assert (name, kept.cells["class"][0], kept.cells["score"][0]) == ("a", "cell", 0.5)
    # An image that was written again is not the one that was segmented.
    later = folder.path("a").stat().st_mtime_ns + 10**9
    os.utime(found["a"], ns=(later, later))
    assert images.LabelFolder(tmp_path / "out", found, "so").missing == ["a", "b"]
    (tmp_path / "out" / "b.tif").write_text("somebody's")
    with pytest.raises(InputError, match="not a label map that this command wrote"):
        images.LabelFolder(tmp_path / "out", found, "so")


def test_an_image_that_cannot_be_segmented_is_named(tmp_path):
    found, _ = images.find(folder_of(tmp_path / "in", "a.png", "b.png"))
    folder = images.LabelFolder(tmp_path / "out", found, "so")

    def refuse(image):
        raise InputError("too large: cut it")

    with pytest.raises(InputError, match=r"a\.png: too large: cut it"):
        list(images.segment(folder, ["a"], refuse, channels=1, classes=()))
    with pytest.raises(
        InputError, match=r"a\.png has 3x4 pixels, and this network sees no more than 11 at once"
    ):
        list(images.segment(folder, ["a"], refuse, channels=1, classes=(), most_px=11))
    assert folder.missing == ["a", "b"]
