"""Crops of movies whose cells are points: points lie where the image shows them, steps lead to the same cell."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.data import point_crops
from celltrack_jax.data.inputs import Input
from celltrack_jax.errors import InputError
from tests.data import point_movies

SHAPE = (44, 56)
FRAMES = (1, 2, 3, 5, 6, 7)
UNPOINTED = 7
CELLS = {
    1: ((4, 6), (1, 2), 1, 7),
    2: ((20, 40), (-2, 1), 1, 6),
    3: ((35, 20), (0, -3), 1, 2),
    7: ((10, 50), (1, -2), 3, 7),
    9: ((38, 3), (-1, 1), 2, 7),
}
FLAT: dict[str, Any] = {
    "shape": (16, 24),
    "margin": (0, 0),
    "batch_size": 4,
    "process": (0, 1),
    "foreground_probability": 0.7,
    "max_cells": 8,
    "seed": 3,
    "inputs": (Input(0, 0),),
}


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    return point_movies.write(tmp_path_factory.mktemp("flat"), CELLS, FRAMES, SHAPE, unpointed=[UNPOINTED])


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    return point_movies.write(
        tmp_path_factory.mktemp("stack"),
        CELLS,
        FRAMES,
        SHAPE,
        unpointed=[UNPOINTED],
        depth=12,
        spacing=(2.0, 1.0, 0.5),
    )


def crops(sequence, **changes) -> Any:
    frames = changes.pop("frames", [np.flatnonzero(sequence.pointed).tolist()])
    return point_crops.crops([sequence], frames=frames, **FLAT | changes)


def requests(dataset: Any, count: int) -> list[Any]:
    return [dataset._map_fn.__self__.places.request(index) for index in range(count)]


def test_batches_have_the_promised_shapes(flat):
    batch = crops(flat)[0]
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((4, 16, 24, 1), np.float32),
        "labels": ((4, 16, 24), np.int32),
        "points": ((4, 8, 2), np.float32),
        "steps": ((4, 8, 2), np.float32),
        "spacing": ((4, 2), np.float32),
        "sample": ((4,), np.uint32),
    }
    assert batch["spacing"].tolist() == [[1, 1]] * 4


def check(dataset, ndim, shape, margin, batches=6):
    """Compares crops with what the cells of the movie are: their pixels, and their places in the next frame."""
    drawn = requests(dataset, 4 * batches)
    told = moving = 0
    for number, request in enumerate(drawn):
        batch, i = dataset[number // 4], number % 4
        frame, start = FRAMES[request.t], np.array(request.start)[-ndim:]
        here = point_movies.places(CELLS, frame)
        known_next = frame + 1 in FRAMES and frame + 1 != UNPOINTED
        after = point_movies.places(CELLS, frame + 1) if known_next else {}
        rows = {}
        for label, pixel in here.items():
            place = np.array([label, *pixel])[-ndim:] - start
            if ((place > -1 - point_crops.REACH) & (place < np.array(shape) + point_crops.REACH)).all():
                step = np.array([0, *after[label] - pixel]) if label in after else np.full(3, np.nan)
                rows[label] = np.concatenate([place, step[-ndim:]])
        found = np.column_stack([batch["points"][i], batch["steps"][i]])
        np.testing.assert_array_equal(found[: len(rows)], np.array([*rows.values()]).reshape(-1, 2 * ndim))
        assert np.isnan(found[len(rows) :]).all()
        pixels = np.argwhere(
            (batch["image"][i, ..., 0] > batch["image"][i].max() / 2) & (batch["labels"][i] == 0)
        )
        inside = [
            row[:ndim].astype(int).tolist()
            for row in rows.values()
            if ((row[:ndim] >= 0) & (row[:ndim] < shape)).all()
            and batch["labels"][i][tuple(row[:ndim].astype(int))] == 0
        ]
        if inside:
            assert sorted(pixels.tolist()) == sorted(inside)
        told, moving = told + len(inside), moving + int(np.isfinite(found[:, -1]).sum())
    assert told > 10
    assert moving > 5
    return drawn


def test_points_lie_where_the_image_shows_them_and_steps_lead_to_the_same_cell(flat):
    check(crops(flat), 2, (16, 24), (0, 0))


def test_crops_of_stacks(stack):
    drawn = check(crops(stack, shape=(6, 16, 24), margin=(1, 0, 0)), 3, (6, 16, 24), (1, 0, 0))
    assert {request.start[0] for request in drawn} >= {-1, 7}


def test_steps_end_where_tracks_or_frame_numbers_do(flat):
    steps = point_crops.steps(flat)
    found = {
        (FRAMES[int(t)], int(label)): step.tolist()
        for t, label, step in zip(flat.points[:, 0], flat.points[:, 4], steps, strict=True)
        if np.isfinite(step).all()
    }
    assert found == {
        (frame, label): [0, *CELLS[label][1]]
        # Frame 3 has no next one, 4 is missing; of frame 7 no cell is known, and cell 3 ends with frame 2.
        for frame, labels in {1: (1, 2, 3), 2: (1, 2, 9), 5: (1, 2, 7, 9)}.items()
        for label in labels
    }
    assert np.isnan(steps).sum() == 3 * (len(steps) - len(found))


def test_beyond_the_frame_nothing_is_known_and_cells_are_told_of(flat):
    dataset = crops(flat, margin=(6, 8), foreground_probability=0.0)
    drawn = check(dataset, 2, (16, 24), (6, 8))
    starts = np.array([request.start[1:] for request in requests(dataset, 400)])
    assert starts.min(0).tolist() == [-6, -8]
    assert starts.max(0).tolist() == [SHAPE[0] + 6 - 16, SHAPE[1] + 8 - 24]
    known = np.pad(np.zeros(SHAPE, np.int32), [(6, 6), (8, 8)], constant_values=-1)
    for number, request in enumerate(drawn):
        y, x = request.start[1] + 6, request.start[2] + 8
        np.testing.assert_array_equal(
            dataset[number // 4]["labels"][number % 4], known[y : y + 16, x : x + 24]
        )


def test_foreground_crops_hold_a_cell(flat):
    points = np.concatenate([crops(flat, foreground_probability=1.0)[step]["points"] for step in range(5)])
    assert ((points >= 0) & (points < (16, 24))).all(-1).any(-1).all()


@settings(deadline=None, max_examples=20)
@given(step=st.integers(0, 2**36), processes=st.sampled_from([1, 2, 4]))
def test_the_global_batch_is_the_same_for_any_number_of_processes(flat, step, processes):
    whole = crops(flat)[step]
    parts = [crops(flat, process=(p, processes))[step] for p in range(processes)]
    for key, values in whole.items():
        joined = np.stack([part[key] for part in parts], axis=1).reshape(values.shape)
        np.testing.assert_array_equal(joined, values)


class Watched:
    """Stands in for the pixels of a movie and notes which frames are read."""

    def __init__(self, image):
        self.image, self.read = image, set()

    def __getitem__(self, index):
        self.read.add(index[0])
        return self.image[index]


def test_frames_that_are_not_to_be_used_are_never_read(flat):
    watched = Watched(flat.image)
    dataset = crops(flat._replace(image=watched), frames=[[0, 2, 4]])
    for step in range(6):
        dataset[step]
    assert watched.read == {0, 2, 4}


def test_too_many_cells_name_sequence_frame_and_cure(flat):
    dataset = crops(flat, frames=[[4]], shape=SHAPE, max_cells=3)
    with pytest.raises(
        InputError, match=r"sequence 01, frame 6: .* 4 cells.*max_cells = 3.*set data.max_cells to 8"
    ):
        dataset[0]
    assert np.isfinite(crops(flat, frames=[[4]], shape=SHAPE, max_cells=4)[0]["points"]).all()


def test_no_frames_uneven_batches_and_stacks_of_a_flat_movie_are_refused(flat):
    with pytest.raises(InputError, match="no frame to draw crops from"):
        crops(flat, frames=[[]])
    with pytest.raises(InputError, match="does not divide among 3 processes"):
        crops(flat, process=(0, 3))
    with pytest.raises(InputError, match="is a 2D movie"):
        crops(flat, shape=(4, 8, 8), margin=(0, 0, 0))
