"""Trains Mask R-CNN for a few steps on one device and on two; prints losses and how far apart parameters are."""

import json
import os

os.environ["JAX_PLATFORMS"] = "cpu"

from tests.devices import on_devices

os.environ.update(on_devices(2))

import jax
import numpy as np

from celltrack_jax import tasks
from configs.sartorius import mask_rcnn
from tests.representations.cells import touching_cells
from tests.training.few_steps import take

STEPS = 3


def batch_of(spec: dict[str, jax.ShapeDtypeStruct], number: int) -> dict[str, np.ndarray]:
    """Bright cells of other shapes in each sample of each batch."""
    count, *size = spec["labels"].shape
    samples = np.arange(number * count, (number + 1) * count)
    labels = np.stack([touching_cells(tuple(size), (1, 1), 7.0, seed=seed) for seed in samples.tolist()])
    noise = np.random.default_rng(number).normal(0, 0.1, labels.shape)
    batch = {
        "image": ((labels > 0) + noise)[..., None],
        "labels": labels,
        "spacing": np.ones((count, 2)),
        "sample": samples,
    }
    return {key: batch[key].astype(each.dtype) for key, each in spec.items()}


config = mask_rcnn.get_config("tiny")
config.data.batch_size, config.optimizer.warmup_steps, config.model.dtype = 2, 1, "float32"
task = tasks.build(config)
batches = [batch_of(task.batch_spec(), number) for number in range(STEPS)]
(start, one, alone), (_, two, split) = (
    take(task, config, jax.devices()[:count], batches) for count in (1, 2)
)


def apart(a: jax.Array, b: jax.Array) -> float:
    """Length of the difference. Adam moves an element of hardly any gradient by chance: one alone says nothing."""
    return float(np.linalg.norm((np.asarray(a) - np.asarray(b)).reshape(-1)))


moved = jax.tree.leaves(jax.tree.map(apart, one.variables.params, start.variables.params))
differ = jax.tree.leaves(jax.tree.map(apart, one.variables.params, two.variables.params))
shares = [a / b if b else np.inf for a, b in zip(differ, moved, strict=True)]
print(json.dumps({"one": alone, "two": split, "difference": max(shares)}))
