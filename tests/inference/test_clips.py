"""A movie in blocks of frames gives what the task's own evaluation gives, however it is cut and shared."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.data import store
from celltrack_jax.inference import clips, movies, segment, tiles
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.ops.symmetry import symmetries
from celltrack_jax.tasks import Clips
from configs.musc.segment import get_config
from tests import tiny_store
from tests.ctc_folders import write_masks


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """The store of ten frames of 96 x 96, whose images are in <parent>/ctc/01."""
    return tiny_store.make(tmp_path_factory.mktemp("store"))


@functools.cache
def network(**changes):
    """The tiny clip task and its untrained network without normalisation."""
    config = get_config("tiny")
    config.model.norm = "none"
    config.update_from_flattened_dict({name.replace("_", ".", 1): value for name, value in changes.items()})
    task = tasks.build(config)
    model = FunctionalModel(task.model)
    variables = jax.jit(model.init)(jax.random.key(0))
    return task, task.predictor(model, variables)


def settings_for(task, tile: tuple[int, ...], batch: int = 1) -> segment.Settings:
    """Tiles of a frame as large as `tile`."""
    alone = segment.Settings(
        tile, task.halo, task.stride, batch, symmetries(flips=False, rotations=False), 2, 2**30
    )
    return clips.over_time(alone, task.clips)


def predicted(task, apply, movie: movies.Movie, settings, chosen=None) -> dict[int, np.ndarray]:
    """Raw output of the frames of some of a movie's pieces."""
    pieces = clips.in_blocks(movie, task.clips)
    found = segment.segment_movie(
        pieces.read,
        pieces.frames if chosen is None else chosen,
        apply,
        lambda piece, prediction: {frame: one.copy() for frame, one in pieces.split(piece, prediction)},
        settings=settings,
        measure=pieces.measure,
    )
    return {frame: one for _, frames in found for frame, one in frames.items()}


def evaluated(task, apply, path: Path) -> dict[int, np.ndarray]:
    """Raw output of the same frames as the task predicts them to judge itself."""
    (sequence,) = store.open_store(path)
    frames = list(range(sequence.shape[0]))
    yielded = task._predictions(sequence, frames, apply, 1.0, lambda: False)
    return {t: output() for t, output in yielded}


def open_movie(path: Path) -> movies.Movie:
    """The images of the store."""
    return movies.in_model_axes(movies.open_movie(path.parent / "ctc" / "01"), 2, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clips_block": 4, "clips_after": 2, "model_direction": "both"},
        {"data_whole_frames": True},
    ],
)
def test_a_movie_is_predicted_as_the_task_predicts_it(stored, changes):
    task, apply = network(**changes)
    assert isinstance(task, tasks.ClipSegmentationTask)
    truth = evaluated(task, apply, stored)
    found = predicted(task, apply, open_movie(stored), settings_for(task, (96, 96)))
    assert list(found) == sorted(truth) == list(range(10))
    for frame, output in found.items():
        assert np.ptp(output) > 1e-3  # the network says something
        np.testing.assert_allclose(output, truth[frame], rtol=0, atol=1e-5)


def test_tiles_and_batches_change_nothing(stored):
    task, apply = network()
    tile = tiles.fit_tile((96, 96), 60 * 60, task.halo, task.stride)
    settings = settings_for(task, tile, batch=2)
    assert settings.tile[0] == 4
    tiling = tiles.make_tiling((4, 96, 96), settings.tile, settings.halo, settings.stride)
    assert len(tiling.positions()) > 1
    assert {position[0] for position in tiling.positions()} == {0}
    found = predicted(task, apply, open_movie(stored), settings)
    for frame, output in evaluated(task, apply, stored).items():
        assert np.ptp(output) > 0.1
        # Through the states of earlier frames an output sees a little beyond the halo.
        np.testing.assert_allclose(found[frame], output, rtol=0, atol=3e-4)


def test_blocks_give_the_same_whichever_are_predicted(stored):
    task, apply = network()
    movie = open_movie(stored)
    pieces = list(clips.in_blocks(movie, task.clips).frames)
    assert pieces == [0, 3, 6, 9]
    settings = settings_for(task, (96, 96))
    every = predicted(task, apply, movie, settings)
    shared = {}
    for process in range(2):
        shared |= predicted(task, apply, movie, settings, pieces[process::2])
    assert sorted(shared) == list(every)
    for frame, output in every.items():
        np.testing.assert_array_equal(shared[frame], output)


@pytest.mark.parametrize("count", [1, 2])
def test_a_movie_shorter_than_a_block(tmp_path, count):
    task, apply = network()
    rng = np.random.default_rng(0)
    images = {7 + 2 * t: rng.integers(0, 999, (96, 96)).astype(np.uint16) for t in range(count)}
    write_masks(tmp_path, "t", images)
    movie = movies.in_model_axes(movies.open_movie(tmp_path), 2, 1)
    found = predicted(task, apply, movie, settings_for(task, (96, 96)))
    assert list(found) == list(images)  # neighbours by order: 7 and 9
    assert {output.shape for output in found.values()} == {(96, 96, task.representation.channels)}


def test_a_block_is_as_new_as_the_newest_of_its_images():
    movie = movies.Movie(
        Path("m"),
        [2, 3, 4, 6, 7],
        lambda frame: np.full((1, 2, 2), frame, np.float32),
        (1, 1, 2, 2),
        np.ones(3),
        False,
        lambda frame: 100 * frame,
        3,
    )
    pieces = clips.in_blocks(movie, Clips(block=2, before=1, after=0))
    assert pieces.frames == {2: [2, 3], 4: [4, 6], 7: [7]}
    assert [pieces.changed_ns(piece) for piece in pieces.frames] == [300, 600, 700]
    prediction = np.array([[5.0], [6.0], [7.0]])
    assert [(frame, float(one[0])) for frame, one in pieces.split(7, prediction)] == [(7, 7.0)]
    assert pieces.read(2).shape == (1, 3, 2, 2)
