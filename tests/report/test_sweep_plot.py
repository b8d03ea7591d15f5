import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.report import sweep_plot
from launch.sweeps import results

RUNS = [
    sweep_plot.Run({"head": {"sigma": sigma, "loss": loss}}, {"F1": sigma / 10 + seed / 100}, loss)
    for loss in ("mse", "focal")
    for sigma in (4.0, 1.0)
    for seed in (0, 1, 3)
]


def test_a_line_is_the_mean_and_range_over_seeds():
    mse, focal = sweep_plot.lines(RUNS, "F1", "head.sigma", "head.loss")
    assert (mse.name, focal.name) == ("mse", "focal")
    np.testing.assert_array_equal(mse.x, [1, 4])
    np.testing.assert_allclose(mse.mean, [0.1 + 0.04 / 3, 0.4 + 0.04 / 3])
    np.testing.assert_allclose(mse.low, [0.1, 0.4])
    np.testing.assert_allclose(mse.high, [0.13, 0.43])


def test_what_no_run_has_is_named():
    with pytest.raises(InputError, match=r"measure 'AP': it has F1"):
        sweep_plot.lines(RUNS, "AP", "head.sigma", "head.loss")
    with pytest.raises(InputError, match=r"no head.width: give a key"):
        sweep_plot.lines(RUNS, "F1", "head.width", "head.loss")
    with pytest.raises(InputError, match=r"head.loss is 'mse' in a run, which has no place on an axis"):
        sweep_plot.lines(RUNS, "F1", "head.loss", "head.sigma")


def test_what_does_not_fit_between_0_and_1_is_not_drawn_at_1():
    runs = [run._replace(best={"RMSE": 3.2}) for run in RUNS]
    with pytest.raises(InputError, match=r"'RMSE' is 3.2 in a run: charts go from 0 to 1"):
        sweep_plot.lines(runs, "RMSE", "head.sigma", "head.loss")


def test_the_picture_shows_every_point_higher_where_it_is_larger():
    found = sweep_plot.lines(RUNS, "F1", "head.sigma", "head.loss")
    root = ET.fromstring(sweep_plot.svg({"F1 < 5": found}, "sigma"))
    drawn = [each.attrib["points"].split() for each in root.iter() if each.tag.endswith("polyline")]
    assert [len(points) for points in drawn] == [2, 2]
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in drawn[0])
    assert x0 < x1
    assert y0 > y1
    assert "F1 < 5" in {each.text for each in root.iter()}


def test_runs_that_are_done_are_read(tmp_path):
    rows = []
    for arm, status in (("one", "done"), ("two", "failed")):
        folder = tmp_path / "runs" / arm / "seed0"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"train": {"best_metric": "score"}, "a": 1}))
        history = [
            {"step": 1, "kind": "eval", "score": 0.4, "F1": 0.3},
            {"step": 2, "kind": "eval", "score": 0.2, "F1": 0.9},
        ]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, history)))
        rows.append({"arm": arm, "folder": f"runs/{arm}/seed0", "status": status})
    (tmp_path / "manifest.json").write_text(json.dumps({"runs": rows}))
    (run,) = results.read_runs(tmp_path)
    assert run.best == {"score": 0.4, "F1": 0.3}
    assert run.arm == "one"
    with pytest.raises(InputError, match=r"give the --workdir of a launch.sweep"):
        results.read_runs(tmp_path / "runs")
