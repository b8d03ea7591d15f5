"""One training step of UNet3D, ours against pytorch-3dunet's: `python -m launch.bench unet3d --against=pytorch3dunet`.

Both are the published network (32-64-128-256, each 3x3x3 convolution behind its GroupNorm and before its ReLU, nearest-
neighbour up-sampling), with the loss, optimizer, precisions and memory layouts of `launch.benches.unet`.
"""

import importlib
from typing import Any

from celltrack_jax.errors import InputError
from launch.benches import timing, unet

SIZES = ((1, 32, 64, 64), (1, 48, 128, 128))
"""(B, Z, Y, X) of the batches: a patch, and the crop of the kinetochore volumes."""
WIDTHS = (32, 64, 128, 256)
GROUPS = 8
REPEATS = 5


def run(against: str | None) -> list[dict[str, Any]]:
    """Times a step of each size, in turns with the peer's.

    Args:
      against: "pytorch3dunet", or None for ours alone.

    Returns:
      a row per size, as `timing` makes them.

    Raises:
      InputError: the peer is not known or not installed.
    """
    if against not in (None, "pytorch3dunet"):
        raise InputError(f"bench unet3d: no peer {against!r}; give --against=pytorch3dunet or leave it out")
    rows = []
    for size in SIZES:
        name = f"UNet3D step, {'x'.join(map(str, size))}"
        peer = None if against is None else unet.torch_step_of(peer_network(WIDTHS), size)
        ours = unet.jax_step_of(settings(WIDTHS), size)
        rows.append(
            timing.alone_row(name, timing.alone(ours, REPEATS))
            if peer is None
            else timing.interleaved(ours, peer, REPEATS, warmup=2).row(name)
        )
    return rows


def settings(widths: tuple[int, ...]) -> dict[str, Any]:
    """Returns the settings of `models/unet` with which it is UNet3D."""
    levels = len(widths)
    return dict(
        widths=widths,
        kernels=((3, 3, 3),) * levels,
        pools=((2, 2, 2),) * (levels - 1),
        stem=(1, 1, 1),
        convs=2,
        narrow_first=True,
        bias=False,
        norm="group",
        groups=GROUPS,
        affine=True,
        activation="relu",
        order="nca",
        dropout=0.0,
        upsample="nearest",
        up_channels="keep",
        join="concat",
        remat=(False,) * levels,
        dtype="auto",
    )


def peer_network(widths: tuple[int, ...]) -> Any:
    """Returns pytorch-3dunet's network of one output, without its last sigmoid.

    Raises:
      InputError: the package is not installed.
    """
    try:
        model = importlib.import_module("pytorch3dunet.unet3d.model")
    except ModuleNotFoundError:
        raise InputError(
            "bench unet3d: pytorch-3dunet, the peer, is not installed; pip install pytorch3dunet torch, or leave "
            "--against out"
        ) from None
    return model.UNet3D(1, 1, f_maps=list(widths), num_groups=GROUPS, is_segmentation=False)
