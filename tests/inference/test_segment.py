"""Segmenting a movie by tiles, threads and batches is segmenting it frame by frame."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from celltrack_jax.data import normalise
from celltrack_jax.errors import InputError
from celltrack_jax.inference import segment
from celltrack_jax.inference.segment import Settings, segment_movie
from celltrack_jax.inference.tiles import make_tiling
from celltrack_jax.ops.symmetry import averaged, symmetries
from tests.inference.toys import Toy, whole

SPACING = np.array([2.0, 1.0, 1.0])


def movie(frames: int, size: tuple[int, ...], dtype: str = "uint16") -> list[np.ndarray]:
    """Smooth random frames (1, *S)."""
    rng = np.random.default_rng(0)
    return [(rng.random((1, *size)) * 200).astype(dtype) for _ in range(frames)]


def settings_for(toy: Toy, **changes) -> Settings:
    """Small tiles, two threads."""
    settings = Settings(
        tile=(24,) * toy.ndim,
        halo=toy.halo,
        stride=toy.stride,
        batch=2,
        symmetries=symmetries(flips=False, rotations=False),
        threads=2,
        memory_bytes=2**30,
    )
    return settings._replace(**changes)


def run(toy: Any, images: list[np.ndarray], apply=None, **changes) -> list[tuple[int, np.ndarray]]:
    """Segments frames 0, 1, ..."""
    given = {name: changes.pop(name) for name in ("kept", "decode", "stop") if name in changes}
    decode = given.pop("decode", decoder(toy))
    settings = settings_for(toy, **changes)
    frames = range(len(images))
    return list(segment_movie(images.__getitem__, frames, apply or toy, decode, settings=settings, **given))


def decoder(toy: Toy) -> Callable[[int, np.ndarray], np.ndarray]:
    """Reads labels."""
    return lambda frame, prediction: toy.decode(prediction, SPACING[-toy.ndim :])


def expected(toy: Toy, image: np.ndarray, network=None) -> np.ndarray:
    """Labels of one frame, without tiles."""
    scaled = np.moveaxis(normalise.normalise(image, normalise.percentiles(image)), 0, -1)
    return toy.decode(whole(network or toy, scaled, toy.stride), SPACING[-toy.ndim :])


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        ((61, 40), {}),
        ((61, 40), {"batch": 5}),  # batches over the borders of frames
        ((61, 40), {"tile": (200, 200)}),
        ((7, 5), {}),  # smaller than a tile
        ((61, 40), {"threads": 1}),
        ((61, 40), {"memory_bytes": 0}),  # predictions in files
        ((9, 31, 26), {}),
        ((3, 5, 4), {"batch": 3}),
    ],
)
def test_tiles_batches_and_threads_change_nothing(size, changes):
    toy, images = Toy(len(size)), movie(3, size)
    result = run(toy, images, **changes)
    assert [frame for frame, _ in result] == [0, 1, 2]
    for frame, labels in result:
        assert labels.max() > 0
        np.testing.assert_array_equal(labels, expected(toy, images[frame]))


def test_all_batches_have_one_shape():
    toy = Toy(2)
    run(toy, movie(3, (61, 40)), batch=5)
    assert len(set(toy.calls)) == 1


def test_predictions_are_averaged_over_symmetries():
    toy, images = Toy(2), movie(1, (40, 40))
    chosen = symmetries(flips=True, rotations=True)
    ((_, labels),) = run(toy, images, symmetries=chosen)
    np.testing.assert_array_equal(labels, expected(toy, images[0], averaged(toy, chosen)))
    assert not np.array_equal(labels, expected(toy, images[0]))


def test_channels_are_kept_apart():
    first, second = movie(2, (30, 30))
    image = np.concatenate([first, second])
    ((_, labels),) = run(Toy(2), [image])
    np.testing.assert_array_equal(labels, expected(Toy(2), image))


class Result:
    """A result on a device: it is only there when somebody waits for it."""

    def __init__(self, log: list[tuple[str, int]], number: int, value: np.ndarray):
        self.log, self.number, self.value = log, number, value
        self.shape = value.shape

    def __array__(self, dtype=None, copy=None):
        del dtype, copy
        self.log.append(("read", self.number))
        return self.value


def test_the_next_batch_is_under_way_when_a_result_is_read():
    toy, log, numbers = Toy(2), [], itertools.count()

    def apply(batch):
        number = next(numbers)
        log.append(("start", number))
        return Result(log, number, toy(batch))

    run(toy, movie(3, (61, 40)), apply)
    last = next(numbers) - 1
    assert last > 5
    for number in range(last):
        assert log.index(("start", number + 1)) < log.index(("read", number))


def test_few_frames_are_in_memory_however_long_the_movie_is():
    toy, lock = Toy(2), threading.Lock()
    counts = {"read": 0, "done": 0, "most": 0}

    def read(frame: int) -> np.ndarray:
        with lock:
            counts["read"] += 1
            counts["most"] = max(counts["most"], counts["read"] - counts["done"])
        return movie(1, (30, 20))[0]

    settings = settings_for(toy)
    for frame, _ in segment_movie(read, range(60), toy, decoder(toy), settings=settings):
        with lock:
            counts["done"] = frame + 1
    # Two threads that read, two that decode, three batches of two tiles, and what is being cut and put together.
    assert counts["most"] <= 16


def test_frames_are_not_read_after_the_caller_stops():
    toy, read = Toy(2), []

    def read_frame(frame: int) -> np.ndarray:
        read.append(frame)
        return movie(1, (30, 20))[0]

    labelled = segment_movie(read_frame, range(1000), toy, decoder(toy), settings=settings_for(toy))
    next(labelled)
    labelled.close()
    count = len(read)
    assert count < 30
    assert len(read) == count


def test_frames_of_different_shapes_are_refused():
    images = [*movie(2, (30, 20)), *movie(1, (30, 21))]
    with pytest.raises(InputError, match=r"frame 2 has shape \(1, 30, 21\), frame 0 has \(1, 30, 20\)"):
        run(Toy(2), images)


def test_values_that_are_not_finite_are_refused():
    images = movie(2, (30, 20), "float32")
    images[1][0, 3, 3] = np.nan
    with pytest.raises(InputError, match="frame 1: the image holds NaN"):
        run(Toy(2), images)


def test_a_full_disk_is_explained(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segment.os, "posix_fallocate", full)
    with pytest.raises(InputError, match="no room for the prediction of a frame"):
        run(Toy(2), movie(1, (30, 20)), memory_bytes=0)


def test_a_tile_too_large_for_the_device_is_explained():
    import jax

    def apply(batch):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    with pytest.raises(
        InputError, match=r"tiles \(2, 24, 20\) does not fit .* --batch, .* unless .*norm is batch"
    ):
        run(Toy(2), movie(1, (30, 20)), apply)


def test_a_movie_without_frames_yields_nothing():
    assert run(Toy(2), []) == []


class Kept(dict):
    """Tiles in memory."""

    def read(self, frame: int, position: tuple[int, ...], tile: tuple[int, ...]) -> np.ndarray | None:
        found = self.get((frame, position))
        assert found is None or found.shape[:-1] == tile
        return found

    def keep(self, frame: int, position: tuple[int, ...], prediction: np.ndarray) -> None:
        self[frame, position] = prediction.copy()


class Exact(Toy):
    """Remembers the predictions that were decoded."""

    def __init__(self, ndim: int):
        super().__init__(ndim)
        self.decoded: list[np.ndarray] = []

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        self.decoded.append(prediction)
        return super().decode(prediction, spacing)


@pytest.mark.parametrize("lost", ["none", "all", "every third", "the second half"])
def test_kept_tiles_are_not_predicted_again_and_change_no_bit(lost):
    images = movie(3, (61, 40))
    kept, first, again = Kept(), Exact(2), Exact(2)
    run(first, images, batch=2, kept=kept, threads=1)
    tiles = len(kept)
    gone = {"none": [], "all": list(kept), "every third": list(kept)[::3]}.get(lost, list(kept)[tiles // 2 :])
    for key in gone:
        del kept[key]
    run(again, images, batch=2, kept=kept, threads=1)
    assert len(kept) == tiles
    # Batches are not filled across kept tiles that wait for them.
    assert len(gone) / 2 <= len(again.calls) <= len(gone)
    np.testing.assert_array_equal(again.decoded, first.decoded)


@pytest.mark.parametrize("asked_at", [0, 1, 20, 37])
def test_a_run_that_is_told_to_stop_finishes_the_frames_that_are_predicted(asked_at):
    toy, images, asked = Toy(2), movie(5, (61, 40)), itertools.count()
    kept, written = Kept(), []

    def decode(frame: int, prediction: np.ndarray) -> np.ndarray:
        written.append(frame)
        return decoder(toy)(frame, prediction)

    found = run(
        toy,
        images,
        batch=1,
        kept=kept,
        stop=lambda: next(asked) >= asked_at,
        decode=decode,
    )
    assert len(kept) == len(toy.calls) == asked_at
    per_frame = len(tiles_of(images[0].shape[1:], toy))
    assert [frame for frame, _ in found] == sorted(written) == list(range(asked_at // per_frame))
    for frame, labels in found:
        np.testing.assert_array_equal(labels, expected(toy, images[frame]))


def tiles_of(size: tuple[int, ...], toy: Toy) -> list[tuple[int, ...]]:
    """Lists the tiles of a frame."""
    settings = settings_for(toy)
    return make_tiling(size, settings.tile, settings.halo, settings.stride).positions()
