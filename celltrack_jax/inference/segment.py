"""A movie through a trained network: frames in, label masks out, with a few frames in memory.

Four stages work at the same time: threads read frames, one cuts and normalises tiles, one feeds the devices and
puts predictions together, and threads turn predictions into labels. Queues between them are short, so memory
depends on the size of a frame and not on the length of the movie. The devices always have the next batch when the
one before is read.

Shapes: *S a frame's spatial axes, *T a tile's, B tiles in a batch, C channels.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from celltrack_jax.data import normalise
from celltrack_jax.errors import InputError
from celltrack_jax.inference import symmetry, tiles
from celltrack_jax.io import threads

_IN_FLIGHT = 2
"""Batches whose results wait while the devices work on the next one."""


class Decoder(Protocol):
    """The part of a representation that inference needs."""

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """Reads labels (*S) int32 from a prediction (*S, C) float32; called in threads."""
        ...


class Settings(NamedTuple):
    """How a network is applied."""

    tile: tuple[int, ...]
    """*T, such as from `tiles.fit_tile`. Results depend on it where the network normalises by statistics of its
    input (group, instance)."""
    halo: tuple[int, ...]
    """How far an output sees, per axis."""
    stride: tuple[int, ...]
    """The network's total pooling, per axis."""
    batch: int
    """Tiles given to the devices at a time."""
    symmetries: tuple[symmetry.Symmetry, ...]
    """Over which predictions are averaged."""
    threads: int
    """That read, and again that decode."""
    memory_bytes: int
    """A frame's prediction that is larger goes to a temporary file."""


class Loaded(NamedTuple):
    """A frame as it was read."""

    frame: int
    image: np.ndarray
    """(C, *S), native dtype."""
    percentiles: np.ndarray
    """(C, 3)."""


class Batch(NamedTuple):
    """Tiles of one or more frames."""

    image: np.ndarray
    """(B, *T, C) float32; unused places at the movie's end are zero."""
    places: list[tuple[int, tuple[int, ...]]]
    """(frame, position) of each used place."""
    tiling: tiles.Tiling


def segment_movie(
    read_frame: Callable[[int], np.ndarray],
    frames: Iterable[int],
    apply: Callable[[Any], Any],
    representation: Decoder,
    *,
    spacing: np.ndarray,
    settings: Settings,
    sharding: jax.sharding.Sharding | None = None,
    scratch: Path | None = None,
) -> Generator[tuple[int, np.ndarray]]:
    """Yields (frame, labels (*S) int32) in the order of the frames.

    Args:
      read_frame: frame number -> (C, *S) of any real dtype; called in threads.
      frames: numbers of the frames.
      apply: (B, *T, C) normalised float32 -> (B, *T, representation.channels).
      representation: decodes a frame's prediction.
      spacing: (S axes,) voxel size, in the unit of the representation's lengths.
      settings: how to apply.
      sharding: of a batch over devices; None uses the default device.
      scratch: folder for predictions that do not fit into memory; None is the system's.

    Raises:
      InputError: frames differ in shape, hold NaN, or a tile does not fit into the devices' memory.
    """
    network = symmetry.averaged(apply, settings.symmetries)
    loaded = threads.mapped(lambda frame: load(read_frame, frame), frames, settings.threads)
    prepared = threads.ahead(batches(loaded, settings), 2)
    results = _results(prepared, network, sharding)
    predictions = threads.ahead(_assembled(results, settings.memory_bytes, scratch), 1)

    def decode(prediction: tuple[int, np.ndarray]) -> tuple[int, np.ndarray]:
        return prediction[0], representation.decode(prediction[1], spacing)

    yield from threads.mapped(decode, predictions, settings.threads)


def load(read_frame: Callable[[int], np.ndarray], frame: int) -> Loaded:
    """Reads and measures a frame; the arguments are those of `segment_movie`."""
    image = read_frame(frame)
    try:
        return Loaded(frame, image, normalise.percentiles(image))
    except ValueError as error:
        raise InputError(f"frame {frame}: {error}; write the image again without them") from error


def batches(loaded: Iterable[Loaded], settings: Settings) -> Iterator[Batch]:
    """Cuts frames into tiles and fills batches, over the borders of frames.

    Raises:
      InputError: frames differ in shape.
    """
    batch, tiling = None, None
    first, shape = -1, ()
    for frame, image, percentiles in loaded:
        if tiling is None:
            first, shape = frame, image.shape
            tiling = tiles.make_tiling(shape[1:], settings.tile, settings.halo, settings.stride)
        elif image.shape != shape:
            raise InputError(
                f"frame {frame} has shape {image.shape}, frame {first} has {shape} (channels first): "
                "all frames of a movie need the same; crop or pad them"
            )
        for position in tiling.positions():
            if batch is None:
                empty = np.zeros((settings.batch, *tiling.tile, len(image)), np.float32)
                batch = Batch(empty, [], tiling)
            tile = normalise.normalise(tiles.cut(image, tiling, position), percentiles)
            batch.image[len(batch.places)] = np.moveaxis(tile, 0, -1)
            batch.places.append((frame, position))
            if len(batch.places) == settings.batch:
                yield batch
                batch = None
    if batch is not None:
        yield batch


def _results(
    prepared: Iterable[Batch], network: Callable[[Any], Any], sharding: jax.sharding.Sharding | None
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Applies the network; a result is waited for only when the next batches are under way."""
    waiting: deque[tuple[Batch, Any]] = deque()
    for batch in prepared:
        output = _explained(network, jax.device_put(batch.image, sharding))
        if isinstance(output, jax.Array):
            output.copy_to_host_async()
        waiting.append((batch, output))
        if len(waiting) > _IN_FLIGHT:
            done, output = waiting.popleft()
            yield done, _explained(np.asarray, output)
    for done, output in waiting:
        yield done, _explained(np.asarray, output)


def _explained(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(
            f"a batch of tiles {argument.shape[:-1]} does not fit into the devices' memory: choose a smaller "
            "--batch, which results do not depend on, or a smaller --tile, which changes them slightly unless "
            "config.model.norm is batch or none"
        ) from error


def _assembled(
    results: Iterable[tuple[Batch, np.ndarray]], memory_bytes: int, scratch: Path | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Blends tiles into (frame, prediction (*S, C) float32)."""
    whole, missing = {}, {}
    for batch, output in results:
        for (frame, position), prediction in zip(batch.places, output, strict=False):
            if frame not in whole:
                shape = (*batch.tiling.size, output.shape[-1])
                whole[frame] = _zeros(shape, memory_bytes, scratch)
                missing[frame] = len(batch.tiling.positions())
            tiles.add(whole[frame], prediction, batch.tiling, position)
            missing[frame] -= 1
            if missing[frame] == 0:
                del missing[frame]
                yield frame, whole.pop(frame)


def _zeros(shape: tuple[int, ...], memory_bytes: int, scratch: Path | None) -> np.ndarray:
    """Zeros in memory, or in a file without a name that vanishes with the array.

    The file is mapped: decoders take arrays, and the system writes back what memory has no room for.
    """
    size = 4 * int(np.prod(shape))
    if size <= memory_bytes:
        return np.zeros(shape, np.float32)
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            # Without its blocks a mapped file on a full disk would end the program by a signal.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise InputError(
            f"no room for the prediction of a frame ({size / 2**30:.1f} GiB) in {scratch or tempfile.gettempdir()}: "
            f"{error.strerror}; free space there or raise --memory_gb"
        ) from error
