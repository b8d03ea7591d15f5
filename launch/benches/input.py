"""Input pipeline: crops per second of the default 2D configuration, on two cores.

The movie is made for the occasion. The peer, zarr, reads the same crops from the same store, one after the other.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np

from celltrack_jax.data import pipeline, prepare, sources, store, synthetic
from celltrack_jax.errors import InputError
from configs.ctc import segment
from launch.benches import timing

CORES = 2
BATCHES = 40
MOVIE = synthetic.SyntheticSpec(frames=16, shape=(1024, 1024), cells=120)


def run(against: str | None, repeats: int = 5) -> dict[str, Any]:
    """Times reading batches through the threads that training uses.

    Args:
      against: "zarr", or None for no peer.
      repeats: timed runs.

    Returns:
      A row of `launch.bench`: crops_per_s for movies that are outlined in full, and crops_per_s_markers for movies
      with markers alone, whose surroundings have to be marked as unknown; with a peer its crops_per_s_peer.

    Raises:
      InputError: an unknown peer.
    """
    if against not in (None, "zarr"):
        raise InputError(f"the input pipeline has no peer {against!r}: use --against=zarr, or leave it out")
    data: Any = segment.get_config("sim").data
    crops = BATCHES * data.batch_size
    with _cores(CORES), tempfile.TemporaryDirectory() as folder:
        sequences = prepare_movie(Path(folder))
        outlined, marked = (make_batches(sequences, kind, data) for kind in ("full", "markers"))
        if against is None:
            seconds = timing.alone(lambda: _read(outlined, data), repeats)
            row = timing.alone_row("input", seconds)
        else:
            peer = make_batches(
                [_through_zarr(sequence, Path(folder)) for sequence in sequences], "full", data
            )
            times = timing.interleaved(lambda: _read(outlined, data), lambda: _read(peer, data), repeats)
            row = times.row("input")
            row["crops_per_s_peer"] = crops / row["peer_s"]
        row["crops_per_s"] = crops / row["ours_s"]
        seconds = timing.alone(lambda: _read(marked, data), repeats)
        row["crops_per_s_markers"] = crops / timing.alone_row("markers", seconds)["ours_s"]
    print(", ".join(f"{key} {value:.0f}" for key, value in row.items() if key.startswith("crops_per_s")))
    return row


@contextlib.contextmanager
def _cores(count: int) -> Iterator[None]:
    """Keeps this thread, and those that it starts, on so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def prepare_movie(folder: Path) -> list[store.StoredSequence]:
    """Makes a movie whose first half is outlined; the second half has markers alone."""
    movie = synthetic.make_movie(MOVIE, seed=0)
    dataset = folder / "bench"
    synthetic.write_ctc(dataset, "01", movie)
    for path in sorted((dataset / "01_GT" / "SEG").iterdir())[MOVIE.frames // 2 :]:
        path.unlink()
    found = sources.open_sources(dataset, "ctc", None)
    spacing = (1.0, *movie.spacing_um)
    prepare.prepare(
        folder / "store", found, layout="ctc", origin="bench", spacing_um=spacing, advance=lambda *_: None
    )
    return store.open_store(folder / "store")


def make_batches(sequences: list[store.StoredSequence], kind: str, data: Any) -> grain.MapDataset:
    """Returns the crops of one kind of frames, "full" or "markers", as a config's data part asks for them."""
    return pipeline.crops(
        sequences,
        shape=[size + 2 * margin for size, margin in zip(data.crop, data.margin, strict=True)],
        margin=data.margin,
        ndim=len(data.crop),
        frames=[[t for t, found in enumerate(s.annotation) if found == kind] for s in sequences],
        batch_size=data.batch_size,
        process=(0, 1),
        foreground_probability=data.foreground_probability,
        unknown_radius_um=2 * MOVIE.radius_um,
        max_cells=data.max_cells,
        silver=False,
        seed=0,
    )


def _read(batches: grain.MapDataset, data: Any) -> None:
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch)
    iterator = iter(batches.to_iter_dataset(options))
    for _ in range(BATCHES):
        next(iterator)


class _ZarrArray:
    """What the pipeline needs of a tensorstore array, from zarr: the read happens when its result is asked for."""

    def __init__(self, array: Any, part: Any = None):
        self._array, self._part = array, part

    def __getitem__(self, part: Any) -> "_ZarrArray":
        return _ZarrArray(self._array, part)

    def read(self) -> "_ZarrArray":
        return self

    def result(self) -> np.ndarray:
        return self._array[self._part]


def _through_zarr(sequence: store.StoredSequence, folder: Path) -> store.StoredSequence:
    import zarr

    group: Any = zarr.open_group(folder / "store" / f"{sequence.name}.ome.zarr", mode="r")
    labels: Any = {kind: _ZarrArray(group[f"labels/{kind}/0"]) for kind in sequence.labels}
    image: Any = _ZarrArray(group["0"])
    return sequence._replace(image=image, labels=labels)
