"""What Mask R-CNN does with boxes: `python -m launch.bench boxes --against=numpy`.

Suppression of random boxes, of few that overlap and of many, and of a chain each of whose boxes overlaps with the next
alone, beside the greedy loop with numpy's rows; RoIAlign of features at stride 4 to 32, which has no peer here. Each
row tells how many programs served images with other numbers of boxes.
"""

import functools
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from launch.benches import timing

BOXES, REGIONS = 2000, 512
SIZE, CHANNELS, STRIDES = (544, 704), 256, (4, 8, 16, 32)
FINEST_PX = 112.0
REPEATS = 9


def run(against: str | None) -> list[dict[str, Any]]:
    """Times suppression and RoIAlign.

    Args:
      against: "numpy", or None for ours alone.

    Returns:
      A row each, as `timing` makes them.

    Raises:
      InputError: an unknown peer.
    """
    if against not in (None, "numpy"):
        raise InputError(f"bench boxes: no peer {against!r}; give --against=numpy or leave it out")
    import jax

    from celltrack_jax.ops import nms

    keep = jax.jit(functools.partial(nms.survivors))
    rows = []
    for name, boxes, threshold in cases():
        scores = np.linspace(1, 0, BOXES).astype(np.float32)
        ours = functools.partial(lambda *given: np.asarray(keep(*given)), boxes, scores, threshold)
        title = f"{name}: {BOXES} boxes at {threshold}"
        if against is None:
            row = timing.alone_row(title, timing.alone(ours, REPEATS))
        else:
            peer = functools.partial(greedy, boxes, threshold)
            row = timing.interleaved(ours, peer, REPEATS).row(title) | {"kept_peer": int(peer().sum())}
        keep(boxes, np.where(scores > 0.5, scores, -np.inf).astype(np.float32), threshold)
        rows.append(row | {"kept": int(ours().sum()), "programs": keep._cache_size()})
    return rows + regions()


def cases() -> list[tuple[str, np.ndarray, float]]:
    """Returns names, (BOXES, 4) float32 boxes from the best down, and thresholds."""
    start = 4.0 * np.arange(BOXES)
    chain = np.stack([0 * start, start, 0 * start + 10, start + 10], 1).astype(np.float32)
    return [
        ("spread", random_boxes(BOXES, 2000.0), 0.7),
        ("dense", random_boxes(BOXES, 200.0), 0.25),
        ("chain", chain, 0.25),
    ]


def random_boxes(count: int, side: float) -> np.ndarray:
    """(count, 4) float32 boxes of 15 to 60 px in a square of `side` px."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, side, (count, 2))
    return np.concatenate([low, low + rng.uniform(15, 60, (count, 2))], 1).astype(np.float32)


def greedy(boxes: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) bool, which boxes are kept; they come from the best down."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.ones(len(boxes), bool)
    for k in range(len(boxes)):
        if not left[k]:
            continue
        side = np.minimum(boxes[k, 2:], boxes[k + 1 :, 2:]) - np.maximum(boxes[k, :2], boxes[k + 1 :, :2])
        shared = np.maximum(side, 0).prod(1)
        left[k + 1 :] &= ~(shared > threshold * (area[k] + area[k + 1 :] - shared))
    return left


def regions() -> list[dict[str, Any]]:
    """Rows of RoIAlign, alone and with the gradient of the features."""
    import jax
    import jax.numpy as jnp

    from celltrack_jax.ops import roi_align

    rng = np.random.default_rng(0)
    pyramid = tuple(
        jnp.asarray(rng.normal(size=(SIZE[0] // s, SIZE[1] // s, CHANNELS)), jnp.float32) for s in STRIDES
    )
    boxes = random_boxes(REGIONS, min(SIZE) - 60.0)
    align = functools.partial(roi_align.roi_align, strides=STRIDES, size=7, samples=2, finest_px=FINEST_PX)
    whole = jax.jit(jax.grad(lambda pyramid, boxes: jnp.square(align(pyramid, boxes)).sum()))
    rows = []
    for name, function in (("RoIAlign", jax.jit(align)), ("RoIAlign and gradient", whole)):
        times = timing.alone(lambda f=function: jax.block_until_ready(f(pyramid, boxes)), REPEATS)
        rows.append(timing.alone_row(f"{name}: {REGIONS} boxes, 7x7, {CHANNELS} channels", times))
        function(pyramid, np.where(np.arange(REGIONS)[:, None] < 3, boxes, 0))
        rows[-1]["programs"] = function._cache_size()
    return rows
