"""Objects, coverage of markers and kinds of annotation."""

import numpy as np
import pytest
import skimage.measure
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from celltrack_jax.data import annotation

masks = arrays.arrays(
    np.uint16, st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 4)
)


@settings(deadline=None)
@given(masks)
def test_objects_are_those_of_scikit_image(mask):
    found = annotation.objects(mask, (1.0, 1.0, 1.0))
    oracle = skimage.measure.regionprops(mask)
    assert found.label.tolist() == [region.label for region in oracle]
    assert found.voxels.tolist() == [region.area for region in oracle]
    boxes = np.array([region.bbox for region in oracle]).reshape(-1, 2, 3)
    assert found.size.tolist() == (boxes[:, 1] - boxes[:, 0]).tolist()
    for centroid, region in zip(found.centroid, oracle, strict=True):
        np.testing.assert_allclose(centroid, region.centroid)


@settings(deadline=None)
@given(masks, st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3))
def test_the_inside_point_is_the_voxel_nearest_to_the_centroid(mask, spacing):
    found = annotation.objects(mask, spacing)
    np.testing.assert_array_equal(mask[tuple(found.inside.T)], found.label)
    for label, centroid, inside in zip(found.label, found.centroid, found.inside, strict=True):
        distance = np.linalg.norm((np.argwhere(mask == label) - centroid) * spacing, axis=1)
        assert np.linalg.norm((inside - centroid) * spacing) == pytest.approx(distance.min())


def line(*labels: int) -> np.ndarray:
    """Returns a mask of one row."""
    return np.array(labels, np.uint16).reshape(1, 1, -1)


@pytest.mark.parametrize(
    ("markers", "outlines", "covered"),
    [
        (line(1, 1, 1, 0), line(7, 7, 0, 0), [7]),
        (line(1, 1, 0, 0), line(7, 0, 7, 7), [0]),  # half is not more than half
        (line(1, 1, 1, 2), line(7, 8, 8, 8), [8, 8]),
        (line(1, 1, 1, 1), line(7, 7, 8, 8), [0]),  # no object holds more than half
        (line(5, 0, 3, 3), line(0, 0, 9, 9), [9, 0]),  # in the order of labels
        (line(0, 0), line(1, 1), []),
    ],
)
def test_a_marker_is_covered_by_the_object_that_holds_more_than_half_of_it(markers, outlines, covered):
    assert annotation.cover(markers, outlines, None).tolist() == covered


def test_in_planes_only_the_voxels_of_these_planes_count():
    markers = np.ones((5, 1, 2), np.uint16)
    markers[4] = 2
    outlines = np.zeros_like(markers)
    outlines[1] = 6
    assert annotation.cover(markers, outlines, [1]).tolist() == [6, 0]
    assert annotation.cover(markers, outlines, None).tolist() == [0, 0]


def test_silver_objects_that_gold_ones_replace_are_left_out():
    gold = line(1, 1, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0)
    silver = line(0, 0, 5, 5, 5, 0, 6, 6, 6, 6, 0, 8)  # 5: most of it is gold; 6: holds most of gold 2
    assert annotation.keep_silver(silver, gold).tolist() == line(*[0] * 11, 8).tolist()
    apart = line(0, 0, 0, 5, 5, 5, 0, 0, 0, 0, 0, 0)  # a third hidden: the rest stays
    assert annotation.keep_silver(apart, gold).tolist() == line(0, 0, 0, 0, 5, 5, *[0] * 6).tolist()
    assert annotation.keep_silver(silver, None) is silver


