"""The table of measures."""

import pytest

from celltrack_jax.report import measures

SCORES = {"SEG": 0.87312, "TRA": 0.9, "DET": None, "AOGM": 1234.0, "AOGM_FN": 3, "AP50": 0.25, "valid": True}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (0.87312, "0.8731"),
        (1.0, "1.0000"),
        (1234.0, "1,234"),
        (412.5, "412.5000"),
        (3, "3"),
        ("x", "x"),
    ],
)
def test_values_as_text(value, text):
    assert measures.shown_value(value) == text


def test_table_explains_known_measures_and_keeps_unknown_ones():
    table = measures.table(SCORES, {"SEG": 0.85})
    assert "mean Jaccard index" in table
    assert ">0.8731<" in table
    assert ">AP50<" in table
    assert ">—<" in table
    assert "LNK" not in table
    assert "valid" not in table


def test_verdicts_do_not_rest_on_colour_alone():
    tiles = measures.tiles(SCORES, {"SEG": 0.85, "TRA": 0.97, "DET": 0.5, "AP50": 0.2})
    assert "✓ reaches 0.85" in tiles
    assert "✗ below 0.97" in tiles
    assert "target 0.5" in tiles
    assert "✓ reaches 0.2" in tiles


def test_a_target_without_a_score_is_shown_as_missing():
    assert "target 0.9" in measures.tiles({}, {"CHOTA": 0.9})


def test_no_scores_no_table():
    assert measures.table({}, {}) == ""
    assert measures.tiles({}, {}) == ""
    assert measures.problems({}) == ""


def test_broken_rules_are_listed_and_escaped():
    text = measures.problems({"valid": False, "problems": ["label 3 <b>", "frame 2"]})
    assert "label 3 &lt;b&gt;" in text
    assert text.count("<li>") == 2


def test_names_and_values_are_escaped():
    table = measures.table({"<i>": "<u>"}, {})
    assert "&lt;i&gt;" in table
    assert "<u>" not in table
