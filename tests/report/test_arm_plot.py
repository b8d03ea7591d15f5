import xml.etree.ElementTree as ET

import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.report import arm_plot
from celltrack_jax.report.sweep_plot import Run

RUNS = [Run({}, {"F1": f1, "RMSE": 2.0}, arm) for arm, f1 in (("wide", 0.9), ("<thin>", 0.2), ("wide", 0.7))]


def test_a_row_is_the_mean_and_range_over_seeds_in_the_sweeps_order():
    wide, thin = arm_plot.rows(RUNS, "F1")
    assert (wide.arm, wide.low, wide.high) == ("wide", 0.7, 0.9)
    assert wide.mean == pytest.approx(0.8)
    assert thin == ("<thin>", 0.2, 0.2, 0.2)


def test_a_measure_that_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match=r"measure 'AP': it has F1, RMSE"):
        arm_plot.rows(RUNS, "AP")
    with pytest.raises(InputError, match=r"'RMSE' is 2 in a run"):
        arm_plot.rows(RUNS, "RMSE")


def test_the_picture_has_a_dot_for_every_arm_farther_right_where_it_is_better():
    rows = arm_plot.rows(RUNS, "F1")
    root = ET.fromstring(arm_plot.svg({"F1 < 5": rows, "again": rows[1:]}))
    dots = [each.attrib for each in root.iter() if each.tag.endswith("circle")]
    assert len(dots) == 3
    assert float(dots[0]["cx"]) > float(dots[1]["cx"])
    assert float(dots[0]["cy"]) < float(dots[1]["cy"]) == float(dots[2]["cy"])
    assert {"<thin>", "F1 < 5", "0.800"} <= {each.text for each in root.iter()}
