"""Label maps come back with what is known of their cells, and the table has a row for each."""

import csv

import numpy as np
import pytest
import tifffile

from celltrack_jax.errors import InputError
from celltrack_jax.io import label_maps
from celltrack_jax.io.tif import read_tif


@pytest.mark.parametrize(("largest", "dtype"), [(3, np.uint16), (65535, np.uint16), (65536, np.uint32)])
def test_a_label_map_comes_back_by_this_reader_and_by_others(largest, dtype, tmp_path):
    labels = np.zeros((7, 9), np.int32)
    labels[2:4, 3:5], labels[6, 8] = 1, largest
    path = tmp_path / "made" / "a.tif"
    label_maps.write(path, labels, "so", {"score": [0.5, 0.25]}, {"image": "ä.png"})
    found = label_maps.read(path)
    assert found.labels.dtype == dtype
    for again in (found.labels, read_tif(path), tifffile.imread(path)):
        np.testing.assert_array_equal(again, labels)
    assert found.cells == {"score": [0.5, 0.25]}
    assert found.facts["image"] == "ä.png"
    assert label_maps.made_by(path) == "so"
    assert label_maps.made_by(tmp_path / "absent.tif") is None
    assert [each.name for each in path.parent.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("other", [b"text", b""])
def test_what_was_written_by_others_is_refused(other, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(other)
    with pytest.raises(InputError, match=r"a\.tif is not a label map that this command wrote: move it"):
        label_maps.made_by(path)
    tifffile.imwrite(path, np.zeros((4, 4), np.uint16))
    with pytest.raises(InputError, match="give another folder as --output"):
        label_maps.made_by(path)


def test_the_table_has_a_row_per_cell(tmp_path):
    labels = np.array([[1, 1, 0], [0, 2, 2], [0, 0, 2]], np.uint16)
    maps = [
        ("one", label_maps.LabelMap(labels, {"score": [0.9, 0.1], "class": ["astro", "cort"]}, {})),
        ("none", label_maps.LabelMap(np.zeros((2, 2), np.uint16), {"score": [], "class": []}, {})),
    ]
    assert label_maps.write_table(tmp_path / "cells.csv", maps) == (2, 2)
    with (tmp_path / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row.values()) for row in rows] == [
        ("one", "1", "2", "0.9", "astro"),
        ("one", "2", "3", "0.1", "cort"),
    ]
    plain = [("one", label_maps.LabelMap(labels, {}, {}))]
    assert label_maps.write_table(tmp_path / "cells.csv", plain) == (1, 2)
    assert (tmp_path / "cells.csv").read_text() == "image,id,area\none,1,2\none,2,3\n"
