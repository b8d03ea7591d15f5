"""The device mesh: which devices there are and what each axis of it splits."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from celltrack_jax.errors import InputError

DATA = "data"
"""Samples: each device along it holds its own part of the global batch; gradients are summed over it."""
SPACE = "space"
"""One large volume: its leading spatial axis is split along it, and XLA exchanges the halos."""
SPATIAL = ("image", "labels")
"""Arrays of a batch whose second axis is the leading spatial one."""


def make_mesh(space: int, batch_size: int, devices: Sequence[Any], accumulate: int = 1) -> Mesh:
    """Arranges devices as (data, space).

    The axes are Auto: with Explicit ones, jax's default, flat gathers and segment sums raise sharding errors.

    Args:
      space: devices that share one sample.
      batch_size: samples of a global batch, which the data axis has to divide.
      devices: those of all processes.
      accumulate: parts of a batch whose gradients are added up, one after the other.

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
    if batch_size % (data * accumulate):
        parts = f" in {accumulate} parts (train.accumulate)" if accumulate > 1 else ""
        raise InputError(
            f"a batch of {batch_size} does not divide over {data} devices{parts}: "
            f"set --config.data.batch_size to a multiple of {data * accumulate}"
        )
    return jax.make_mesh((data, space), (DATA, SPACE), axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


REPLICATED, FSDP = "replicated", "fsdp"
_WORTH_SHARDING = 2**14
"""Parameters of fewer elements stay whole under "fsdp": gathering them would cost more than it saves."""


def parameter_sharding(mesh: Mesh, spec: str | Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """Reads what a rule of `config.mesh.parameters` says of an array.

    Args:
      mesh: from `make_mesh`.
      spec: "replicated"; "fsdp", which splits the array's largest axis that divides over `data` (small arrays stay
        whole); or the mesh axis of each of the array's last axes, such as ("data", None).
      shape: of the array.

    Raises:
      InputError: the spec is none of these, or does not divide the array.
    """
    if isinstance(spec, str):
        if spec not in (REPLICATED, FSDP):
            raise InputError(
                f"config.mesh.parameters: {spec!r} is neither {REPLICATED!r}, {FSDP!r} nor axis names"
            )
        dividing = [axis for axis, size in enumerate(shape) if size % mesh.shape[DATA] == 0]
        if spec == REPLICATED or math.prod(shape) < _WORTH_SHARDING or not dividing:
            return replicated(mesh)
        largest = max(dividing, key=lambda axis: shape[axis])
        return NamedSharding(
            mesh, PartitionSpec(*(DATA if axis == largest else None for axis in range(len(shape))))
        )
    names = [None] * (len(shape) - len(spec)) + list(spec)
    for name, size in zip(names, shape, strict=False):
        if name is not None and (name not in mesh.shape or size % mesh.shape[name]):
            raise InputError(
                f"config.mesh.parameters: an array of shape {tuple(shape)} does not divide as {tuple(spec)} over "
                f"{dict(mesh.shape)}: choose another rule for it"
            )
    return NamedSharding(mesh, PartitionSpec(*names[: len(shape)]))


def batch_shardings(mesh: Mesh, spec: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, NamedSharding]:
    """Shards each array of a batch over `data`, and the first spatial axis of images and labels over `space`.

    Args:
      mesh: from `make_mesh`.
      spec: the global batch's arrays; "image" is (B, *S, C) and "labels" (B, *S).

    Returns:
      A sharding per key.

    Raises:
      InputError: a spatial axis does not divide.
    """
    space = mesh.shape[SPACE]
    for key in SPATIAL:
        if key in spec and spec[key].shape[1] % space:
            raise InputError(
                f"the first spatial axis of {key}, {spec[key].shape[1]}, does not divide over mesh.space={space}: "
                f"make data.crop (with its margin) a multiple of {space} there"
            )
    spatial = PartitionSpec(DATA, SPACE) if space > 1 else PartitionSpec(DATA)
    return {key: NamedSharding(mesh, spatial if key in SPATIAL else PartitionSpec(DATA)) for key in spec}


def data_share(mesh: Mesh) -> tuple[int, int]:
    """Returns which part of the global batch this process reads: (index, number of parts).

    Processes whose devices lie in one row along `space` read the same samples, each to use its own part of them.

    Raises:
      InputError: processes hold parts of each other's rows, so that no equal parts exist.
    """
    groups = sorted({tuple(_rows(mesh, device.process_index)) for device in mesh.devices.flat})
    if sum(map(len, groups)) != len(mesh.devices) or len(set(map(len, groups))) != 1:
        raise InputError(
            f"mesh.space={mesh.shape[SPACE]} cuts the {len(mesh.local_devices)} devices of a process into uneven "
            "groups: choose a divisor or a multiple of that number"
        )
    return groups.index(tuple(_rows(mesh, jax.process_index()))), len(groups)


def global_batch(
    local: Mapping[str, np.ndarray], shardings: Mapping[str, NamedSharding]
) -> dict[str, jax.Array]:
    """Puts this process's samples on its devices as part of the global arrays.

    Args:
      local: the samples of `data_share`, whole in space.
      shardings: of `batch_shardings`.
    """
    return {key: _spread(local[key], sharding) for key, sharding in shardings.items()}


def _spread(local: np.ndarray, sharding: NamedSharding) -> jax.Array:
    mesh: Any = sharding.mesh
    rows = _rows(mesh, jax.process_index())
    samples = len(local) // len(rows)
    place = {row * samples: here * samples for here, row in enumerate(rows)}
    shape = (samples * len(mesh.devices), *local.shape[1:])

    def part(index: Any) -> np.ndarray:
        begin = place[index[0].start or 0]
        return local[(slice(begin, begin + samples), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, part)


def _rows(mesh: Any, process: int) -> list[int]:
    """Rows along `data` in which a process has devices."""
    return [
        row for row, devices in enumerate(mesh.devices) if any(d.process_index == process for d in devices)
    ]
