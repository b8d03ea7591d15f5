"""Trains the toy task for a few float64 steps in each layout of eight virtual devices; prints losses and sizes."""

import json
import os
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

from tests.devices import on_devices

os.environ.update(on_devices(8))

import jax

jax.config.update("jax_enable_x64", True)

from tests.training.few_steps import take
from tests.training.toy_task import ToyTask, toy_config

FSDP = ((".*", "fsdp"),)
NAMES = (("down/1/.*kernel", ("data", None)), (".*", "replicated"))
LAYOUTS = {
    "one device": dict(devices=1),
    "data": dict(devices=8),
    "space": dict(devices=8, space=4),
    "fsdp": dict(devices=8, parameters=FSDP),
    "fsdp and space": dict(devices=8, space=2, parameters=FSDP),
    "accumulated": dict(devices=2, accumulate=4),
    "by names": dict(devices=4, parameters=NAMES),
}


def run(devices: int, space: int = 1, accumulate: int = 1, parameters: tuple = ((".*", "replicated"),)):
    """Returns the losses of four steps, and the bytes of the state on the first device."""
    config = toy_config(batch_size=8, accumulate=accumulate)
    config.mesh.space, config.mesh.parameters = space, parameters
    task = ToyTask(config, dtype="float64", widths=(32, 128))
    data: Any = task.train_data((0, 1))
    _, state, losses = take(task, config, jax.devices()[:devices], [data[number] for number in range(4)])
    first = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state)]
    return {"losses": losses, "state_bytes": sum(first)}


print(json.dumps({name: run(**layout) for name, layout in LAYOUTS.items()}))
