"""The device mesh: which devices there are and what each axis of it splits."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from celltrack_jax.errors import InputError

DATA = "data"
"""Samples: each device along it holds its own part of the global batch; gradients are summed over it."""
SPACE = "space"
"""One large volume: its leading spatial axis is split along it, and XLA exchanges the halos."""


def make_mesh(space: int, batch_size: int, devices: Sequence[Any]) -> Mesh:
    """Arranges devices as (data, space).

    The axes are Auto: with Explicit ones, jax's default, flat gathers and segment sums raise sharding errors.

    Args:
      space: devices that share one sample.
      batch_size: samples of a global batch, which the data axis has to divide.
      devices: those of all processes.

    Returns:
      A mesh with the axes `data` and `space`.

    Raises:
      InputError: the devices or the batch do not divide.
    """
    if len(devices) % space:
        raise InputError(
            f"{len(devices)} devices do not divide into groups of space={space}: choose a divisor"
        )
    data = len(devices) // space
    if batch_size % data:
        raise InputError(
            f"a batch of {batch_size} does not divide over {data} devices: "
            f"set --config.data.batch_size to a multiple of {data}"
        )
    return jax.make_mesh((data, space), (DATA, SPACE), axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shardings(mesh: Mesh, spec: dict[str, jax.ShapeDtypeStruct]) -> dict[str, NamedSharding]:
    """Shards each array of a batch over `data`, and the first spatial axis of images and labels over `space`.

    Args:
      mesh: from `make_mesh`.
      spec: the global batch's arrays; "image" is (B, *S, C) and "labels" (B, *S).

    Returns:
      A sharding per key.
    """
    spatial = PartitionSpec(DATA, SPACE) if mesh.shape[SPACE] > 1 else PartitionSpec(DATA)
    return {
        key: NamedSharding(mesh, spatial if key in ("image", "labels") else PartitionSpec(DATA))
        for key in spec
    }


def global_batch(local: dict[str, Any], shardings: dict[str, NamedSharding]) -> dict[str, jax.Array]:
    """Puts this process's part of a batch on its devices as part of the global arrays."""
    return {key: jax.make_array_from_process_local_data(shardings[key], local[key]) for key in shardings}
