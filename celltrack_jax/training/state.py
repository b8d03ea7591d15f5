"""What a training run carries from step to step, and the step itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from celltrack_jax.config import Config
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tasks import Task
from celltrack_jax.training import mesh as meshes


class TrainState(NamedTuple):
    """A pytree; all of it is saved, and a run resumed from it goes on bit-identically."""

    step: jax.Array
    """() int32, steps done."""
    variables: Variables
    """Parameters and statistics in training."""
    ema: Variables
    """Their exponential moving average: what is evaluated and applied."""
    optimizer: Any
    """The optimizer's state."""


Step = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


def init_state(model: FunctionalModel, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Returns the state before the first step; trace it, so that it is born sharded."""
    variables = model.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        ema=jax.tree.map(jnp.copy, variables),
        optimizer=optimizer.init(variables.params),
    )


def abstract_state(model: FunctionalModel, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns the state's shapes, dtypes and shardings without making it."""
    shapes = jax.eval_shape(lambda key: init_state(model, optimizer, key), jax.random.key(0))
    sharding = meshes.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def compile_step(
    task: Task,
    model: FunctionalModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    config: Config,
) -> Any:
    """Compiles the training step before any data exist.

    Args:
      task: what is learned.
      model: its model.
      optimizer: its optimizer.
      mesh: the devices.
      config: with seed and ema_decay.

    Returns:
      The compiled `step(state, batch) -> (state, metrics)`, which donates the state it is given. It has the
      compiler's `memory_analysis()` and `cost_analysis()`.
    """
    state = abstract_state(model, optimizer, mesh)
    spec = task.batch_spec()
    shardings = meshes.batch_shardings(mesh, spec)
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=shardings[k]) for k, v in spec.items()}
    step = make_step(task, model, optimizer, config.seed, config.ema_decay)
    out_shardings = (jax.tree.map(lambda x: x.sharding, state), meshes.replicated(mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings).lower(state, batch).compile()


def make_step(
    task: Task, model: FunctionalModel, optimizer: optax.GradientTransformation, seed: int, ema_decay: float
) -> Step:
    """Returns the pure step. Everything random in it comes from (seed, sample): a run is a function of its config."""

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        # The sample number already grows with the step, so (seed, sample) names (seed, step, place in the batch).
        keys = jax.vmap(lambda sample: jax.random.fold_in(jax.random.key(seed), sample))(batch["sample"])

        def loss(params: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            def apply(inputs: jax.Array) -> tuple[Any, Any]:
                return model.apply(Variables(params, state.variables.stats), inputs, train=True)

            value, stats, metrics = task.loss(apply, batch, keys, state.step)
            return value, (stats, metrics)

        (value, (stats, metrics)), gradients = jax.value_and_grad(loss, has_aux=True)(state.variables.params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.variables.params)
        variables = Variables(optax.apply_updates(state.variables.params, updates), stats)
        # Early averages forget the random initial weights faster than a constant decay would.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, variables)
        metrics = {**metrics, "loss": value, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, variables, ema, optimizer_state), metrics

    return step
