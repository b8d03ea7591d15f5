"""Self-supervision on a small movie of stacks: what it learns from, and how it is judged."""

import shutil
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.training import loop, progress
from configs.kinetochores import pretrain
from tests.data import point_movies

CELLS = {1: ((10, 12), (1, 2), 1, 6), 2: ((20, 30), (0, -1), 1, 6), 4: ((28, 20), (-1, 1), 1, 6)}
FRAMES = range(1, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of one movie of six planes, of which no frame has points."""
    path = tmp_path_factory.mktemp("movie")
    point_movies.write(path, CELLS, FRAMES, (36, 40), depth=6, unpointed=FRAMES)
    return path


def config_of(folder, **changes):
    config = pretrain.get_config("tiny")
    config.data.store = str(folder / "store")
    config.data.channels, config.data.crop, config.data.margin = 1, (4, 16, 16), (0, 4, 4)
    config.model.widths, config.model.groups, config.model.remat = (2, 4), 2, (False, False)
    config.model.kernels, config.model.pools = config.model.kernels[:2], config.model.pools[:1]
    config.evaluation.holdout, config.evaluation.max_frames = 0.4, 2
    config.representation.block = (2, 4, 4)
    config.update_from_flattened_dict(changes)
    return config


def task_of(folder, **changes) -> Any:
    return tasks.build(config_of(folder, **changes))


def wanted(task):
    """The images (*S, C) of the frames that are judged, as they are asked for."""
    sequence, held_out = task._held_out()[0]
    most = task.config.evaluation.max_frames
    return [task._reconstructed(sequence, t, jnp.zeros_like) for t in held_out[:most]]


def scores_of(task, monkeypatch, maps):
    left = list(maps)

    def answer(image):
        padded = np.zeros(image.shape, np.float32)
        one = left.pop(0)
        padded[0][tuple(slice(size) for size in one.shape)] = one
        return jnp.asarray(padded)

    monkeypatch.setattr(task, "predictor", lambda model, variables: answer)
    return task.evaluate(None, None, lambda: False)


def test_r2_is_1_for_the_truth_and_0_for_its_mean(folder, monkeypatch):
    task = task_of(folder)
    truth = wanted(task)
    assert len(truth) == 2
    every = np.concatenate([image[hidden] for image, _, hidden in truth])
    scores = scores_of(task, monkeypatch, [image for image, _, _ in truth])
    assert scores["R2"] == scores["score"] == pytest.approx(1)
    assert scores["MSE"] == 0
    flat = [np.full_like(image, every.mean()) for image, _, _ in truth]
    scores = scores_of(task, monkeypatch, flat)
    assert scores["R2"] == pytest.approx(0, abs=1e-3)
    assert scores["MSE"] == pytest.approx(every.var(), rel=1e-3)
    # What is told of the rest does not count.
    other = [np.where(hidden, image, 99) for image, _, hidden in truth]
    assert scores_of(task, monkeypatch, other)["R2"] == pytest.approx(1)


def test_an_evaluation_stops_when_asked(folder):
    assert task_of(folder).evaluate(None, None, lambda: True) is None  # pyright: ignore[reportArgumentType]


def test_frames_without_points_teach_but_those_held_out_do_not(folder, tmp_path):
    task = task_of(folder)
    assert task._taught() == [[0, 1, 2, 3]]
    assert [frames for _, frames in task._held_out()] == [[4, 5]]
    batch = task.train_data((0, 1))[0]
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        key: (value.shape, value.dtype) for key, value in task.batch_spec().items()
    }
    copied = shutil.copytree(folder / "store", tmp_path / "store")
    other = task_of(folder, **{"evaluation.store": str(copied)})
    assert other._taught() == [list(range(6))]
    assert [frames for _, frames in other._held_out()] == [list(range(6))]


@pytest.mark.slow
def test_a_run_from_end_to_end(folder, tmp_path):
    changes = {"steps": 2, "log_every": 1, "evaluate_every": 2, "save_every": 2}
    config = config_of(folder, **{f"train.{name}": value for name, value in changes.items()})
    assert loop.train(tasks.build(config), config, tmp_path / "run")
    rows = progress.read_history(tmp_path / "run")
    trained = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in trained] == [1, 2]
    assert all(np.isfinite(row["loss"]) and row["loss"] == row["l2"] for row in trained)
    (judged,) = [row for row in rows if row["kind"] == "eval"]
    assert judged["score"] == judged["R2"] < 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"representation.channels": 2}, 'needs the name "reconstruction" with channels=1'),
        ({"representation.block": (4, 4)}, r"representation.block is \(4, 4\): give 3 numbers"),
        (
            {"representation.hidden": "plane", "representation.plane": 4},
            r"representation.plane is 4, but data.crop \(4, 16, 16\) has 4",
        ),
    ],
)
def test_wrong_settings_name_the_cure(folder, changes, said):
    with pytest.raises(InputError, match=said):
        task_of(folder, **changes)