@pytest.mark.parametrize(
    ("kinds", "planes", "complete", "expected"),
    [
        ({}, None, False, ("none", "none")),
        ({"markers": line(1, 0, 0)}, None, False, ("markers", "markers")),
        ({"markers": line(1, 0, 2), "segmentation": line(4, 4, 5)}, None, False, ("full", "full")),
        ({"markers": line(1, 0, 2), "segmentation": line(4, 4, 0)}, None, False, ("sparse", "sparse")),
        ({"markers": line(1, 0, 2), "segmentation": line(4, 4, 5)}, (0,), False, ("sparse", "sparse")),
        ({"markers": line(0, 0, 0), "segmentation": line(0, 0, 0)}, None, False, ("full", "full")),
        ({"segmentation": line(4, 4, 0)}, None, False, ("sparse", "sparse")),
        ({"segmentation": line(4, 4, 0)}, None, True, ("full", "full")),
        ({"segmentation": line(4, 4, 0)}, (0,), True, ("sparse", "sparse")),
        ({"silver": line(4, 4, 0)}, None, False, ("none", "sparse")),
        ({"markers": line(1, 0, 2), "silver": line(4, 4, 5)}, None, False, ("markers", "full")),
        (
            {"markers": line(1, 0, 2), "segmentation": line(4, 4, 0), "silver": line(0, 0, 5)},
            None,
            False,
            ("sparse", "full"),
        ),
        (
            {"markers": line(1, 0, 2), "segmentation": line(4, 4, 0), "silver": line(0, 0, 5)},
            (0,),
            False,
            ("sparse", "sparse"),
        ),
    ],
)
def test_kinds_of_annotation(kinds, planes, complete, expected):
    found = annotation.survey(kinds, planes, complete=complete, spacing=(1, 1, 1))
    assert (found.annotation, found.annotation_silver) == expected


def test_the_foreground_has_every_cell_that_somebody_drew():
    found = annotation.survey(
        {
            "segmentation": line(4, 4, 4, 0, 0, 0, 0, 0),
            "markers": line(0, 1, 0, 0, 2, 2, 0, 0),
            "silver": line(9, 9, 0, 0, 0, 0, 0, 3),
        },
        None,
        complete=False,
        spacing=(1, 1, 1),
    )
    assert found.coverage.tolist() == [[1, 4, 0], [2, 0, 0]]
    assert found.foreground.tolist() == [[0, 0, 1, 4, 3, 0], [0, 0, 4, 2, 2, 1], [0, 0, 7, 3, 1, 2]]


GIVEN = annotation.Points(np.array([3]), np.array([[0.0, 0, 1.5]]), np.ones((1, 3)))


@pytest.mark.parametrize(
    ("kinds", "complete", "given", "expected"),
    [
        ({}, False, None, None),
        ({"markers": line(1, 1, 0, 2)}, False, None, [[1, 0.5, 2], [2, 3, 1]]),
        ({"markers": line(0, 0, 0)}, False, None, []),
        ({"segmentation": line(7, 7, 7, 0)}, True, None, [[7, 1, 3]]),
        ({"segmentation": line(7, 7, 7, 0)}, False, None, None),  # cells may be left out
        ({"segmentation": line(7, 7, 7, 0), "markers": line(0, 5, 0, 0)}, False, None, [[5, 1, 1]]),
        ({"segmentation": line(7, 0, 0, 0), "markers": line(0, 5, 0, 0)}, False, None, [[5, 1, 1]]),
        ({"silver": line(7, 7, 7, 0)}, True, None, None),
        ({}, False, GIVEN, [[3, 1.5, 1]]),
        ({"markers": line(1, 1, 0, 2)}, False, GIVEN, [[3, 1.5, 1]]),
    ],
)
def test_points_are_all_cells_of_a_frame_or_none_are_known(kinds, complete, given, expected):
    found = annotation.survey(kinds, None, complete=complete, spacing=(1, 1, 1), points=given)
    if expected is None:
        assert found.points is None
    else:
        assert found.points is not None
        label, position, size = found.points
        assert np.column_stack([label, position[:, 2], size[:, 2]]).tolist() == expected
        assert not position[:, :2].any()
        assert (size[:, :2] == 1).all()
    assert found.tracked == ("markers" in kinds or given is not None)


def test_points_alone_are_an_annotation_of_their_own():
    def kinds(masks):
        found = annotation.survey(masks, None, complete=False, spacing=(1, 1, 1), points=GIVEN)
        return found.annotation, found.annotation_silver

    assert kinds({}) == ("points", "points")
    assert kinds({"silver": line(1, 0, 0)}) == ("points", "sparse")
    assert kinds({"markers": line(1, 0, 0)}) == ("markers", "markers")
    assert annotation.survey({}, None, complete=False, spacing=(1, 1, 1), points=GIVEN).foreground.shape == (
        0,
        6,
    )
