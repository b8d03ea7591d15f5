"""launch.report through the real main: a page, or one line that says what is missing."""

import json

import numpy as np
import pytest

from tests import mains
from tests.ctc_folders import Movie, write_masks, write_result, write_truth


def call(*flags: str) -> tuple[int, str, str]:
    """Returns exit status, stdout and stderr."""
    done = mains.call("report", *flags)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path):
    """A stack of two frames with one cell, its result and its truth."""
    mask = np.zeros((3, 8, 9), np.uint16)
    mask[1, 2:5, 3:6] = 1
    movie = Movie({7: mask, 8: mask}, [[1, 7, 8, 0]])
    write_masks(tmp_path / "01", "t", {frame: 100 * mask for frame in movie.masks})
    write_result(tmp_path / "01_RES", movie)
    write_truth(tmp_path / "01_GT", movie)
    (tmp_path / "scores.json").write_text(json.dumps({"TRA": 0.75, "valid": True, "problems": []}))
    return tmp_path


def test_a_result_and_its_truth_become_a_page(folder):
    page = folder / "pages" / "a.html"
    flags = (f"--images={folder / '01'}", f"--result={folder / '01_RES'}", f"--output={page}")
    status, out, err = call(*flags, f"--truth={folder / '01_GT'}", f"--scores={folder / 'scores.json'}")
    assert (status, out, err) == (0, f"{page}: 2 frames, 1 tracks\n", "")
    html = page.read_text()
    for part in ("Lineage of the truth", "0.750", "maximum projections", str(folder / "01_RES")):
        assert part in html
    assert "show-links" not in html.split("<script")[0]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--result={}/01_RES",), 2, "--images"),
        (
            ("--images={}/01", "--result={}/01"),
            1,
            "/01 has no mask000.tif: give a folder that launch.predict",
        ),
        (("--images={}/01", "--result={}/01_RES", "--truth={}/01"), 1, "has no TRA/man_track.txt"),
        (("--images={}/01", "--result={}/01_RES", "--scores={}/01"), 1, "cannot read"),
        (("--images={}", "--result={}/01_RES"), 1, "has no frames"),
    ],
)
def test_what_is_missing_is_named_in_one_line(folder, flags, status, message):
    result = call(f"--output={folder / 'page.html'}", *(flag.format(folder) for flag in flags))
    assert result[0] == status
    assert message in result[2]
    assert result[2].count("\n") == 1
    assert not (folder / "page.html").exists()


def test_a_damaged_file_of_links_is_named(folder):
    (folder / "01_RES" / "links.npz").write_bytes(b"PK\x03\x04")
    status, _, err = call(f"--images={folder / '01'}", f"--result={folder / '01_RES'}")
    assert (status, err.count("\n")) == (1, 1)
    assert "links.npz" in err
    assert "track the movie again" in err
