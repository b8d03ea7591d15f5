"""The training step of the 3D U-Net on one volume, on one device or split over eight; arguments: Z,Y,X DTYPE.

Prints, as JSON, the largest differences of loss and gradients relative to those of one device, and the memory that each
device needs. By hand, with the volume that does not fit elsewhere:

    python -m tests.training.run_space 96,256,256 float32
"""

import json
import os
import sys
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

from tests.devices import on_devices

os.environ.update(on_devices(8))

import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax import tasks
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.ops import lowering
from celltrack_jax.training import memory
from celltrack_jax.training import mesh as meshes
from configs.ctc.segment import get_config

size, dtype = tuple(int(length) for length in sys.argv[1].split(",")), sys.argv[2]
jax.config.update("jax_enable_x64", dtype == "float64")

config = get_config("demo3d")
config.data.crop, config.data.margin, config.data.batch_size = size, (0, 0, 0), 1
config.model.dtype = dtype
# Statistics of the volume as it is, without the noise of chance in their order of summation.
config.model.norm = "group"
task = tasks.build(config)
model = FunctionalModel(task.model)


def volume() -> dict[str, np.ndarray]:
    """A batch of one volume with box-shaped cells."""
    labels = np.zeros(size, np.int32)
    places = np.stack(np.meshgrid(*(range(4, n - 8, 12) for n in size), indexing="ij"), -1).reshape(-1, 3)
    for number, (z, y, x) in enumerate(places[:: max(1, len(places) // 60)][:200], 1):
        labels[z : z + 5, y : y + 7, x : x + 8] = number
    noise = np.random.default_rng(0).standard_normal((*size, 1)) * 0.2
    spec = task.batch_spec()
    image = ((labels > 0)[..., None] + noise).astype(dtype)
    batch = {"image": image, "labels": labels, "spacing": np.ones(3), "sample": np.uint32(5)}
    return {key: np.asarray(batch[key], dtype if key == "image" else spec[key].dtype)[None] for key in spec}


def loss_and_gradients(devices: int) -> tuple[float, Any, int]:
    """Returns the loss, its gradients, and the bytes that a device needs."""
    mesh = meshes.make_mesh(devices, 1, jax.devices()[:devices])
    whole = meshes.replicated(mesh)

    def value(params: Any, stats: Any, batch: dict[str, jax.Array]) -> jax.Array:
        keys = jax.vmap(lambda sample: jax.random.fold_in(jax.random.key(0), sample))(batch["sample"])
        return task.loss(
            lambda image: model.apply(Variables(params, stats), image.astype(dtype), train=True),
            batch,
            keys,
            jnp.zeros((), jnp.int32),
        )[0]

    variables = jax.jit(model.init, out_shardings=whole)(jax.random.key(0))
    variables = jax.tree.map(lambda x: x.astype(dtype), variables)
    batch = meshes.global_batch(volume(), meshes.batch_shardings(mesh, task.batch_spec()))
    with lowering.lowered_plainly():
        step = jax.jit(jax.value_and_grad(value), out_shardings=whole)
        compiled = step.lower(variables.params, variables.stats, batch).compile()
    loss, gradients = compiled(variables.params, variables.stats, batch)
    return float(loss), jax.tree.map(np.asarray, gradients), memory.needed_bytes(compiled)


(one, alone, need_one), (eight, split, need_eight) = loss_and_gradients(1), loss_and_gradients(8)
largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(alone))
difference = max(
    float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(split), strict=True)
)
report = {"loss": one, "loss_difference": abs(eight - one) / one, "gradient_difference": difference / largest}
print(json.dumps({**report, "bytes_one": need_one, "bytes_eight": need_eight}))
