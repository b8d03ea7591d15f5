"""Arms side by side: means over seeds, paired differences and their spread, against numbers worked out by hand."""

import csv
import io

import pytest

from celltrack_jax.report import sweep, tables
from celltrack_jax.report.sweep import ArmResult
from tests.report.test_page import read


def arm(name: str, best: dict, runs: int = 2, problems: tuple = ()) -> ArmResult:
    history = [{"step": step, "kind": "eval", "SEG": 0.1 * step} for step in (1, 2)]
    return ArmResult(name, runs, best, history if best else [], list(problems))


ARMS = [
    arm("base", {0: {"DET": 0.5, "SEG": 0.6}, 1: {"DET": 0.5, "SEG": 0.8}}),
    arm("wide", {0: {"DET": 0.6, "SEG": 0.7}, 1: {"DET": 0.4, "SEG": 0.7}}),
    arm("half", {1: {"DET": 0.9, "SEG": 0.9}}, problems=("seed 0 failed: <the disk is full>",)),
    arm("none", {}, problems=("seed 0 failed: x", "seed 1 missing")),
]


def cells(name: str) -> dict:
    table = sweep.table(ARMS, "SEG")
    return dict(zip(table.columns, next(row for row in table.rows if row[0] == name), strict=True))


def test_differences_are_paired_by_seed_and_the_best_metric_comes_first():
    assert sweep.table(ARMS, "SEG").columns == [
        "arm", "done", "SEG", "SEG difference", "SEG spread", "DET", "DET difference", "DET spread", "problem",
    ]  # fmt: skip
    base, wide, half = cells("base"), cells("wide"), cells("half")
    assert (base["SEG"], base["SEG difference"], base["SEG spread"]) == (pytest.approx(0.7), None, None)
    # The differences are +0.1 and -0.1: their mean is 0, and their deviation with n - 1 is 0.1 * sqrt(2).
    assert wide["SEG difference"] == pytest.approx(0)
    assert wide["SEG spread"] == pytest.approx(0.1 * 2**0.5)
    # Of one seed there is no spread, and its difference is to the baseline's run of that seed alone.
    assert (half["SEG difference"], half["SEG spread"]) == (pytest.approx(0.1), None)
    assert (half["done"], half["problem"]) == ("1/2", "seed 0 failed: <the disk is full>")


def test_an_arm_that_failed_is_a_row_without_numbers():
    row = cells("none")
    assert row["problem"] == "seed 0 failed: x; seed 1 missing"
    assert [row[key] for key in row if key not in ("arm", "done", "problem")] == [None] * 6


def test_the_best_evaluation_of_a_run_is_taken():
    rows = [
        {"step": 1, "kind": "eval", "score": 0.1, "SEG": 0.3},
        {"step": 2, "kind": "eval", "score": 0.4, "SEG": 0.2, "DET": None, "evaluation_s": 3.0},
        {"step": 2, "kind": "train", "score": 9.0},
        {"step": 3, "kind": "eval", "score": None, "SEG": 0.9},
    ]
    assert sweep.best_row(rows, "score") == {"score": 0.4, "SEG": 0.2}
    assert sweep.best_row(rows[3:], "score") == {"SEG": 0.9}
    assert sweep.best_row([], "score") == {}


def test_csv_and_page_are_whole(tmp_path):
    _, (csv_file, page) = sweep.write(tmp_path, ARMS, "SEG", {"Config": "<file>"})
    rows = list(csv.DictReader(io.StringIO(csv_file.read_text())))
    assert [row["arm"] for row in rows] == ["base", "wide", "half", "none"]
    assert float(rows[2]["SEG"]) == pytest.approx(0.9)
    assert rows[3]["SEG"] == ""
    html = page.read_text()
    reader = read(html)
    assert "&lt;the disk is full&gt;" in html
    assert [tag for tag, _ in reader.elements].count("svg") == 2  # wide and half, each beside the baseline
    assert not any("src" in attributes or "href" in attributes for _, attributes in reader.elements)


def test_numbers_are_shown_to_four_places():
    assert [tables.shown(cell) for cell in (0.12345, 7, "a", None)] == ["0.1235", "7", "a", "—"]
