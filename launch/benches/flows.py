"""Flow targets and masks from flows against Cellpose's: `python -m launch.bench flows --against=cellpose`.

Both take a label map, or flows and logits of cells, from host memory and leave flows, or labels, there. Cellpose is the
package's third version (`pip install .[oracles]`), on a CPU: numba, cell by cell. What it runs on GPUs, and later
versions run everywhere, took 6 times as long for the flows on two quiet cores (9.3 s, numba 1.4 s, ours 0.21 s).
"""

import functools
import importlib
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from launch.benches import timing

SIDE, CELLS = 1024, 300
AXES = (14.0, 24.0)
"""Pixels, of the ellipses that are the cells: between these."""
REPEATS = 3
SETTINGS = dict(
    axes=2,
    max_cells=512,
    logarithm=False,
    flow_scale=5.0,
    flow_weight=0.5,
    cellprob_threshold=0.0,
    steps=200,
    flow_threshold=0.4,
    max_fraction=0.4,
    min_size=15,
    fill_holes=True,
)


def run(against: str | None) -> list[dict[str, Any]]:
    """Times targets, and masks from true flows.

    Args:
      against: "cellpose", or None for ours alone.

    Returns:
      Two rows as `timing` makes them; that of masks with the number of cells that each found.

    Raises:
      InputError: the peer is not known or not installed.
    """
    if against not in (None, "cellpose"):
        raise InputError(f"bench flows: no peer {against!r}; give --against=cellpose or leave it out")
    labels = cells()
    name = f"{SIDE}x{SIDE}, {labels.max()} cells"
    flow, cell = ours(labels), labels > 0
    read = functools.partial(ours_masks, flow, cell)
    targets = functools.partial(ours, labels)
    if against is None:
        rows = [
            timing.alone_row(f"flows of {name}", timing.alone(targets, REPEATS)),
            timing.alone_row(f"masks of {name}", timing.alone(read, REPEATS)),
        ]
    else:
        _dynamics()
        peer = functools.partial(theirs_masks, flow, cell)
        rows = [
            timing.interleaved(targets, functools.partial(theirs, labels), REPEATS).row(f"flows of {name}"),
            timing.interleaved(read, peer, REPEATS).row(f"masks of {name}"),
        ]
        rows[1]["cells_peer"] = int(peer().max())
    rows[1]["cells"] = int(read().max())
    return rows


def cells(seed: int = 0) -> np.ndarray:
    """Draws ellipses on a jittered grid, some of which touch: (SIDE, SIDE) int32, ids 1..CELLS."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE), np.int32)
    across = int(np.ceil(np.sqrt(CELLS)))
    pitch = SIDE / across
    y, x = np.mgrid[:SIDE, :SIDE]
    for label, place in enumerate(rng.permutation(across**2)[:CELLS], 1):
        centre = (np.array(divmod(place, across)) + 0.5 + rng.uniform(-0.12, 0.12, 2)) * pitch
        low, high = (np.clip(centre + side * AXES[1], 0, SIDE - 1).astype(int) for side in (-1, 1))
        part = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
        (a, b), turn = rng.uniform(*AXES, 2), rng.uniform(0, np.pi)
        v, u = y[part] - centre[0], x[part] - centre[1]
        v, u = v * np.cos(turn) + u * np.sin(turn), u * np.cos(turn) - v * np.sin(turn)
        labels[part][((v / a) ** 2 + (u / b) ** 2 <= 1) & (labels[part] == 0)] = label
    return labels


def ours(labels: np.ndarray) -> np.ndarray:
    """Returns unit flows (*S, 2) float32."""
    return np.asarray(_compiled()(labels, SETTINGS["max_cells"]))


def theirs(labels: np.ndarray) -> np.ndarray:
    """Returns Cellpose's unit flows (2, *S)."""
    dynamics, device = _dynamics()
    return dynamics.masks_to_flows(labels, device=device)


def ours_masks(flow: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Returns labels (*S) int32 from unit flows (*S, 2) and the cells' mask."""
    raw = np.concatenate([5 * flow, np.where(cell, 10, -10)[..., None]], -1).astype(np.float32)
    return _representation().decode(raw, np.ones(2))


def theirs_masks(flow: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Returns Cellpose's labels (*S), with the same thresholds."""
    dynamics, device = _dynamics()
    raw = np.ascontiguousarray(5 * np.moveaxis(flow, -1, 0), np.float32)
    logit = np.where(cell, 10, -10).astype(np.float32)
    found = dynamics.compute_masks(
        raw,
        logit,
        niter=SETTINGS["steps"],
        cellprob_threshold=SETTINGS["cellprob_threshold"],
        flow_threshold=SETTINGS["flow_threshold"],
        min_size=SETTINGS["min_size"],
        device=device,
    )
    return np.asarray(found[0] if isinstance(found, tuple) else found)


@functools.cache
def _compiled():
    import jax

    from celltrack_jax.ops.flows import target_flows

    return jax.jit(target_flows, static_argnums=1)


@functools.cache
def _representation():
    from celltrack_jax import representations

    return representations.build("flow", **SETTINGS)


@functools.cache
def _dynamics():
    """Cellpose's module and PyTorch's device."""
    try:
        dynamics, torch = (importlib.import_module(name) for name in ("cellpose.dynamics", "torch"))
    except ModuleNotFoundError:
        raise InputError(
            "bench flows: Cellpose, the peer, is not installed; pip install cellpose==3.1.1.2, or leave --against out"
        ) from None
    return dynamics, torch.device("cpu")
