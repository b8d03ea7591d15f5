"""What runs find is kept while it serves, scored as the task scores it, and compared on the same images alone."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.metrics.competition import competition_measures
from celltrack_jax.metrics.overlap import overlap
from celltrack_jax.tasks.judged import ImageResult
from configs.sartorius import cellpose
from launch import judging
from launch.sweeps import several
from tests.data import collections_on_disk as collection
from tests.tasks.test_images import SHAPE, judged, task_of

CONFIG = "configs/sartorius/cellpose.py"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = {
        f"{kind[0]}{k}": (kind, collection.discs(SHAPE, radius, k))
        for kind, radius in (("astro", 9.0), ("cort", 6.0))
        for k in range(4)
    }
    return collection.write(tmp_path_factory.mktemp("collection"), made)


def go_on() -> bool:
    return False


def images_task(store, **changes) -> Any:
    return task_of(store, **changes)


class Network:
    """Stands for a trained network: it finds the truth, in the k-th image without its first k cells unless the least size
    is 3."""

    def __init__(self, task):
        self.task, self.called = task, 0

    def outputs(self, model, variables, stop):
        self.called += 1
        yield from ((image, k) for k, image in enumerate(self.task.judged_images()))

    def read(self, image, output, reading):
        truth = image.truth().astype(np.int32)
        missed = 0 if reading.get("representation.min_size") == 3 else output
        labels = np.maximum(truth - missed, 0)
        return ImageResult(image, labels, np.linspace(1, 0.5, labels.max(), dtype=np.float32))

    def results(self, model, variables, stop):
        return (self.read(image, k, {}) for image, k in self.outputs(model, variables, stop))

    def __getattr__(self, name):
        return getattr(self.task, name)


@pytest.fixture
def run(store, tmp_path, monkeypatch):
    task: Any = Network(images_task(store))
    monkeypatch.setattr(judging, "_restored", lambda run, which: (7, None, None))
    (tmp_path / "run").mkdir()
    return judging.Run("one", tmp_path / "run", task.config, task)


def test_what_was_found_serves_again_until_something_changes(run, tmp_path):
    kept = tmp_path / "kept" / "one.npz"
    first = judging.find(run, "best", kept, go_on)
    again = judging.find(run, "best", kept, go_on)
    assert first is not None
    assert again is not None
    assert run.task.called == 1
    assert again.note == first.note == "step 7, the best checkpoint"
    for one, other in zip(
        [*first.labels, *first.confidence], [*again.labels, *again.confidence], strict=True
    ):
        np.testing.assert_array_equal(one, other)
    run.config.evaluation.max_frames = 1
    judging.find(run, "best", kept, go_on)
    assert run.task.called == 2
    kept.write_bytes(kept.read_bytes()[:100])
    judging.find(run, "best", kept, go_on)
    assert run.task.called == 3
    assert judging.find(run, "best", tmp_path / "none.npz", lambda: True) is None
    assert not (tmp_path / "none.npz").exists()


def test_a_row_has_the_scores_of_the_task_and_the_worst_and_best_images(run, tmp_path):
    found = judging.find(run, "best", tmp_path / "one.npz", go_on)
    assert found is not None
    images = run.task.judged_images()
    truths = [image.truth() for image in images]
    row = judging.row("one", found, images, truths, 1)
    overlaps = [overlap(truth, labels, 0) for truth, labels in zip(truths, found.labels, strict=True)]
    expected = competition_measures(overlaps, [image.category for image in images])
    assert row.measures.items() >= expected.items()
    # Five cells each, of which 0 to 3 are missed; the sure ones are all right.
    assert [row.scores[image.name] for image in images] == pytest.approx([1, 0.8, 0.6, 0.4])
    assert row.measures["coco_AP50"] == pytest.approx(0.7, abs=0.02)
    assert [one.name for one in row.worst] == [images[3].name]
    assert [one.name for one in row.best] == [images[0].name]
    nothing = judging.row("none", found._replace(confidence=None), images, truths, 0)
    assert (nothing.worst, nothing.best) == ([], [])
    assert "coco_AP" not in nothing.measures


def test_a_row_says_what_the_evaluation_says(store, tmp_path, monkeypatch):
    task = images_task(store)
    scores, _ = judged(task, monkeypatch, lambda labels: np.where(labels == 1, 0, labels))
    monkeypatch.setattr(judging, "_restored", lambda run, which: (7, None, None))
    found = judging.find(
        judging.Run("one", tmp_path, task.config, task), "latest", tmp_path / "one.npz", go_on
    )
    assert found is not None
    images = task.judged_images()
    row = judging.row("one", found, images, [image.truth() for image in images], 1)
    own = {key: value for key, value in row.measures.items() if "coco" not in key}
    assert own == {key: scores[key] for key in own}
    assert len(own) == 12
    assert 0 < scores["mAP"] < 1


@pytest.mark.parametrize("nothing", [0.0, None])
def test_where_nothing_scores_it_is_said_once(nothing):
    measures = dict.fromkeys(("mAP", "a/mAP", "b/mAP"), nothing)
    told = {"step": 7, "before": measures, "after": measures, "overrides": {}, "flags": ""}
    (line,) = judging.lines(told)
    assert line.startswith("nothing that is found at step 7 scores above 0")
    one = {**told, "after": measures | {"mAP": 0.25}}
    assert judging.lines(one)[0] == f"mAP              {'0.0000' if nothing == 0 else '-'} -> 0.2500"
    assert len(judging.lines(one)) == 5
    # What was tuned on both halves may score though what was tuned on one fails on the other.
    (*_, last) = judging.lines({**told, "overrides": {"k": 3}, "flags": "--config.k=3"})
    assert last == "--config.k=3"


def test_tuning_is_written_beside_the_run_and_serves_again(run, tmp_path):
    kept = tmp_path / "tuned.npz"
    values = {"representation.min_size": [1, 3]}
    run.task.axes = lambda: [one for one in run.task.task.axes() if one.key in values]
    done = judging.tune(run, "best", go_on, most=8, values=values, kept=kept)
    assert done is not None
    told, found = done
    written = json.loads((run.workdir / "tuned.json").read_text())
    assert written == json.loads(json.dumps(told))
    (key,) = values
    assert told["overrides"] == {key: 3}
    assert told["flags"] == f"--config.{key}=3"
    assert told["after"]["mAP"] == 1 > told["before"]["mAP"]
    assert sorted(told["halves"][0]["images"] + told["halves"][1]["images"]) == sorted(
        image.name for image in run.task.judged_images()
    )
    truths = [image.truth() for image in run.task.judged_images()]
    overlaps = [overlap(truth, labels, 0) for truth, labels in zip(truths, found.labels, strict=True)]
    assert competition_measures(overlaps)["mAP"] == told["after"]["mAP"]
    again = judging.tune(run, "best", go_on, most=8, values=values, kept=kept)
    assert again is not None
    assert (again[0], run.task.called) == (written, 1)
    judging.tune(run, "best", go_on, most=1, values=values, kept=kept)
    assert run.task.called == 2
    assert judging.tune(run, "best", lambda: True, most=2, values={}, kept=kept) is None


def test_thresholds_see_images_alone_and_are_found_once(store, tmp_path, monkeypatch):
    images = images_task(store).judged_images()
    seen = []
    monkeypatch.setattr(
        judging, "_by_threshold", lambda image: seen.append(image.name) or np.ones((2, 2), np.int32)
    )
    for _ in range(2):
        found = judging.find_by_threshold(images, tmp_path / "threshold.npz", go_on)
        assert found is not None
        assert len(found.labels) == 4
        assert found.confidence is None
    assert sorted(seen) == sorted(image.name for image in images)
    assert judging.find_by_threshold(images[:2], tmp_path / "threshold.npz", lambda: True) is None


def test_other_images_are_refused(store):
    one, same, other = images_task(store), images_task(store), images_task(store, fold=1)
    assert len(judging.same_images({"one": one, "same": same})) == 4
    with pytest.raises(
        InputError, match=r"one and other judge 4 and 4 images, of which 8 are not the same \(astro/"
    ):
        judging.same_images({"one": one, "other": other})
    with pytest.raises(InputError, match="one and fewer judge 4 and 2 images, of which 2 are not the same"):
        judging.same_images({"one": one, "fewer": images_task(store, max_frames=1)})
    config = cellpose.get_config("tiny")
    config.task = "dense"
    config.tracking = {"max_distance_um": 1.0}
    with pytest.raises(InputError, match="is of the task 'dense', whose images are not judged one by one"):
        judging.task_of(cast(Any, config), "runs/x")


def test_configs_are_named_by_file_and_argument():
    words = ["configs/a.py:x,configs/b.py", "b=configs/c.py:loss=dice,kernel=5,d/e.py:y"]
    with pytest.raises(Exception, match="two are called 'b'"):
        several.split(words)
    assert several.split([words[0].removesuffix(",configs/b.py"), words[1]]) == {
        "a_x": "configs/a.py:x",
        "b": "configs/c.py:loss=dice,kernel=5",
        "e_y": "d/e.py:y",
    }
    assert list(several.split(["u.py:loss=dice,kernel=5"])) == ["u_loss=dice+kernel=5"]


def test_overrides_change_the_configs_that_have_the_key():
    specs = {"flows": f"{CONFIG}:tiny", "boxes": "configs/sartorius/mask_rcnn.py:tiny"}
    common = ["--config.data.store=there", "--config.detection.count=7", "--config.evaluation.folds=3"]
    flows, boxes = several.load(specs, common)
    assert (flows.name, boxes.name) == tuple(specs)
    assert flows.overrides == {"data.store": "there", "evaluation.folds": 3}
    assert boxes.config.detection.count == 7
    assert flows.config.evaluation.folds == boxes.config.evaluation.folds == 3
    for wrong, message in (
        (["--config.data.stroe=x"], "none of the configs has 'data.stroe'"),
        (["--config.train.steps=many"], "flows|mask_rcnn|cellpose"),
    ):
        with pytest.raises(InputError, match=message):
            several.load(specs, wrong)
    with pytest.raises(InputError, match="knows v3"):
        several.load({"x": f"{CONFIG}:v9"}, [])
    with pytest.raises(InputError, match=r"none\.py"):
        several.load({"x": str(Path("configs/none.py"))}, [])
