"""Submissions judged by train.csv: scores are those of the label images, and what is not scored is said."""

import json
from pathlib import Path

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.inference.submission_scores import score_submission
from celltrack_jax.io import rle, sartorius
from celltrack_jax.metrics.competition import competition_measures
from celltrack_jax.metrics.overlap import overlap
from tests import mains
from tests.data.collections_on_disk import discs

KINDS = {"a": "cort", "b": "cort", "c": "astro", "d": "shsy5y"}


@pytest.fixture
def truth() -> dict[str, np.ndarray]:
    return {name: discs((40, 50), 4 + k, seed=k, count=6 - k) for k, name in enumerate(KINDS)}


@pytest.fixture
def table(tmp_path, truth) -> Path:
    rows = [
        sartorius.AnnotatedImage(
            name, labels.shape, KINDS[name], tuple(rle.encode_labels(labels).values()), ()
        )
        for name, labels in truth.items()
    ]
    sartorius.write_table(tmp_path / "train.csv", rows)
    return tmp_path / "train.csv"


def submit(table: Path, images: dict[str, np.ndarray]) -> Path:
    path = table.with_name("submission.csv")
    sartorius.write_submission(path, images)
    return path


def test_scores_are_those_of_the_label_images(table, truth):
    found = {name: np.roll(labels, k, axis=1) for k, (name, labels) in enumerate(truth.items())}
    found["b"][:, 25:] = 0
    found["d"][:] = 0  # listed without a mask
    # In another order than the table.
    scores = score_submission(table, submit(table, dict(reversed(found.items()))))
    direct = [overlap(truth[name], found[name], 0) for name in KINDS]
    assert scores.measures == {**competition_measures(direct, list(KINDS.values())), "images": 4}
    assert scores.measures["shsy5y/mAP"] == 0
    assert 0.2 < scores.measures["mAP"] < scores.measures["AP50"] < 1
    assert (scores.problems, scores.notes) == ([], [])


def test_the_truth_itself_scores_one(table):
    images = sartorius.read_table(table)
    rows = [f"{name},{text}" for name, one in images.items() for text in one.annotations]
    own = table.with_name("own.csv")
    own.write_text("\n".join(["id,predicted", *rows]))
    scores = score_submission(table, own)
    assert set(scores.measures.values()) == {1.0, 4}
    assert scores.notes == []


def test_images_of_one_file_only_are_not_scored_and_said(table, truth):
    found = {"a": truth["a"], "c": np.zeros_like(truth["c"]), "new": truth["b"]}
    scores = score_submission(table, path := submit(table, found))
    assert (scores.measures["mAP"], scores.measures["images"]) == (0.5, 2)
    assert "shsy5y/mAP" not in scores.measures
    assert [note.split(": they are not")[0] for note in scores.notes] == [
        f"{path} has no row of 2 of the 4 images of {table} (b, d)",
        f"{table} has no row of 1 of the 3 images of {path} (new)",
    ]
    with pytest.raises(InputError, match=r"no image in common \(1 and 4\)"):
        score_submission(table, submit(table, {"new": truth["a"]}))


def test_cells_that_overlap_are_said_on_either_side(tmp_path):
    header = "id,annotation,width,height,cell_type"
    (tmp_path / "train.csv").write_text(f"{header}\na,1 4,4,4,cort\na,3 4,4,4,cort\n")
    (tmp_path / "own.csv").write_text("id,predicted\na,1 4\na,3 4\n")
    scores = score_submission(tmp_path / "train.csv", tmp_path / "own.csv")
    assert scores.measures["mAP"] == 1
    own, other = scores.notes
    assert "train.csv: 2 pixels lie in several cells, in 1 images, first in a" in own
    assert "own.csv: 2 pixels" in other
    assert other.endswith("the competition refuses such a submission")


def test_bad_submissions_name_row_and_image(table):
    path = table.with_name("submission.csv")
    path.write_text("id,predicted\na,1 2\nb,1999 3\n")
    with pytest.raises(
        InputError, match=r"submission\.csv, row 3 \(image b\): the run 1999 3 overruns the image"
    ):
        score_submission(table, path)
    with pytest.raises(InputError, match=r"is a folder, .* --submission wrote"):
        score_submission(table, table.parent)


def test_the_main_prints_the_scores_and_writes_them(table, truth):
    file, path = table.with_name("scores.json"), submit(table, {"a": truth["a"], "d": truth["d"] * 0})
    done = mains.call("evaluate", f"--truth={table}", f"--result={path}", f"--json={file}")
    assert done.returncode == 0
    assert done.stderr.startswith(f"note: {path} has no row of 2 of the 4 images")
    row = json.loads(file.read_text())
    assert (row["mAP"], row["cort/AP90"], row["images"], row["valid"]) == (0.5, 1, 2, True)
    lines = dict(line.split() for line in done.stdout.splitlines())
    assert list(lines) == [name for name in row if name not in ("valid", "problems")]
    assert (lines["mAP"], lines["shsy5y/mAP"]) == ("0.5", "0")
    assert len({line.rindex(" ") for line in done.stdout.splitlines()}) == 1
    refused = mains.call("evaluate", f"--truth={table}", f"--result={path}", "--radii=3")
    assert (refused.returncode, "--radii: only with a table of points" in refused.stderr) == (2, True)
