"""Whole movies through launch.predict's pipeline, against the bare network on the same tiles.

`python -m launch.bench inference`. Ours reads a movie from OME-Zarr, cuts, normalises, predicts, blends, decodes
and writes masks, links, relabels and writes the result. The peer is the jitted network alone, its tiles already
on the device. Memory is the peak of a process of its own, for a movie and for one of eight times its length.
"""

import functools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from launch.benches import timing

REPEATS = 3
CELLS_PER_MEGAPIXEL = 100
LENGTHS = (16, 128)
"""Frames of the movies whose memory is measured, 1024 x 1024 pixels of 16 bits each."""


def run(against: str | None) -> list[dict[str, Any]]:
    """Times the pipeline and measures its memory.

    Args:
      against: "forward" or None, which is the same.

    Returns:
      A row with times, million voxels per second of both and the share of the network's speed that the
      pipeline reaches; and a row with the peak memory of two movies in MB, and the time of the longer one.

    Raises:
      InputError: an unknown peer.
    """
    if against not in (None, "forward"):
        raise InputError(
            f"bench inference: no peer {against!r}; its peer is the network alone, --against=forward"
        )
    with tempfile.TemporaryDirectory() as folder:
        return [_speed(Path(folder)), _memory(Path(folder))]


def _speed(folder: Path) -> dict[str, Any]:
    import jax

    from celltrack_jax.inference import movies, segment

    cpu = jax.default_backend() == "cpu"
    frames, size, tile = (6, 768, 512) if cpu else (64, 2048, 1024)
    _write_movie(folder / "speed.zarr", frames, size)
    movie = movies.in_model_axes(movies.open_movie(folder / "speed.zarr"), 2, 1)
    task, network = _network(use_model=True)
    settings = _settings(task, tile, size)
    loaded = (segment.load(movie.read, frame) for frame in movie.frames)
    tiles = [jax.device_put(batch.image) for batch in segment.batches(loaded, settings)]

    def forward() -> None:
        jax.block_until_ready([network(tile) for tile in tiles])

    times = timing.interleaved(
        lambda: _predict(movie, task, network, settings, folder / "01_RES"), forward, REPEATS
    )
    row = times.row(f"inference, {frames} frames of {size}x{size} in {len(tiles)} tiles")
    megavoxels = frames * size**2 / 1e6
    return row | {
        "megavoxels_per_s": megavoxels / row["ours_s"],
        "megavoxels_per_s_forward": megavoxels / row["peer_s"],
        "share_of_forward": row["peer_s"] / row["ours_s"],
    }


def _memory(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": "inference, peak memory"}
    for frames in LENGTHS:
        path = folder / f"memory{frames}.zarr"
        _write_movie(path, frames, 1024)
        command = [sys.executable, "-m", "launch.benches.inference", str(path), str(folder / "02_RES")]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row["ours_s"] = time.perf_counter() - start
        row[f"peak_mb_{frames}_frames"] = int(done.stdout) / 1024
    return row


def _measure_memory(path: Path, output: Path) -> int:
    """Predicts a movie with a network that costs nothing; returns this process's peak memory in KiB."""
    from celltrack_jax.inference import movies

    movie = movies.in_model_axes(movies.open_movie(path), 2, 1)
    task, network = _network(use_model=False)
    _predict(movie, task, network, _settings(task, 512, movie.shape[-1]), output)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _predict(movie: Any, task: Any, network: Callable, settings: Any, output: Path) -> None:
    from celltrack_jax.inference import segment, track
    from celltrack_jax.inference.mask_folder import MaskFolder
    from celltrack_jax.tracking import links

    masks = MaskFolder(output.with_name("masks"), {})

    def decode(frame: int, prediction: np.ndarray) -> None:
        masks.write(frame, task.representation.decode(prediction, np.ones(2)))

    for _ in segment.segment_movie(movie.read, movie.frames, network, decode, settings=settings):
        pass
    found = track.Masks(movie.frames, masks.read, np.ones(3), False, 3)
    drawing = track.Drawing(fill_gaps=True, min_length=1)
    linker = track.by_assignment(functools.partial(links.hungarian, **links.HUNGARIAN))
    track.track_movie(found, linker, drawing, output, movie.path, lambda what, frames: frames)


def _network(use_model: bool) -> tuple[Any, Callable]:
    """The task and network of `configs/ctc/segment.py:sim`, untrained.

    Its output is replaced by blurred intensities, so that there are cells to decode as after training.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    from celltrack_jax import tasks
    from celltrack_jax.models.functional import FunctionalModel
    from configs.ctc import segment as experiment

    task: Any = tasks.build(experiment.get_config("sim"))
    model = FunctionalModel(task.model)
    variables = jax.jit(model.init)(jax.random.key(0))
    forward = task.predictor(model, variables)

    @jax.jit
    def blurred(image: jax.Array) -> jax.Array:
        window = (1, 9, 9, 1)
        smooth = lax.reduce_window(image[..., :1], 0.0, lax.add, window, (1, 1, 1, 1), "SAME") / 81
        return jnp.concatenate([20 * (smooth - 0.3), jnp.clip(smooth, 0, 1)], -1)

    def network(image: Any) -> jax.Array:
        cells = blurred(image)
        return cells + 1e-9 * forward(image) if use_model else cells

    return task, network


def _settings(task: Any, tile: int, size: int) -> Any:
    from celltrack_jax.inference.segment import Settings
    from celltrack_jax.inference.tiles import fit_tile
    from celltrack_jax.io import threads
    from celltrack_jax.ops.symmetry import symmetries

    return Settings(
        tile=fit_tile((size, size), tile**2, task.halo, task.stride),
        halo=task.halo,
        stride=task.stride,
        batch=1,
        symmetries=symmetries(flips=False, rotations=False),
        threads=min(threads.MOST_THREADS, threads.cores()),
        memory_bytes=2**31,
    )


def _write_movie(path: Path, frames: int, size: int) -> None:
    """Writes an OME-Zarr movie of a few synthetic frames in turns."""
    import tensorstore as ts

    from celltrack_jax.data import synthetic
    from celltrack_jax.io import ome_zarr

    cells = CELLS_PER_MEGAPIXEL * size**2 // 2**20
    images = synthetic.make_movie(
        synthetic.SyntheticSpec(frames=4, shape=(size, size), cells=cells), 0
    ).images
    shape = (frames, 1, 1, size, size)
    array = ome_zarr.create_array(path / "0", shape, images.dtype, ts.Context())
    rows = ome_zarr.shard_shape(shape)[0]
    for start in range(0, frames, rows):
        stop = min(start + rows, frames)
        array[start:stop].write(images[np.arange(start, stop) % len(images)][:, None, None]).result()
    ome_zarr.write_group(path, {"ome": ome_zarr.image_attributes("bench", None)})


if __name__ == "__main__":
    print(_measure_memory(Path(sys.argv[1]), Path(sys.argv[2])))
