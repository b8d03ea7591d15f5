"""COCO's JSON against pycocotools, which draws and decodes whole images."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from celltrack_jax.errors import InputError
from celltrack_jax.io import coco

SHAPE = (17, 23)


def image_of(*outlines) -> coco.CocoImage:
    count = len(outlines)
    return coco.CocoImage("a.tif", SHAPE, tuple(range(1, count + 1)), ("cell",) * count, outlines)


@st.composite
def outlines(draw):
    """Draws one to three polygons, which may reach beyond the image."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    middle, reach = rng.uniform(-2, 25, 2), draw(st.sampled_from([0.3, 2.0, 12.0]))
    count = draw(st.integers(1, 3))
    decimals = draw(st.sampled_from([0, 1, 4]))
    return [
        np.round((middle + rng.normal(0, reach, (rng.integers(3, 9), 2))).ravel(), decimals)
        for _ in range(count)
    ]


@settings(max_examples=150, deadline=None)
@given(polygons=outlines())
def test_polygons_are_filled_as_pycocotools_fills_them_in_the_whole_image(polygons):
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *SHAPE)))
    np.testing.assert_array_equal(coco.paint(image_of(polygons), "").labels, expected)


masks = st.integers(0, 2**32 - 1).map(
    lambda seed: np.repeat(np.random.default_rng(seed).random((SHAPE[0], 5)) < 0.5, 5, 1)[:, : SHAPE[1]]
)


@settings(max_examples=60, deadline=None)
@given(mask=masks)
def test_run_lengths_are_read_as_pycocotools_reads_them(mask):
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = packed["counts"].decode()
    column = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column.astype(int), [2]])))
    counts = np.diff(np.append(0, edges)).tolist()
    for found in (text, counts):
        outline = {"size": list(SHAPE), "counts": found}
        np.testing.assert_array_equal(coco.paint(image_of(outline), "").labels > 0, mask)


def test_run_lengths_of_large_images_need_many_bits():
    mask = np.zeros((900, 1100), np.uint8)
    mask[850:, 700:900] = 1
    outline = {"size": [900, 1100], "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()}
    painted = coco.paint(image_of(outline)._replace(shape=(900, 1100)), "")
    np.testing.assert_array_equal(painted.labels, mask)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), corner=st.tuples(st.integers(0, 4), st.integers(0, 6)))
