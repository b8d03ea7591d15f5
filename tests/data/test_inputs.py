"""Networks that see other channels and frames than the one they are asked about."""

from pathlib import Path

import numpy as np
import pytest

from celltrack_jax.data import normalise, point_crops
from celltrack_jax.data.inputs import Input, present, read_inputs
from celltrack_jax.errors import InputError
from celltrack_jax.inference import movies
from tests.data import point_movies

FRAMES = (1, 2, 3, 5)
CELLS = {1: ((10, 12), (1, 0), 1, 5), 2: ((20, 30), (0, 1), 1, 3)}
INPUTS = (Input(0, -1), Input(0, 0), Input(0, 1))


def test_what_a_config_does_not_say_is_all_of_the_frame():
    assert read_inputs((), 2) == (Input(0, 0), Input(1, 0))
    with pytest.raises(InputError, match=r"channel 2, but data\.channels is 2"):
        read_inputs(((2, 0),), 2)


@pytest.mark.parametrize("given", [((0,),), (0, 0), ((0.5, 0),), ((0, 1, 2),)])
def test_what_is_no_pair_is_refused(given):
    with pytest.raises(InputError, match="give pairs of a channel and a frame"):
        read_inputs(given, 2)


@pytest.mark.parametrize(
    ("t", "offset", "expected"), [(0, 1, 1), (0, -1, 0), (2, 1, 2), (3, -1, 3), (2, -2, 0)]
)
def test_a_frame_stands_for_a_neighbour_that_misses(t, offset, expected):
    assert present(FRAMES, t, offset) == expected


def batch_of(sequence, frames, around):
    """All of these frames, whole."""
    return point_crops.crops(
        [sequence],
        shape=(32, 40),
        margin=(0, 0),
        frames=[frames],
        batch_size=len(frames),
        process=(0, 1),
        foreground_probability=0.0,
        max_cells=4,
        seed=0,
        inputs=INPUTS,
        around=around,
    )[0]


def test_crops_and_predictions_see_the_same(tmp_path):
    sequence = point_movies.write(tmp_path, CELLS, FRAMES, (32, 40))
    batch = batch_of(sequence, [0, 1, 2, 3], around=(-1, 1))
    movie = movies.in_model_axes(movies.open_movie(Path(tmp_path / "store" / "01.ome.zarr")), 2, 1)
    seen = movies.with_inputs(movie, INPUTS)
    assert seen.shape[0] == seen.read(1).shape[0] == 3
    # Each frame comes once, in a random order: its own image tells which it is.
    scaled = {
        frame: normalise.normalise(movie.read(frame), sequence.percentiles[t])[0]
        for t, frame in enumerate(FRAMES)
    }
    met = set()
    for image, around in zip(batch["image"], batch["around"], strict=True):
        (t,) = [t for t, frame in enumerate(FRAMES) if np.allclose(scaled[frame], image[..., 1], atol=1e-6)]
        times = [present(FRAMES, t, one.frame) for one in INPUTS]
        expected = np.stack([scaled[FRAMES[time]] for time in times], -1)
        np.testing.assert_allclose(image, expected, atol=1e-6)
        counts = [movie.read(FRAMES[time])[0] for time in times]
        np.testing.assert_array_equal(seen.read(FRAMES[t]), counts)
        for rows, time in zip(around, (times[0], times[2]), strict=True):
            there = point_movies.places(CELLS, FRAMES[time])
            np.testing.assert_allclose(rows[: len(there)], np.array(list(there.values())), atol=1e-6)
            assert np.isnan(rows[len(there) :]).all()
        met.add(t)
    assert len(met) == len(FRAMES)


def test_a_part_of_a_movie_is_seen_with_its_neighbours(tmp_path):
    point_movies.write(tmp_path, CELLS, FRAMES, (32, 40))
    movie = movies.in_model_axes(movies.open_movie(Path(tmp_path / "store" / "01.ome.zarr")), 2, 1)
    whole = movies.with_inputs(movie, INPUTS)
    part = movies.with_inputs(movie._replace(frames=FRAMES[1:2], every=FRAMES), INPUTS)
    alone = movies.with_inputs(movie._replace(frames=FRAMES[1:2]), INPUTS)
    frame = FRAMES[1]
    np.testing.assert_array_equal(part.read(frame), whole.read(frame))
    assert not np.array_equal(alone.read(frame), whole.read(frame))


def test_points_of_frames_that_are_not_trained_on_are_no_targets(tmp_path):
    sequence = point_movies.write(tmp_path, CELLS, FRAMES, (32, 40))
    batch = batch_of(sequence, [0], around=(1,))
    assert present(FRAMES, 0, 1) == 1
    np.testing.assert_array_equal(batch["around"][:, 0], batch["points"])
