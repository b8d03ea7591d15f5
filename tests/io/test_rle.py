"""Run lengths: there and back, and what is wrong with them in one line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.io import rle

masks = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1)).map(
    lambda drawn: np.random.default_rng(drawn[2]).random(drawn[:2]) < 0.5
)


def by_hand(text: str, shape: tuple[int, int]) -> np.ndarray:
    """Sets the pixels one after the other."""
    flat = np.zeros(shape[0] * shape[1], bool)
    words = [int(word) for word in text.split()]
    for start, length in zip(words[::2], words[1::2], strict=True):
        for pixel in range(start, start + length):
            flat[pixel - 1] = True
    return flat.reshape(shape)


def test_pixels_are_counted_along_the_rows_from_1():
    mask = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1]], bool)
    assert rle.encode(mask) == "2 3 9 1"
    np.testing.assert_array_equal(rle.decode("2 3 9 1", (3, 3)), mask)


@settings(max_examples=60, deadline=None)
@given(mask=masks)
def test_there_and_back(mask):
    text = rle.encode(mask)
    np.testing.assert_array_equal(by_hand(text, mask.shape), mask)
    if mask.any():
        np.testing.assert_array_equal(rle.decode(text, mask.shape), mask)
    else:
        assert text == ""


@settings(max_examples=40, deadline=None)
@given(mask=masks, corner=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_a_window_is_written_as_the_whole_image_is(mask, corner):
    shape = (mask.shape[0] + 3, mask.shape[1] + 3)
    whole = np.zeros(shape, bool)
    whole[corner[0] : corner[0] + mask.shape[0], corner[1] : corner[1] + mask.shape[1]] = mask
    np.testing.assert_array_equal(by_hand(rle.encode_window(mask, corner, shape), shape), whole)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6))
def test_later_masks_overwrite_and_the_pixels_are_counted(seeds):
    shape = (5, 6)
    drawn = [np.random.default_rng(seed).random(shape) < 0.3 for seed in seeds]
    drawn = [mask for mask in drawn if mask.any()]
    expected = np.zeros(shape, int)
    for label, mask in enumerate(drawn, 1):
        expected[mask] = label
    painted = rle.paint([rle.encode(mask) for mask in drawn], shape, [""] * len(drawn))
    np.testing.assert_array_equal(painted.labels, expected)
    assert painted.overwritten == sum(int(mask.sum()) for mask in drawn) - np.count_nonzero(expected)


@settings(max_examples=40, deadline=None)
@given(mask=masks)
def test_a_label_image_is_written_cell_by_cell(mask):
    labels = np.where(mask, np.arange(mask.size).reshape(mask.shape) // 3 * 7, 0)
    texts = rle.encode_labels(labels)
    assert list(texts) == np.unique(labels[labels > 0]).tolist()
    for label, text in texts.items():
        np.testing.assert_array_equal(rle.decode(text, labels.shape), labels == label)


@pytest.mark.parametrize("text", ["1 2 3 4", "2 1 3 1 4 9"])
def test_runs_that_touch_are_read(text):
    np.testing.assert_array_equal(rle.decode(text, (4, 5)), by_hand(text, (4, 5)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("1 2 3", "3 numbers are no pairs of start and length"),
        ("1 2 x 4", "'x' is not a whole number: write pairs"),
        ("1 2.0", "'2.0' is not a whole number"),
        ("-1 2", "'-1' is not a whole number"),
        ("1 ²", "'²' is not a whole number"),
        ("1 " + "9" * 30, "is not a whole number"),
        ("1 2 5 0", "the run 5 0 has no pixel: leave it out"),
        ("0 2", "the run 0 2 begins at 0, but pixels are counted from 1"),
        ("1 1 18 4", "the run 18 4 overruns the image, which has 20 pixels (4 x 5): correct the run"),
        ("21 1", "the run 21 1 overruns the image"),
        ("9 2 1 2", "the run 1 2 does not come behind the run before it: sort the runs"),
        ("1 4 3 2", "the run 3 2 does not come behind"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, words):
    with pytest.raises(InputError) as caught:
        rle.paint(["1 2", text], (4, 5), ["train.csv, row 2 (image a)", "train.csv, row 3 (image a)"])
    assert str(caught.value).startswith("train.csv, row 3 (image a): ")
    assert words in str(caught.value)


def test_a_run_may_end_with_the_image():
    assert rle.decode("20 1", (4, 5)).ravel().tolist() == [False] * 19 + [True]
