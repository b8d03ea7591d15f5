"""The page is whole, loads nothing, and holds for every odd input."""

import errno
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from celltrack_jax.data.synthetic import Movie, SyntheticSpec, make_movie
from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Lineage
from celltrack_jax.report import viewer
from celltrack_jax.report.page import cells_per_frame, write_page
from celltrack_jax.report.viewer import Annotation, shown_frames, viewer_data

SPEC = SyntheticSpec(frames=6, shape=(48, 64), spacing_um=(1.0, 1.0), cells=6, cell_cycle_frames=6)
DEEP = replace(SPEC, frames=3, shape=(6, 32, 32), spacing_um=(2.0, 1.0, 1.0), psf_um=(1.0, 0.6, 0.6))
VOID = ("meta", "input", "img", "br", "link", "source")


class Reader(HTMLParser):
    """Collects elements and checks that they nest."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        key = self.open[-1] if self.open else ""
        if key == "script" and self.elements[-1][1].get("type"):
            key = "data"
        self.text[key] = self.text.get(key, "") + data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def movie_arguments(movie: Movie) -> dict:
    annotation = Annotation(movie.labels.__getitem__, movie.lineage)
    return {"frames": range(len(movie.images)), "image": movie.images.__getitem__, "result": annotation}


def page(path, **arguments) -> str:
    write_page(path / "page.html", **{"title": "A run", **arguments})
    assert [found.name for found in path.iterdir()] == ["page.html"]
    return (path / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def movie():
    return make_movie(SPEC, 0)


def everything(movie: Movie) -> dict:
    return {
        **movie_arguments(movie),
        "truth": Annotation(movie.labels.__getitem__, movie.lineage),
        "facts": {"data": "synthetic", "trained": "3 steps"},
        "scores": {"SEG": 0.9, "CCA": None, "valid": True, "problems": []},
        "targets": {"SEG": 0.85},
        "history": [{"step": 1, "kind": "train", "loss": 1.0}, {"step": 2, "kind": "train", "loss": 0.5}],
        "config": {"seed": 0, "model": {"widths": (32, 64)}},
        "notes": ["A note."],
    }


def test_page_loads_nothing(movie, tmp_path):
    html = page(tmp_path, **everything(movie))
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    for tag, attributes in read(html).elements:
        assert tag not in ("link", "iframe", "object", "embed")
        assert "href" not in attributes
        assert str(attributes.get("src", "data:image/")).startswith("data:image/")
    assert "default-src 'none'" in html


def test_page_holds_all_its_parts(movie, tmp_path):
    html = page(tmp_path, **everything(movie))
    for part in (
        "A run",
        "A note.",
        "3 steps",
        "mean Jaccard index",
        "reaches 0.85",
        "&quot;widths&quot;",
        "loss",
    ):
        assert part in html
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == ["Movie", "Lineage", "Training", "Measures"]
    assert html.count('class="track"') == 2 * len(movie.lineage.label)


def test_the_same_arguments_give_the_same_bytes(movie, tmp_path):
    arguments = everything(movie)
    assert page(tmp_path, **arguments) == page(tmp_path, **arguments)


@pytest.mark.parametrize("spec", [replace(SPEC, cells=0), replace(SPEC, frames=1), DEEP])
def test_odd_movies_give_whole_pages(spec, tmp_path):
    movie = make_movie(spec, 0)
    for arguments in (movie_arguments(movie), everything(movie)):
        reader = read(page(tmp_path, **arguments))
        data = json.loads(reader.text["data"])
        assert len(data["pictures"]) == spec.frames
        assert [len(cells) for cells in data["result"]] == [len(np.unique(m[m > 0])) for m in movie.labels]


def test_no_frames_at_all(tmp_path):
    nothing = Annotation(lambda frame: None, Lineage.from_rows([]))
    html = page(tmp_path, frames=[], image=lambda frame: None, result=nothing, truth=nothing)
    read(html)
    assert "The movie has no frames." in html


def test_frames_without_masks_and_with_gaps_in_their_numbers(movie, tmp_path):
    masks = {4: movie.labels[0], 9: movie.labels[1]}
    html = page(
        tmp_path,
        frames=[4, 7, 9],
        image=lambda frame: movie.images[0],
        result=Annotation(masks.get, Lineage.from_rows([[1, 4, 9, 0]])),
    )
    data = json.loads(read(html).text["data"])
    assert data["frames"] == [4, 7, 9]
    assert data["result"][1] == []
    assert 'data-first="4"' in html
    assert 'data-last="9"' in html


def test_text_cannot_break_out(movie, tmp_path):
    bad = "</script><script>alert(1)</script>&\"'"
    html = page(
        tmp_path,
        **movie_arguments(movie),
        title=bad,
        facts={bad: bad},
        notes=[bad],
        scores={bad: 1.0, "valid": False, "problems": [bad]},
        history=[{"step": 1, "kind": bad, bad: 1.0}, {"step": 2, "kind": bad, bad: 2.0}],
        config={bad: bad},
    )
    reader = read(html)
    assert "alert(1)" not in reader.text["script"]
    assert sum(tag == "script" for tag, _ in reader.elements) == 2


def test_result_without_scores_says_why(movie, tmp_path):
    html = page(
        tmp_path, **movie_arguments(movie), scores={"valid": False, "problems": ["mask007 lacks label 3"]}
    )
    assert "mask007 lacks label 3" in html


def test_outlines_decode_to_where_the_cells_are(movie):
    arguments = movie_arguments(movie)
    data = viewer_data([2], arguments["image"], arguments["result"], None)
    assert data["size"] == [64, 48]
    for label, x, y, rings in data["result"][0]:
        inside = np.argwhere(movie.labels[2] == label)
        np.testing.assert_allclose([y - 0.5, x - 0.5], inside.mean(axis=0), atol=0.06)
        points = (
            np.concatenate([np.cumsum(np.reshape(ring, (-1, 2)), axis=0) for ring in rings]) / data["steps"]
        )
        np.testing.assert_allclose(points.min(axis=0), inside.min(axis=0)[::-1], atol=0.6)
        np.testing.assert_allclose(points.max(axis=0), inside.max(axis=0)[::-1] + 1, atol=0.6)


def test_missed_and_extra_cells_are_named():
    truth = np.zeros((20, 20), np.uint16)
    truth[2:8, 2:8], truth[2:8, 12:18], truth[12:18, 2:8] = 1, 2, 3
    result = np.zeros_like(truth)
    result[2:8, 2:8], result[2:5, 12:18], result[12:18, 12:18] = 5, 6, 7  # found, exactly half, elsewhere
    lineage = Lineage.from_rows([])
    data = viewer_data(
        [0], lambda t: truth, Annotation(lambda t: result, lineage), Annotation(lambda t: truth, lineage)
    )
    assert data["missed"] == [[2, 3]]
    assert data["extra"] == [[6, 7]]


def test_large_movies_show_some_frames():
    assert shown_frames(range(10), cells=10) == list(range(10))
    many = shown_frames(range(100, 500), cells=400)
    assert len(many) == viewer.MOST_FRAMES
    assert (many[0], many[-1]) == (100, 499)
    assert len(shown_frames(range(400), cells=400 * 1000)) == viewer.MOST_OUTLINES // 1000
    assert len(shown_frames(range(400), cells=10**9)) == viewer.FEWEST_FRAMES
    assert shown_frames([], cells=0) == []


def test_large_pictures_are_made_smaller():
    image = np.zeros((300, 2000), np.uint8)
    labels = np.zeros((300, 2000), np.uint8)
    labels[100:200, 1000:1500] = 1
    data = viewer_data(
        [0], lambda t: image, Annotation(lambda t: labels, Lineage.from_rows([[1, 0, 0, 0]])), None
    )
    assert data["size"] == [512, 77]
    [[label, x, y, _]] = data["result"][0]
    assert (label, x, y) == (1, pytest.approx(1250 * 0.256), pytest.approx(150 * 0.256))


def test_cells_per_frame_counts_tracks_alive():
    lineage = Lineage.from_rows([[1, 0, 2, 0], [2, 3, 4, 1], [3, 3, 3, 1]])
    np.testing.assert_array_equal(cells_per_frame(lineage, [0, 2, 3, 4, 5]), [1, 1, 2, 1, 0])


def test_a_full_disk_is_one_clear_error_and_leaves_the_old_page(tmp_path, monkeypatch):
    movie, path = make_movie(SPEC, 0), tmp_path / "report.html"
    path.write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        InputError, match=r"cannot write .*report\.html: No space left on device; free some space"
    ):
        write_page(path, title="x", **movie_arguments(movie))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
