"""How movies are divided, and what is said of those that cannot be."""

import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.tasks import link_truth
from configs.ctc import link
from tests import tiny_store


@pytest.mark.parametrize("frames", range(1, 60))
@pytest.mark.parametrize("least", [1, 6])
def test_no_frame_is_trained_on_and_judged(frames, least):
    training, held_out = link_truth.divide((3, 2 + frames), 0.15, least)
    assert training[0] == 3
    if held_out is None:
        assert training[1] == 2 + frames
        assert frames < max(least, np.ceil(0.15 * frames)) + 2
    else:
        assert (training[1] + 1, 2 + frames) == held_out
        assert held_out[1] - held_out[0] + 1 == max(least, np.ceil(0.15 * frames))
        assert training[1] > training[0]


@pytest.fixture
def task(tmp_path):
    config = link.get_config("tiny")
    config.data.store, config.data.buckets = str(tiny_store.make(tmp_path)), ((128, 1024),)
    return tasks.build(config)


def test_links_from_other_parts_are_none(task):
    (truth,) = task._truths
    part = link_truth.part(truth, (4, 9))
    frame = truth.cells.detections.frame
    inside = np.flatnonzero(frame >= 4)
    first = inside[0]
    expected = [p - first if p >= first else -1 for p in truth.parents[inside].tolist()]
    assert part.parents.tolist() == expected
    assert (truth.parents[inside] >= 0).sum() > (part.parents >= 0).sum() > 0


def test_faulty_copies_know_nothing_of_the_frames_held_out(task):
    (truth,) = task._truths
    late = truth.cells.detections.frame > task._parts[0].training[1]
    blinding = np.where(late[:, None], np.float32(1e6), truth.cells.intensity)
    task.config.imperfect.false = 0.4
    found = []
    for intensity in (truth.cells.intensity, blinding):
        other = tasks.build(task.config)
        other.__dict__["_truths"] = [truth._replace(cells=truth.cells._replace(intensity=intensity))]
        found.append([window.read() for window in other._training_windows])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one.nodes["features"], two.nodes["features"])


def test_a_movie_too_short_to_be_judged_is_said_and_no_other_is_an_error(task, capsys):
    (truth,) = task._truths
    short = link_truth.part(truth, (0, 6))._replace(name="short")
    task.__dict__["_truths"] = [truth, short]
    assert [held.name for held in task._held_out] == [truth.name]
    assert capsys.readouterr().out == "note: too short to be judged, trained on as a whole: short\n"
    assert task.train_data((0, 1))[0]["edge_mask"].any()
    other = tasks.build(task.config)
    other.__dict__["_truths"] = [short]
    with pytest.raises(InputError, match=r"no movie of .* has the 8 frames .* prepare longer movies"):
        other.train_data((0, 1))
