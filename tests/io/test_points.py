"""Tables of boxes: what is read is what was written, and what cannot be meant is refused by file and line."""

import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.io import files, points

SHAPE = (60, 80)

cells = st.lists(
    st.tuples(
        *(st.integers(0, 12), st.integers(1, 9), st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1)),
        *(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.0, 0.5])),
    ),
    unique_by=lambda cell: cell[:2],
    max_size=12,
)


def table(rows) -> points.PointTable:
    """Returns the table of rows (frame, id, y, x, height, width), in their order."""
    frame, label, y, x, height, width = np.array(rows, np.float64).reshape(-1, 6).T
    flat = np.zeros(len(frame))
    return points.PointTable(
        frame.astype(np.int64),
        label.astype(np.int64),
        np.stack([flat, y, x], axis=1),
        np.stack([flat + 1, height, width], axis=1),
    )


def written(tmp_path, text: str):
    path = tmp_path / "gt.txt"
    path.write_text(text)
    return path


@settings(deadline=None, max_examples=50)
@given(cells)
def test_what_is_written_is_read_again(tmp_path_factory, cells):
    # Whole boxes, and some whose size is not whole.
    rows = [(t, name, y, x, height + part, width + part) for t, name, y, x, height, width, part in cells]
    path = tmp_path_factory.mktemp("mot") / "gt.txt"
    points.write_mot(path, table(rows))
    found, notes = points.read_mot(path, SHAPE)
    assert notes == []
    for column, expected in zip(found, table(sorted(rows)), strict=True):
        np.testing.assert_array_equal(column, expected)
        assert column.dtype == expected.dtype
    assert {line.count(",") for line in path.read_text().splitlines()} <= {9}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20))
def test_the_middle_is_that_of_the_pixels_of_the_box(tmp_path_factory, top, left, height, width):
    """Odd sizes have a middle pixel; of the two of an even one it is the later."""
    path = written(tmp_path_factory.mktemp("mot"), f"1,1,{left},{top},{width},{height},1,-1,-1,-1\n")
    found, _ = points.read_mot(path, SHAPE)
    middle = [np.arange(top, top + height), np.arange(left, left + width)]
    assert found.position[0].tolist() == [0, *(sorted(pixels)[len(pixels) // 2] for pixels in middle)]
    assert found.size[0].tolist() == [1, height, width]


def test_six_columns_blank_lines_and_other_line_ends_are_fine(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_bytes(b"\xef\xbb\xbf2,1,10,20,4,6\r\n\r\n1, 3.0 ,0,0,5,5,1,-1,-1,-1\r\n")
    found, notes = points.read_mot(path, SHAPE)
    assert (found.frame.tolist(), found.label.tolist()) == ([1, 2], [3, 1])
    assert found.position[:, 1:].tolist() == [[2, 2], [23, 12]]
    assert notes == []


def test_an_empty_file_is_a_table_without_rows(tmp_path):
    found, notes = points.read_mot(written(tmp_path, "\n"), SHAPE)
    assert [column.shape for column in found] == [(0,), (0,), (0, 3), (0, 3)]
    assert notes == []


def test_cells_outside_of_the_frame_are_left_out_and_named(tmp_path):
    boxes = ["-20,10,30,10", "-30,10,30,10", "70,50,20,20", "69,49,20,20", "10,-9,4,9"]
    lines = [f"{t},{7 + t},{box},1,-1,-1,-1\n" for t, box in enumerate(boxes, 1)]
    path = written(tmp_path, "".join(lines))
    found, (note,) = points.read_mot(path, SHAPE)
    assert found.frame.tolist() == [4]
    assert found.position.tolist() == [[0, 59, 79]]
    assert note == (
        f"{path}: the middle of 4 boxes lies outside of the frame of 60 x 80; left out: frame 1 id 8, frame 2 id 9, "
        "frame 3 id 10, frame 5 id 12"
    )
    path.write_text("".join(f"{t},1,900,0,2,2\n" for t in range(1, 9)))
    assert points.read_mot(path, SHAPE)[1][0].endswith("frame 5 id 1, ...")


GOOD = "1,1,10,20,4,6,1,-1,-1,-1"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,1,30,30,4,6,1,-1,-1,-1", ("frame 1 has the id 1 already, in line 1", "keep one of the two")),
        ("frame,id,left,top,width,height", ("frame 'frame' is not a number", "without a header")),
        ("1,2,10,x,4,6", ("top 'x' is not a number",)),
        ("1,2,10,,4,6", ("top '' is not a number",)),
        ("1,2,nan,5,4,6", ("left 'nan' is not a number",)),
        ("1,2,1e400,5,4,6", ("left '1e400' is not a number",)),
        ("1,2,10,5,-4,6", ("width '-4' is negative", "corner at the top left")),
        ("1,2,10,5,4,-0.5", ("height '-0.5' is negative",)),
        ("1,2,10,5,4", ("'1,2,10,5,4' has 5 columns", "write frame, id, left, top, width, height")),
        ("1 2 10 5 4 6", ("has 1 columns", "separated by commas")),
        ("1.5,2,10,5,4,6", ("frame '1.5' is not a whole number", "number frames as the images are")),
        ("-1,2,10,5,4,6", ("frame '-1' is not a whole number from 0",)),
        ("1,2.5,10,5,4,6", ("id '2.5' is not a whole number", "number cells from 1")),
        ("1,0,10,5,4,6", ("id '0' is not a whole number from 1 to 2147483647",)),
        ("1,2147483648,10,5,4,6", ("id '2147483648'",)),
    ],
)
def test_bad_lines_are_named_with_a_cure(line, words, tmp_path):
    path = written(tmp_path, f"{GOOD}\n{line}\n")
    with pytest.raises(InputError) as caught:
        points.read_mot(path, SHAPE)
    assert [word for word in (f"{path}, line 2: ", *words) if word not in str(caught.value)] == []


def test_what_is_no_text_or_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*gt\.txt: No such file.*write lines of frame"):
        points.read_mot(tmp_path / "gt.txt", SHAPE)
    (tmp_path / "gt.txt").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(InputError, match=r"gt\.txt: it is not a text file"):
        points.read_mot(tmp_path / "gt.txt", SHAPE)


def test_stacks_and_a_full_disk_are_refused(tmp_path, monkeypatch):
    deep = table([(1, 1, 5, 5, 3, 3)])
    deep.position[0, 0] = 2
    with pytest.raises(ValueError, match="several planes"):
        points.write_mot(tmp_path / "gt.txt", deep)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(InputError, match=r"gt\.txt: No space left on device; free some space"):
        points.write_mot(tmp_path / "gt.txt", table([(1, 1, 5, 5, 3, 3)]))
    assert list(tmp_path.iterdir()) == []
