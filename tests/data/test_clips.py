"""Clips: frames that follow each other, cut at one place; whole frames at another size."""

import numpy as np
import pytest

from celltrack_jax.data import normalise
from celltrack_jax.data.pipeline import Clip
from celltrack_jax.data.unknown import dense
from celltrack_jax.errors import InputError
from celltrack_jax.ops import resize
from tests.data import datasets
from tests.data.test_pipeline import assert_equal, crops, joined, prepared, reader

FORWARD = Clip(3, 1, 0.0)


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """A movie of nine frames and one of four, larger."""
    folder = tmp_path_factory.mktemp("movies")
    dataset = datasets.write_movie(folder / "set", "01", frames=range(9))
    datasets.write_movie(dataset, "02", frames=range(4), shape=(60, 45), seed=20)
    return prepared(dataset, folder / "store")


def drawn(sequences, count: int, **changes) -> list[list]:
    found = reader(crops(sequences, **changes))
    return [found._frames(index) for index in range(count)]


def test_batches_have_a_time_axis_behind_the_samples(movies):
    batch = crops(movies, clip=FORWARD)[0]
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((4, 3, 16, 24, 1), np.float32),
        "labels": ((4, 3, 16, 24), np.int32),
        "spacing": ((4, 2), np.float32),
        "sample": ((4,), np.uint32),
    }


def test_frames_of_a_clip_follow_each_other_at_one_place(movies):
    clips = drawn(movies, 36, clip=FORWARD)
    for clip in clips:
        assert {(r.sequence, r.start) for r in clip} == {(clip[0].sequence, clip[0].start)}
        assert [r.t for r in clip] == [clip[0].t + k for k in range(3)]
        assert clip[-1].t < movies[clip[0].sequence].shape[0]
    # 7 clips of the first movie and 2 of the second: four runs of 9, each clip once in each.
    starts = [(clip[0].sequence, clip[0].t) for clip in clips]
    every = [(0, t) for t in range(7)] + [(1, 0), (1, 1)]
    assert all(sorted(starts[i : i + 9]) == every for i in range(0, 36, 9))


def test_images_and_labels_are_the_same_crop_of_each_frame(movies):
    clip = Clip(3, 2, 0.5)
    batch = crops(movies, clip=clip)[2]
    for i, requests in enumerate(drawn(movies, 12, clip=clip)[8:]):
        for k, request in enumerate(requests):
            sequence = movies[request.sequence]
            _, y, x = request.start
            frame = sequence.image[request.t, :, 0].read().result()
            expected = normalise.normalise(frame, normalise.percentiles(frame))[0, y : y + 16, x : x + 24]
            np.testing.assert_allclose(batch["image"][i, k, ..., 0], expected, rtol=1e-6, atol=1e-6)
            truth = sequence.labels["segmentation"][request.t, 0, 0].read().result()
            expected = dense(truth[y : y + 16, x : x + 24].astype(np.int64))[0]
            np.testing.assert_array_equal(batch["labels"][i, k], expected)


def test_clips_skip_frames_where_the_movie_is_long_enough(movies):
    paces = {0: set(), 1: set()}
    for clip in drawn(movies, 300, clip=Clip(3, 3, 0.0)):
        steps = np.diff([r.t for r in clip])
        assert steps[0] == steps[1]
        assert clip[-1].t < movies[clip[0].sequence].shape[0]
        paces[clip[0].sequence].add(int(steps[0]))
    assert paces == {0: {1, 2, 3}, 1: {1}}


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (0.5, 100), (1.0, 200)])
def test_clips_are_played_backwards_as_often_as_asked(movies, probability, expected):
    clips = drawn(movies, 200, clip=Clip(2, 1, probability))
    backwards = sum(clip[1].t < clip[0].t for clip in clips)
    assert {abs(clip[1].t - clip[0].t) for clip in clips} == {1}
    # Standard deviation 7 at one half.
    assert abs(backwards - expected) <= (30 if 0 < probability < 1 else 0)


def test_clips_of_one_frame_are_the_single_frames(movies):
    single = crops(movies, clip=Clip(1, 3, 0.5))[1]
    plain = crops(movies)[1]
    assert_equal({key: v[:, 0] if key in ("image", "labels") else v for key, v in single.items()}, plain)


