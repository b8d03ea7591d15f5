"""Two networks and a threshold on the same images through the real main: trained once, judged as launch.evaluate does."""

import json

import pytest

from tests import mains
from tests.data import collections_on_disk as collection

CONFIGS = "flows=configs/sartorius/cellpose.py:tiny,boxes=configs/sartorius/mask_rcnn.py:tiny"
# Untrained networks find something where little is asked of it.
TINY = {
    "train.steps": 2,
    "train.evaluate_every": 2,
    "train.save_every": 2,
    "evaluation.folds": 2,
    "representation.flow_threshold": 0.0,
    "representation.min_size": 5,
    "detection.per_class.cell.score": 0.06,
}


@pytest.mark.slow
def test_networks_are_trained_once_and_judged_as_the_evaluation_does(tmp_path):
    made = {
        f"{kind[0]}{k}": (kind, collection.discs((64, 80), radius, k))
        for kind, radius in (("astro", 9.0), ("cort", 6.0))
        for k in range(4)
    }
    store, workdir = collection.write(tmp_path, made), tmp_path / "compared"
    common = [f"--config.{key}={value}" for key, value in TINY.items()]
    flags = [f"--configs={CONFIGS}", f"--workdir={workdir}", f"--config.data.store={store}", *common]
    assert mains.call("compare", *flags, "--notrain").returncode == 1
    first = mains.call("compare", *flags)
    assert first.returncode == 0, first.stderr
    rows = json.loads((workdir / "comparison.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["flows", "boxes", "threshold and watershed"]
    assert first.stdout.count("\n| ") == 5
    for row in rows[:2]:
        file = tmp_path / "scores.json"
        run = workdir / "runs" / row["model"] / "seed0"
        done = mains.call("evaluate", f"--workdir={run}", "--checkpoints=best", f"--json={file}")
        assert done.returncode == 0, done.stderr
        (scores,) = json.loads(file.read_text())
        for name in ("mAP", "AP50", "AP75", "AP90", "astro/mAP", "cort/mAP"):
            assert row[name] == scores[name], (row["model"], name)
        assert row["images"] == scores["images"] == 4

    second = mains.call("compare", *flags, "--tune", "--most=1", "--shown=1")
    assert second.returncode == 0, second.stderr
    assert "2 of 2 runs are done already" in second.stdout
    again = {row["model"]: row for row in json.loads((workdir / "comparison.json").read_text())["rows"]}
    assert list(again) == ["flows", "flows, tuned", "boxes", "boxes, tuned", "threshold and watershed"]
    assert [again[row["model"]] for row in rows] == rows
    assert (workdir / "comparison.html").read_text().count("<figure>") == 10
    attempts = json.loads((workdir / "manifest.json").read_text())["runs"]
    assert [run["attempts"] for run in attempts] == [1, 1]

    # Finished runs, and those of other images.
    folders = [workdir / "runs" / name / "seed0" for name in ("flows", "boxes")]
    runs = f"--runs=a={folders[0]},b={folders[1]}"
    file = tmp_path / "rows.json"
    third = mains.call("compare", runs, f"--workdir={tmp_path / 'other'}", "--nothreshold", f"--json={file}")
    assert third.returncode == 0, third.stderr
    assert [row["mAP"] for row in json.loads(file.read_text())] == [row["mAP"] for row in rows[:2]]
    config = json.loads((folders[1] / "config.json").read_text())
    config["evaluation"]["fold"] = 1
    (folders[1] / "config.json").write_text(json.dumps(config))
    fourth = mains.call("compare", runs, f"--workdir={tmp_path / 'other'}")
    assert fourth.returncode == 1
    assert "a and b judge 4 and 4 images, of which 8 are not the same" in fourth.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=x"], "--workdir=<folder> and --configs="),
        (["--workdir=x", "--runs=a", "--notrain"], "--notrain goes with --configs"),
    ],
)
def test_wrong_flags_are_one_line(flags, message):
    done = mains.call("compare", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
