"""The table and the page of a comparison: each number in its place, cells found and missed in their colours."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image

from celltrack_jax.report import comparison, tables
from celltrack_jax.report.comparison import Row, Shown

MEASURES = {"AP50": 0.5, "AP75": 0.25, "AP90": 0.125, "mAP": 0.3, "b/mAP": 0.2, "a/mAP": 0.4, "b/AP50": 0.9}


def shown(name: str = "a/1", size: int = 40) -> Shown:
    """Two cells: the left one is found, the right one is not; one below them is found that is none."""
    truth = np.zeros((size, size), np.int32)
    truth[4:14, 4:14], truth[4:14, 24:34] = 3, 7
    labels = np.zeros_like(truth)
    labels[4:14, 5:15], labels[24:34, 4:14] = 2, 1
    return Shown(name, 0.25, np.full(truth.shape, 30, np.uint8), truth, labels)


def rows() -> list[Row]:
    first = Row(
        "one", {**MEASURES, "coco_AP": None}, {"a/1": 0.4, "b/1": None}, "step 3", [shown()], [shown("b/1")]
    )
    return [first, Row("two|three", {}, {}, "failed: no <space> left")]


def test_the_table_has_each_measure_in_its_column():
    table = comparison.table(rows())
    assert table.columns == ["model", "AP50", "AP75", "AP90", "mAP", "a", "b", "COCO AP", "images", "note"]
    assert table.rows[0] == ["one", 0.5, 0.25, 0.125, 0.3, 0.4, 0.2, None, 2, "step 3"]
    assert table.rows[1] == ["two|three", *[None] * 8, "failed: no <space> left"]
    # Without categories and scores of cells their columns are left out.
    plain = comparison.table([Row("one", {"mAP": 0.1}, {"1": 0.1}, "")])
    assert plain.columns == ["model", "AP50", "AP75", "AP90", "mAP", "images", "note"]


def test_markdown_is_a_table():
    lines = tables.markdown(comparison.table(rows())).splitlines()
    assert lines[1].split(" | ")[:2] == ["| ---", "---:"]
    assert lines[2].startswith("| one | 0.5000 | 0.2500 | 0.1250 | 0.3000 |")
    assert lines[3].startswith("| two\\|three | — |")
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {12}


def test_files_hold_everything(tmp_path):
    table, paths = comparison.write(tmp_path / "c", rows(), {"Data": "stores/a"}, ["A note."])
    assert [path.name for path in paths] == ["comparison.md", "comparison.json", "comparison.html"]
    assert paths[0].read_text() == tables.markdown(table)
    found = json.loads(paths[1].read_text())
    assert found["facts"] == {"Data": "stores/a"}
    assert found["rows"][0]["mAP"] == 0.3
    assert found["rows"][0]["scores"] == {"a/1": 0.4, "b/1": None}
    html = paths[2].read_text()
    assert re.findall("<h[23]>(.*?)</h", html) == ["Scores", "one", "Worst images", "Best images"]
    assert html.count("<figure>") == 2
    assert "no &lt;space&gt; left" in html
    assert "2 cells, 2 found, 1 of them right" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html)


def test_cells_have_the_colour_of_what_became_of_them(tmp_path):
    _, paths = comparison.write(tmp_path, [rows()[0]._replace(best=[])], {}, [])
    urls = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', paths[2].read_text())
    truth, found = (np.asarray(Image.open(io.BytesIO(base64.b64decode(url))), float) for url in urls)

    def blue(picture, box):
        """Blue less red over a cell: its outline's."""
        own = picture[box]
        return (own[..., 2] - own[..., 0]).mean()

    left, right, below = np.s_[2:16, 2:17], np.s_[2:16, 22:36], np.s_[22:36, 2:16]
    assert blue(truth, left) > 10
    assert blue(truth, right) < -10
    assert abs(blue(truth, below)) < 2
    assert blue(found, left) > 10
    assert abs(blue(found, right)) < 2
    assert blue(found, below) < -10


def test_large_images_are_made_smaller(tmp_path):
    row = Row("one", {}, {}, "", [shown(size=2 * comparison.LONGEST_SIDE)])
    _, paths = comparison.write(tmp_path, [row], {}, [])
    (url, _) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', paths[2].read_text())
    assert Image.open(io.BytesIO(base64.b64decode(url))).size == (comparison.LONGEST_SIDE,) * 2
