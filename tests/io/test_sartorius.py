"""The competition's table and submissions: read, written, and refused where they contradict themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.io import rle, sartorius

HEADER = "id,annotation,width,height,cell_type,plate_time,sample_id\n"
TABLE = HEADER + ("b,1 2 8 2,6,4,cort,11h,x\na,1 3,6,4,astro,11h,y\nb,2 2,6,4,cort,11h,x\n")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(TABLE)
    return path


def test_rows_are_gathered_by_image_in_their_order(table):
    found = sartorius.read_table(table)
    assert list(found) == ["a", "b"]
    assert found["b"] == sartorius.AnnotatedImage("b", (4, 6), "cort", ("1 2 8 2", "2 2"), (2, 4))
    painted = sartorius.paint(table, found["b"])
    assert painted.labels[0, :4].tolist() == [1, 2, 2, 0]
    assert painted.labels[1, 1:3].tolist() == [1, 1]
    assert painted.overwritten == 1


def test_the_table_that_is_written_is_read(table, tmp_path):
    images = sartorius.read_table(table)
    sartorius.write_table(tmp_path / "other.csv", images.values())
    other = sartorius.read_table(tmp_path / "other.csv")
    assert [one._replace(rows=()) for one in other.values()] == [
        one._replace(rows=()) for one in images.values()
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,annotation,width,height\n", "has no column cell_type"),
        ("", "has no column id, annotation"),
        (TABLE + "b,3 1,7,4,cort,,\n", "row 5 (image b): width and height (7, 4), but (6, 4) in row 2"),
        (TABLE + "b,3 1,6,4,astro,,\n", "row 5 (image b): cell_type astro, but cort in row 2"),
        (TABLE + "b,3 1,6,four,cort,,\n", "row 5 (image b): height 'four' is not a number of pixels"),
        (TABLE + "b,3 1,0,4,cort,,\n", "row 5 (image b): width '0' is not a number of pixels"),
        (TABLE + "b,3 1,6,4,,,\n", "row 5 (image b): cell_type is empty"),
        (TABLE + ",3 1,6,4,cort,,\n", "row 5: id is empty"),
        (TABLE + "b,3 1\n", "row 5: it has fewer columns"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(text, words, table):
    table.write_text(text)
    with pytest.raises(InputError) as caught:
        sartorius.read_table(table)
    assert str(caught.value).startswith(str(table))
    assert words in str(caught.value)


def test_bad_run_lengths_name_row_and_image(table):
    table.write_text(TABLE + "b,23 3,6,4,cort,,\n")
    with pytest.raises(InputError, match=r"train\.csv, row 5 \(image b\): the run 23 3 overruns the image"):
        sartorius.paint(table, sartorius.read_table(table)["b"])


def test_a_missing_and_a_binary_table_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"train\.csv does not exist"):
        sartorius.read_table(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read .*train\.csv|has no column"):
        sartorius.read_table(tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("shsy5y[diff]_E10-4_Vessel-714_Ph_3", "shsy5y"),
        ("astros[cereb]_D1-1", "astro"),
        ("cort_A1", "cort"),
        ("Cort[6-oct]_A1", "cort"),
        ("cortex_A1", None),
        ("0030fd0e6378", None),
    ],
)
def test_file_names_tell_the_type(name, kind):
    assert sartorius.type_of(name) == kind


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2**32 - 1), max_size=3))
def test_submissions_give_the_cells_back(tmp_path_factory, seeds):
    path = tmp_path_factory.mktemp("submission") / "submission.csv"
    images = {name: np.random.default_rng(seed).integers(0, 4, (4, 5)) * 3 for name, seed in seeds.items()}
    images["empty"] = np.zeros((4, 5), int)
    sartorius.write_submission(path, images)
    lines = path.read_text().splitlines()
    assert lines[0] == "id,predicted"
    assert lines[-1] == "empty,"
    found = sartorius.read_submission(path, {name: labels.shape for name, labels in images.items()})
    assert list(found) == list(images)
    for name, labels in images.items():
        np.testing.assert_array_equal(found[name] > 0, labels > 0)
        # Each cell has a label of its own, from 1, in the order of its label.
        np.testing.assert_array_equal(found[name], np.searchsorted(np.unique(np.append(0, labels)), labels))


def test_submissions_with_shared_pixels_and_unknown_images_are_refused(tmp_path):
    path = tmp_path / "submission.csv"
    mask = np.ones((2, 2), bool)
    path.write_text(f"id,predicted\na,{rle.encode(mask)}\na,1 1\n")
    with pytest.raises(InputError, match="cells of image a share 1 pixels"):
        sartorius.read_submission(path, {"a": (2, 2)})
    with pytest.raises(InputError, match=r"row 2 \(image a\): there is no such image"):
        sartorius.read_submission(path, {"b": (2, 2)})
