"""A few steps of a task on a mesh, without the loop around them."""

from collections.abc import Sequence

import jax
import numpy as np

from celltrack_jax.config import Config
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.tasks import Task
from celltrack_jax.training import mesh as meshes
from celltrack_jax.training.optimizer import make_optimizer
from celltrack_jax.training.state import TrainState, abstract_state, compile_step, init_state


def take(
    task: Task, config: Config, devices: Sequence, batches: Sequence[dict[str, np.ndarray]]
) -> tuple[TrainState, TrainState, list[float]]:
    """Trains from the same start, whatever the devices; returns the states before and behind, and each step's loss."""
    mesh = meshes.make_mesh(config.mesh.space, config.data.batch_size, devices, config.train.accumulate)
    model = FunctionalModel(task.model)
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    optimizer = make_optimizer(config.optimizer, len(batches), params)
    shardings = jax.tree.map(
        lambda x: x.sharding, abstract_state(model, optimizer, mesh, config.mesh.parameters)
    )
    born = jax.jit(lambda key: init_state(model, optimizer, key), out_shardings=shardings)
    state = born(jax.random.key(0))
    step = compile_step(task, model, optimizer, mesh, config)
    split = meshes.batch_shardings(mesh, task.batch_spec())
    losses = []
    for batch in batches:
        state, metrics = step(state, meshes.global_batch(batch, split))
        losses.append(float(np.asarray(metrics["loss"])))
    return born(jax.random.key(0)), state, losses
