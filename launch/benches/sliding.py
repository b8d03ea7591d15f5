"""One pass over a whole frame against the original's window that slides by 8 pixels: `launch.bench sliding`.

helalab predicts windows of 128x128 pixels, each 8 pixels on, twice, and averages; here by the same compiled network,
in batches. The network is the sweep's (`configs/hela/centroids.py:small`) with fresh weights: the factor is that of
the pixels it sees.
"""

import functools
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from launch.benches import timing

FRAME, WINDOW, STEP, BATCH = (336, 464), 128, 8, 16
REPEATS = 1


def run(against: str | None) -> dict[str, Any]:
    """Times both.

    Args:
      against: "windows", or None for the same.

    Returns:
      A row as `timing` makes them, with the windows of a frame.

    Raises:
      InputError: an unknown peer.
    """
    if against not in (None, "windows"):
        raise InputError(f"bench sliding: no peer {against!r}; give --against=windows or leave it out")
    image = np.random.default_rng(0).random(FRAME).astype(np.float32)
    forward = network()
    whole, windows = functools.partial(once, forward, image), functools.partial(slide, forward, image)
    name = f"sliding {FRAME[0]}x{FRAME[1]}, windows of {WINDOW} by {STEP}"
    return timing.interleaved(whole, windows, REPEATS).row(name) | {"windows": float(len(corners(FRAME)))}


def network():
    """Returns the compiled network, (B, Y, X, 1) -> (B, Y, X, 1)."""
    import jax

    from celltrack_jax import tasks
    from celltrack_jax.models.functional import FunctionalModel
    from configs.hela import centroids

    task = tasks.build(centroids.get_config("small"))
    assert isinstance(task, tasks.SegmentationTask)
    model = FunctionalModel(task.model)
    return task.predictor(model, jax.jit(model.init)(jax.random.key(0)))


def once(forward, image: np.ndarray) -> np.ndarray:
    """Predicts a frame whole: (Y, X), padded to the network's stride of 8 as the frame is a multiple of it."""
    return np.asarray(forward(image[None, :, :, None]))[0, :, :, 0]


def slide(forward, image: np.ndarray) -> np.ndarray:
    """Predicts windows and averages where they overlap: (Y, X)."""
    total, count = np.zeros(image.shape, np.float32), np.zeros(image.shape, np.float32)
    places = corners(image.shape)
    for start in range(0, len(places), BATCH):
        part = places[start : start + BATCH]
        batch = np.zeros((BATCH, WINDOW, WINDOW, 1), np.float32)
        for k, (y, x) in enumerate(part):
            batch[k, :, :, 0] = image[y : y + WINDOW, x : x + WINDOW]
        for (y, x), one in zip(part, np.asarray(forward(batch))[..., 0], strict=False):
            total[y : y + WINDOW, x : x + WINDOW] += one
            count[y : y + WINDOW, x : x + WINDOW] += 1
    return total / np.maximum(count, 1)


def corners(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Lists the windows' first pixels: two passes, the second one moved by the size modulo the step."""
    places = []
    for offset in ((0, 0), (shape[0] % STEP, shape[1] % STEP)):
        rows, columns = (
            range(first, size - WINDOW + 1, STEP) for first, size in zip(offset, shape, strict=True)
        )
        places += [(y, x) for y in rows for x in columns]
    return places