def test_polygons_of_a_mask_give_it_back(seed, corner):
    """All of it but for single pixels, whose outline encloses half of one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:11, :14]
    mask = ((y - 5) / rng.uniform(2, 5)) ** 2 + ((x - 7) / rng.uniform(2, 6)) ** 2 <= 1
    whole = np.zeros(SHAPE, bool)
    whole[corner[0] : corner[0] + 11, corner[1] : corner[1] + 14] = mask
    outline = [np.array(polygon) for polygon in coco.polygons(mask, corner)]
    found = coco.paint(image_of(outline), "").labels > 0
    assert np.count_nonzero(found & whole) / np.count_nonzero(found | whole) > 0.9
    middle = np.argwhere(found).mean(0) - np.argwhere(whole).mean(0)
    assert np.abs(middle).max() < 0.3


def test_later_cells_overwrite_and_what_has_no_pixel_is_counted():
    square = [np.array([2.0, 2, 8, 2, 8, 8, 2, 8])]
    shifted = [np.array([5.0, 2, 11, 2, 11, 8, 5, 8])]
    line, point = [np.array([1.0, 1, 5, 1])], [np.array([3.0, 3, 3, 3, 3, 3])]
    painted = coco.paint(image_of(square, shifted, line, point, []), "")
    assert np.unique(painted.labels).tolist() == [0, 1, 2]
    assert (painted.labels == 2).sum() == 36
    assert (painted.overwritten, painted.empty) == (18, 3)


def content(**changes):
    size = {"width": 23, "height": 17}
    triangle, all_of_it, nothing = [[1, 1, 5, 1, 5, 5]], [0, 391], [391]
    packed = {"size": [17, 23]}
    rows = [
        {"id": 5, "image_id": 7, "category_id": 2, "segmentation": triangle, "iscrowd": 0},
        {"id": 6, "image_id": 7, "category_id": 1, "segmentation": packed | {"counts": all_of_it}},
        {
            "id": 9,
            "image_id": 7,
            "category_id": 1,
            "segmentation": packed | {"counts": nothing},
            "iscrowd": 1,
        },
    ]
    whole = {
        "images": [{"id": 7, "file_name": "b.tif", **size}, {"id": 3, "file_name": "a.tif", **size}],
        "categories": [{"id": 2, "name": "cort"}, {"id": 1, "name": "astro"}],
        "annotations": rows,
    }
    return whole | changes


def read(tmp_path, **changes) -> coco.CocoFile:
    path = tmp_path / "cells.json"
    path.write_text(json.dumps(content(**changes)))
    return coco.read_coco(path)


@pytest.mark.parametrize("numbered", [False, True])
def test_a_file_is_read(numbered, tmp_path):
    rows = content()["annotations"]
    changes = {"annotations": {str(k): row for k, row in enumerate(rows)}} if numbered else {}
    found = read(tmp_path, **changes)
    assert found.categories == ("astro", "cort")
    first, second = found.images
    assert (first.file_name, first.ids) == ("a.tif", ())
    assert (second.file_name, second.shape, second.ids, second.categories) == (
        "b.tif",
        SHAPE,
        (5, 6),
        ("cort", "astro"),
    )
    painted = coco.paint(second, "cells.json")
    assert (painted.labels == 2).all()


def test_what_is_written_is_read(tmp_path):
    found = read(tmp_path)
    coco.write_coco(tmp_path / "again.json", found)
    again = coco.read_coco(tmp_path / "again.json")
    assert again.categories == found.categories
    for one, other in zip(again.images, found.images, strict=True):
        assert (one.file_name, one.shape, one.categories) == (other.file_name, other.shape, other.categories)
        np.testing.assert_array_equal(coco.paint(one, "").labels, coco.paint(other, "").labels)
    rows = json.loads((tmp_path / "again.json").read_text())["annotations"]
    assert [row["area"] for row in rows] == [
        int((coco.paint(image_of(o), "").labels > 0).sum()) for o in found.images[1].outlines
    ]
    assert rows[1]["bbox"] == [0, 0, 23, 17]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"annotations": 3}, "annotations is no list of objects"),
        ({"images": [{"id": 1}]}, "images[0] has no file_name and no width and no height"),
        ({"categories": []}, "annotation 5 has the category_id 2, which is not in its categories"),
        ({"images": []}, "annotation 5 has the image_id 7, which is not in its images"),
        ({"images": [content()["images"][0]] * 2}, "two images have the id 7"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(changes, words, tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path, **changes)
    assert words in str(caught.value)
    assert "cells.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"), [("{}", "has no images and no annotations and no categories"), ("{", "cannot read")]
)
def test_files_that_are_no_coco_are_refused(text, words, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=words):
        coco.read_coco(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"b\.json does not exist"):
        coco.read_coco(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("outline", "words"),
    [
        (
            {"size": [23, 17], "counts": [391]},
            "are of [23, 17] pixels (height, width), the image has [17, 23]",
        ),
        ({"size": [17, 23], "counts": [390]}, "cover 390 pixels, the image has 391"),
        ({"size": [17, 23], "counts": [-1, 392]}, "its run lengths are damaged"),
        ({"size": [17, 23], "counts": "\x7f"}, "its run lengths are damaged"),
        ({"size": [17, 23], "counts": "o"}, "its run lengths are damaged"),
        (None, "its segmentation is neither polygons nor run lengths"),
        ([np.zeros(7)], "a polygon is not a list of pairs x, y"),
        ([np.array([0, 0, 1, 1, np.nan, 3])], "a polygon has coordinates that are no numbers"),
    ],
)
def test_damaged_outlines_name_annotation_and_image(outline, words):
    with pytest.raises(InputError) as caught:
        coco.paint(image_of([np.array([1.0, 1, 5, 1, 5, 5])], outline), "cells.json")
    assert str(caught.value).startswith("cells.json, annotation 2 (image a.tif): ")
    assert words in str(caught.value)
