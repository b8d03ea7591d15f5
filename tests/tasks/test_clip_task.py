"""The clip task: batches as promised, and held-out frames predicted once each, whole or in patches."""

import jax
import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.tasks.frames import normalised
from configs.musc import segment
from tests import tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store.make(tmp_path_factory.mktemp("movie"))


@pytest.fixture
def config(store):
    config = segment.get_config("tiny")
    config.data.store = str(store)
    config.evaluation.holdout = 0.3
    return config


def itself(clip):
    """Stands in for a network: (1, T, *S, C) to the same."""
    return clip


def test_batches_have_the_promised_shapes(config):
    for whole in (False, True):
        config.data.whole_frames = whole
        task = tasks.build(config)
        batch = task.train_data((0, 1))[1]
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            key: (value.shape, value.dtype) for key, value in task.batch_spec().items()
        }


@pytest.mark.parametrize("patches", ["whole", "disjoint"])
@pytest.mark.parametrize("window", [(1200, 1200), (50, 41)])
@pytest.mark.parametrize(("block", "before", "after"), [(3, 1, 0), (4, 0, 2), (20, 0, 0), (1, 0, 0)])
def test_each_frame_is_predicted_once_at_its_place(config, patches, window, block, before, after):
    config.evaluation.patches, config.evaluation.window = patches, window
    config.clips.block, config.clips.before, config.clips.after = block, before, after
    task = tasks.build(config)
    (sequence,) = task._sequences
    part = task._window(sequence)
    found = list(task._predictions(sequence, [1, 2, 7], itself, 1.0, lambda: False))
    assert [t for t, _ in found] == [1, 2, 7]
    for t, output in found:
        expected = normalised(sequence, t, part, 1.0)[0, 0]
        np.testing.assert_array_equal(output()[..., 0], expected)
    assert list(task._predictions(sequence, [1, 2, 7], itself, 1.0, lambda: True)) == []


def test_a_network_sees_the_frames_before_and_behind_a_block(config):
    config.clips.block, config.clips.before, config.clips.after = 4, 2, 1
    task = tasks.build(config)
    (sequence,) = task._sequences
    part = task._window(sequence)
    seen = []

    def remember(clip):
        seen.append(clip[0, ..., 0])
        return clip

    list(task._predictions(sequence, [5], remember, 1.0, lambda: False))
    frames = np.stack([normalised(sequence, t, part, 1.0)[0, 0] for t in (2, 3, 4, 5, 6, 7, 8)])
    np.testing.assert_array_equal(seen[0][:, :96, :96], frames)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("clips", "frames", 0, "are at least 1"),
        ("clips", "before", -1, "at least 0"),
        ("evaluation", "patches", "some", "evaluation.patches is 'some'"),
        ("evaluation", "patches", "disjoint", "'disjoint' cuts frames that data.whole_frames resizes"),
        ("mesh", "space", 2, "mesh.space=2 splits volumes, not clips"),
        ("data", "margin", (2, 2), "data.whole_frames needs 2D movies and no data.margin"),
    ],
)
def test_errors_name_the_setting(config, part, key, value, said):
    config.data.whole_frames = True
    config[part][key] = value
    with pytest.raises(InputError, match=said):
        tasks.build(config)


def test_whole_frames_are_judged_whole(config):
    config.data.whole_frames = True
    config.evaluation.window = (96, 50)
    with pytest.raises(InputError, match=r"evaluation.window=\(96, 96\)"):
        tasks.build(config).train_data((0, 1))


def test_new_variables_take_the_compiled_network(config):
    task = tasks.build(config)
    model = FunctionalModel(task.model)
    clip = np.random.default_rng(0).random((1, 2, 32, 32, 1), np.float32)
    first, second = (
        np.asarray(task.predictor(model, model.init(jax.random.key(seed)))(clip)) for seed in range(2)
    )
    assert task._forward._cache_size() == 1
    assert not np.array_equal(first, second)
