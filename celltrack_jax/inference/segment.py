"""A movie through a trained network: frames in, what is read from their predictions out, with a few frames in memory.

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
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from celltrack_jax.data import normalise
from celltrack_jax.errors import InputError
from celltrack_jax.inference import tiles
from celltrack_jax.io import threads
from celltrack_jax.ops import symmetry

_IN_FLIGHT = 2
"""Batches whose results wait while the devices work on the next one."""


_Decoded = TypeVar("_Decoded")


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
    vector: tuple[int, ...] = ()
    """Channels that are the components of a vector, to be turned with the image, as of `symmetry.averaged`."""


class Loaded(NamedTuple):
    """A frame as it was read."""

    frame: int
    image: np.ndarray
    """(C, *S), native dtype."""
    percentiles: np.ndarray
    """(C, 3)."""


class Place(NamedTuple):
    """Where a tile belongs."""

    frame: int
    position: tuple[int, ...]
    """One of `tiles.Tiling.positions()`."""
    kept: np.ndarray | None
    """(*T, C) its prediction, where an earlier run kept it."""


class Batch(NamedTuple):
    """Tiles of one or more frames."""

    image: np.ndarray | None
    """(B, *T, C) float32: the tiles whose prediction is not kept, in the order of their places; the rest, at the
    movie's end, is zero. None where all are kept."""
    places: list[Place]
    tiling: tiles.Tiling


class KeptTiles(Protocol):
    """Predictions of tiles that outlive this process, such as `tile_folder.TileFolder`."""

    def read(self, frame: int, position: tuple[int, ...], tile: tuple[int, ...]) -> np.ndarray | None:
        """Returns the prediction (*T, C) float32 of a tile of shape `tile`, or None."""
        ...

    def keep(self, frame: int, position: tuple[int, ...], prediction: np.ndarray) -> None:
        """Takes a prediction (*T, C); returns at once."""
        ...


def segment_movie(
    read_frame: Callable[[int], np.ndarray],
    frames: Iterable[int],
    apply: Callable[[Any], Any],
    decode: Callable[[int, np.ndarray], _Decoded],
    *,
    settings: Settings,
    measure: Callable[[np.ndarray], np.ndarray] = normalise.percentiles,
    sharding: jax.sharding.Sharding | None = None,
    scratch: Path | None = None,
    kept: KeptTiles | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[int, _Decoded]]:
    """Yields (frame, what was decoded) in the order of the frames.

    Args:
      read_frame: frame number -> (C, *S) of any real dtype; called in threads.
      frames: numbers of the frames.
      apply: (B, *T, C) normalised float32 -> (B, *T, representation.channels).
      decode: reads a frame's cells: its number, its prediction (*S, representation.channels) float32; called in threads
        as soon as the prediction is there. What is yielded comes later: when the next frames are predicted.
      settings: how to apply.
      measure: (C, *S) -> (C, 3) percentiles by which a frame is normalised; called in threads.
      sharding: of a batch over devices; None uses the default device.
      scratch: folder for predictions that do not fit into memory; None is the system's.
      kept: where predictions of tiles are found and kept, if anywhere.
      stop: asked before each tile, in a thread; once it is true only frames whose tiles are all predicted follow.

    Raises:
      InputError: frames differ in shape, hold NaN, or a tile does not fit into the devices' memory.
    """
    network = symmetry.averaged(apply, settings.symmetries, settings.vector)
    loaded = threads.mapped(lambda frame: load(read_frame, frame, measure), frames, settings.threads)
    prepared = threads.ahead(batches(loaded, settings, kept, stop), 2)
    results = _results(prepared, network, sharding)
    predictions = threads.ahead(_assembled(results, kept, settings.memory_bytes, scratch), 1)
    yield from threads.mapped(lambda one: (one[0], decode(*one)), predictions, settings.threads)


def load(
    read_frame: Callable[[int], np.ndarray],
    frame: int,
    measure: Callable[[np.ndarray], np.ndarray] = normalise.percentiles,
) -> Loaded:
    """Reads and measures a frame; the arguments are those of `segment_movie`."""
    image = read_frame(frame)
    try:
        return Loaded(frame, image, measure(image))
    except ValueError as error:
        raise InputError(f"frame {frame}: {error}; write the image again without them") from error


def batches(
    loaded: Iterable[Loaded],
    settings: Settings,
    kept: KeptTiles | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Batch]:
    """Cuts frames into tiles and fills batches, over the borders of frames.

    Args:
      loaded: frames of one shape.
      settings: how to cut them.
      kept: tiles that do not have to be predicted again.
      stop: ends the batches before the next tile.

    Raises:
      InputError: frames differ in shape.
    """
    image, used, places = None, 0, []
    tiling = None
    first, shape = -1, ()
    for frame, pixels, percentiles in loaded:
        if tiling is None:
            first, shape = frame, pixels.shape
            tiling = tiles.make_tiling(shape[1:], settings.tile, settings.halo, settings.stride)
        elif pixels.shape != shape:
            raise InputError(
                f"frame {frame} has shape {pixels.shape}, frame {first} has {shape} (channels first): "
                "all frames of a movie need the same; crop or pad them"
            )
        for position in tiling.positions():
            if stop():
                return
            known = kept.read(frame, position, tiling.tile) if kept is not None else None
            places.append(Place(frame, position, known))
            if known is None:
                if image is None:
                    image = np.zeros((settings.batch, *tiling.tile, len(pixels)), np.float32)
                tile = normalise.normalise(tiles.cut(pixels, tiling, position), percentiles)
                image[used] = np.moveaxis(tile, 0, -1)
                used += 1
            if settings.batch in (used, len(places) - used):
                yield Batch(image, places, tiling)
                image, places, used = None, [], 0
    if tiling is not None and places:
        yield Batch(image, places, tiling)


def _results(
    prepared: Iterable[Batch], network: Callable[[Any], Any], sharding: jax.sharding.Sharding | None
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Applies the network; a result is waited for only when the next batches are under way."""
    waiting: deque[tuple[Batch, Any]] = deque()
    for batch in prepared:
        output = ()
        if batch.image is not None:
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
            "--batch, which results do not depend on, share a tile between devices by --space, or choose a smaller "
            "--tile, which changes them slightly unless config.model.norm is batch or none"
        ) from error


def _assembled(
    results: Iterable[tuple[Batch, np.ndarray]],
    kept: KeptTiles | None,
    memory_bytes: int,
    scratch: Path | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Blends tiles, always in the order of their positions, into (frame, prediction (*S, C) float32)."""
    whole, missing = {}, {}
    for batch, output in results:
        computed = iter(output)
        for frame, position, known in batch.places:
            prediction = next(computed) if known is None else known
            if known is None and kept is not None:
                kept.keep(frame, position, prediction)
            if frame not in whole:
                shape = (*batch.tiling.size, prediction.shape[-1])
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