def test_clips_keep_to_frames_to_use_that_follow_each_other(movies, tmp_path):
    used = [[0, 1, 2, 4, 5, 6, 7], [1, 2]]
    clips = drawn(movies, 60, clip=Clip(3, 2, 0.0), frames=used)
    assert {tuple(r.t for r in clip) for clip in clips} == {(0, 1, 2), (4, 5, 6), (5, 6, 7)}
    gap = movies[0]._replace(frames=np.array([0, 1, 2, 3, 10, 11, 12, 13, 14]))
    clips = drawn([gap], 60, clip=Clip(4, 1, 0.0))
    assert {tuple(r.t for r in clip) for clip in clips} == {(0, 1, 2, 3), (4, 5, 6, 7), (5, 6, 7, 8)}


def test_crops_lie_around_a_cell_of_the_middle_frame(movies):
    clips = drawn(movies, 60, clip=Clip(3, 3, 0.5), foreground_probability=1.0, shape=(1, 1))
    assert {abs(clip[1].t - clip[0].t) for clip in clips} == {1, 2, 3}
    for clip in clips:
        rows = movies[clip[0].sequence].foreground
        points = rows[rows[:, 0] == clip[1].t, 1:4].tolist()
        assert list(clip[0].start) in points


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("whole", [False, True])
def test_the_global_batch_is_the_same_for_any_number_of_processes(movies, processes, whole):
    clip = Clip(3, 2, 0.5)
    reference = crops(movies, clip=clip, whole=whole)
    parts = [crops(movies, clip=clip, whole=whole, process=(p, processes)) for p in range(processes)]
    for step in (0, 5, 10**9):
        assert_equal(joined([part[step] for part in parts]), reference[step])


def test_movies_that_are_too_short_are_refused_with_the_cure(movies):
    with pytest.raises(
        InputError,
        match=r"clips have 10 frames, but 01 .* at most 9 .*set --config.clips.frames to 9 or less",
    ):
        crops(movies, clip=Clip(10, 1, 0.0))
    with pytest.raises(InputError, match=r"at most 2 .* to 2 or less"):
        crops(movies, clip=FORWARD, frames=[[0, 1, 3, 4, 6], [0, 2]])
    with pytest.raises(InputError, match="no frame to draw crops from"):
        crops(movies, clip=FORWARD, frames=[[], []])
    # A long one is enough.
    assert {clip[0].sequence for clip in drawn(movies, 20, clip=Clip(5, 1, 0.0))} == {0}


@pytest.mark.parametrize("size", [(20, 13), (16, 24), (80, 104)])
def test_whole_frames_are_resized(movies, size):
    """The image by areas or linearly (see `tests.ops.test_resize`), labels by the nearest, voxels get larger."""
    batch = crops(movies, clip=FORWARD, whole=True, shape=size)[0]
    assert batch["image"].shape == (4, 3, *size, 1)
    for i, requests in enumerate(drawn(movies, 4, clip=FORWARD, whole=True, shape=size)):
        sequence = movies[requests[0].sequence]
        for k, request in enumerate(requests):
            frame = sequence.image[request.t, :, 0].read().result()
            scaled = normalise.normalise(frame, normalise.percentiles(frame))
            expected = resize.resize_on_host(scaled, size)[0]
            np.testing.assert_allclose(batch["image"][i, k, ..., 0], expected, rtol=1e-6, atol=1e-6)
            truth = dense(sequence.labels["segmentation"][request.t, 0, 0].read().result().astype(np.int64))[
                0
            ]
            np.testing.assert_array_equal(batch["labels"][i, k], resize.resize_labels(truth, size))
        np.testing.assert_allclose(batch["spacing"][i], np.divide(sequence.shape[3:], size), rtol=1e-6)


def test_whole_frames_of_stacks_are_refused(tmp_path):
    shape = (5, *datasets.SHAPE)
    masks, rows = datasets.moving_cells(range(2), shape)
    images = {frame: datasets.image(shape, frame) for frame in range(2)}
    dataset = datasets.write_ctc(
        tmp_path / "set", images=images, markers=masks, segmentation=masks, rows=rows
    )
    opened = prepared(dataset, tmp_path / "store")
    with pytest.raises(InputError, match=r"stacks of 5 planes, .*: set --config.data.whole_frames=False"):
        crops(opened, whole=True)
