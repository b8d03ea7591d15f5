"""Prints what a training step of a small embedder gives, on one device and with its batch split over all of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from celltrack_jax import models
from celltrack_jax.models.functional import FunctionalModel


def run(devices: int) -> dict[str, list[float]]:
    """Returns loss, running statistics and gradients, summed up per leaf."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    model = FunctionalModel(lambda rngs: models.build("embedder", rngs, widths=(3, 4, 4, 5), outputs=6))
    whole, split = (NamedSharding(mesh, PartitionSpec(*names)) for names in ((), ("data",)))
    variables = jax.jit(model.init, out_shardings=whole)(jax.random.key(0))
    rng = np.random.default_rng(0)
    # Each crop is brighter than the one before, so that a device's crops alone have other statistics.
    crops = rng.normal(size=(8, 40, 33, 1)) + np.arange(8)[:, None, None, None]
    crops = jax.device_put(jnp.asarray(crops, jnp.float32), split)

    def loss(params, crops):
        out, stats = model.apply(variables._replace(params=params), crops, train=True)
        return jnp.sum(jnp.sin(3 * out @ out.T)), stats

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, stats), gradients = step(variables.params, crops)
    sums = {"stats": stats, "gradients": gradients}
    norms = {name: [float(jnp.linalg.norm(x)) for x in jax.tree.leaves(tree)] for name, tree in sums.items()}
    return {"loss": [float(value)], "devices": [len(crops.sharding.device_set)], **norms}


if __name__ == "__main__":
    print(json.dumps([run(devices) for devices in (1, jax.device_count())]))
