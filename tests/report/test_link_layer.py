"""Candidates reach the page whole where there is room, and the doubtful ones where there is not."""

import json
import re

import numpy as np

from celltrack_jax.io.link_scores import LinkScores
from celltrack_jax.lineage import Lineage
from celltrack_jax.report import link_layer
from celltrack_jax.report.lineage_tree import tree_svg
from celltrack_jax.report.link_layer import Doubt, doubts, frame_links
from celltrack_jax.report.page import write_page
from celltrack_jax.report.viewer import Annotation


def scores(rows) -> LinkScores:
    """Of rows (frame, track, source frame, source track, probability, chosen); places tell frame and track."""
    frame, track, source_frame, source_track, probability, chosen = np.array(rows, float).T
    place = np.stack([0 * frame, frame, 10 * track], 1).astype(np.float32)
    source = np.stack([0 * frame, source_frame, 10 * source_track], 1).astype(np.float32)
    return LinkScores(
        frame.astype(np.int64),
        track.astype(np.int64),
        source_frame.astype(np.int64),
        source_track.astype(np.int64),
        place,
        source,
        probability.astype(np.float32),
        chosen > 0,
    )


# Track 1 divides into 2 and 3 after frame 1; 3 is seen in frame 3 first; 2 is all but lost from frame 2 to 3.
FAMILY = scores(
    [
        (1, 1, 0, 1, 0.99, 1),
        (2, 2, 1, 1, 0.95, 1),
        (3, 2, 2, 2, 0.40, 1),
        (3, 3, 1, 1, 0.60, 1),
        (3, 3, 2, 2, 0.35, 0),
    ]
)
TRACKS = Lineage.from_rows([[1, 0, 1, 0], [2, 2, 3, 1], [3, 3, 3, 1]])


def test_segments_lead_from_the_earlier_place_and_chosen_ones_are_drawn_last():
    first, last = frame_links(FAMILY, [1, 3], scale=0.5, steps=4)
    assert first == [[21, 1, 21, 3, 99, 1]]  # (10 + 0.5) x 0.5 x 4, (0 + 0.5) x 2, (1 + 0.5) x 2
    assert [link[4:] for link in last] == [[35, 0], [40, 1], [60, 1]]
    assert last[0][:4] == [41, 5, 61, 7]


def test_crowded_pages_keep_the_most_doubtful(monkeypatch):
    rng = np.random.default_rng(0)
    probability = rng.permutation(200) / 200
    rows = [(1 + i % 2, i, 0, i, p, i < 120) for i, p in enumerate(probability)]
    monkeypatch.setattr(link_layer, "MOST_CHOSEN", 30)
    monkeypatch.setattr(link_layer, "MOST_REJECTED", 20)
    shown = [link for frame in frame_links(scores(rows), [1, 2], 1.0, 1) for link in frame]
    chosen = [link[0] // 10 for link in shown if link[5]]
    rejected = [link[0] // 10 for link in shown if not link[5]]
    assert sorted(chosen) == sorted(np.argsort(probability[:120])[:30].tolist())
    assert sorted(rejected) == sorted((120 + np.argsort(-probability[120:])[:20]).tolist())


def test_doubts_are_chosen_links_of_little_probability():
    found = doubts(FAMILY)
    assert found == {
        2: [Doubt(2, 3, float(np.float32(0.4)), False)],
        3: [Doubt(1, 3, float(np.float32(0.6)), True)],
    }
    svg = tree_svg(TRACKS, range(4), lambda i: "#123456", "tree", found)
    marks = re.findall(r'<g class="doubt" data-frame="3".*?</g>', svg)
    assert [mark.count("<line") for mark in marks] == [1, 2]
    assert "link from frame 1 to 3: 0.60" in marks[1]
    assert "doubt" not in tree_svg(TRACKS, range(4), lambda i: "#123456", "tree")


def page(path, links) -> str:
    masks = np.zeros((4, 12, 40), np.uint16)
    write_page(
        path / "page.html",
        title="A result",
        frames=range(4),
        image=masks.__getitem__,
        result=Annotation(masks.__getitem__, TRACKS),
        links=links,
    )
    return (path / "page.html").read_text()


def test_a_page_has_the_layer_only_where_links_are_scored(tmp_path):
    html = page(tmp_path, FAMILY)
    assert 'id="show-links"' in html
    assert "2 links that the network gave less than 90% are marked red" in html
    data = json.loads(re.findall(r'id="movie">(.*?)</script>', html)[0])
    assert [len(links) for links in data["links"]] == [0, 1, 1, 3]
    without = page(tmp_path, None)
    assert 'id="show-links"' not in without
    assert 'class="doubt"' not in without
    nothing = LinkScores(*(column[:0] for column in FAMILY))
    assert "0 links that the network" in page(tmp_path, nothing)
