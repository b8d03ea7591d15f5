"""What a training run carries from step to step, and the step itself."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from celltrack_jax.config import Config
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.ops import lowering
from celltrack_jax.tasks import Task, TaughtTask
from celltrack_jax.training import mesh as meshes
from celltrack_jax.training import rules


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


def abstract_state(
    model: FunctionalModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    parameters: Sequence[tuple[str, Any]] = ((".*", meshes.REPLICATED),),
) -> TrainState:
    """Returns the state's shapes, dtypes and shardings without making it.

    Args:
      model: its variables.
      optimizer: its state; what it keeps per parameter is split as the parameter.
      mesh: of the run.
      parameters: (regex, spec) rules of `mesh.parameter_sharding`, first match wins.

    Raises:
      InputError: a rule does not fit.
    """
    shapes = jax.eval_shape(lambda key: init_state(model, optimizer, key), jax.random.key(0))
    whole = meshes.replicated(mesh)
    specs = rules.match(parameters, shapes.variables.params)
    split = jax.tree.map(
        lambda x, spec: meshes.parameter_sharding(mesh, spec, x.shape), shapes.variables.params, specs
    )
    variables = Variables(split, jax.tree.map(lambda _: whole, shapes.variables.stats))
    kept: Any = optax.tree.map_params(
        optimizer, lambda _, sharding: sharding, shapes.optimizer, split, transform_non_params=lambda _: whole
    )
    step: Any = whole
    shardings = TrainState(step=step, variables=variables, ema=variables, optimizer=kept)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings
    )


def compile_step(
    task: Task,
    model: FunctionalModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    config: Config,
    spec: Mapping[str, jax.ShapeDtypeStruct] | None = None,
) -> Any:
    """Compiles the training step before any data exist.

    Args:
      task: what is learned.
      model: its model.
      optimizer: its optimizer.
      mesh: the devices.
      config: with seed, ema_decay, optimizer.learning_rate_rules, train.accumulate and mesh.parameters.
      spec: the arrays of the global batch; None for `task.batch_spec()`.

    Returns:
      The compiled `step(state, batch) -> (state, metrics)`, which donates the state it is given. It has the
      compiler's `memory_analysis()` and `cost_analysis()`.
    """
    state = abstract_state(model, optimizer, mesh, config.mesh.parameters)
    spec = spec or task.batch_spec()
    shardings = meshes.batch_shardings(mesh, spec)
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=shardings[k]) for k, v in spec.items()}
    whole = meshes.replicated(mesh)
    rates = rules.match(config.optimizer.learning_rate_rules, state.variables.params)

    def gather(params: Any) -> Any:
        # Left to itself the partitioner convolves with split kernels, and under `data` and `space` at once (jax 0.10.2,
        # CPU) their gradients were wrong by 0.5 % of the next loss: test_mesh.py.
        params = jax.lax.with_sharding_constraint(params, whole)
        # What is frozen has no gradient: nothing is spent on it, nor does it count in the norm that is clipped.
        return jax.tree.map(lambda x, rate: x if rate else jax.lax.stop_gradient(x), params, rates)

    step = make_step(
        task,
        model,
        optimizer,
        config.seed,
        config.ema_decay,
        config.train.accumulate,
        gather=gather,
    )
    out_shardings = (jax.tree.map(lambda x: x.sharding, state), meshes.replicated(mesh))
    with lowering.lowered_plainly() if mesh.shape[meshes.SPACE] > 1 else contextlib.nullcontext():
        lowered = jax.jit(step, donate_argnums=0, out_shardings=out_shardings).lower(state, batch)
    return lowered.compile()


def make_step(
    task: Task,
    model: FunctionalModel,
    optimizer: optax.GradientTransformation,
    seed: int,
    ema_decay: float,
    accumulate: int = 1,
    gather: Callable[[Any], Any] = lambda params: params,
) -> Step:
    """Returns the pure step. Everything random in it comes from (seed, sample): a run is a function of its config.

    The parameters that a device uses are `gather` of those that it keeps. With `accumulate` parts of a batch, gradients
    and metrics are means over the parts, and a model's statistics go from part to part: the losses are those of the
    whole batch where the task's loss is a mean over samples.
    """

    def gradients_of(
        params: Any, ema: Variables, stats: Any, batch: dict[str, jax.Array], number: jax.Array
    ) -> Any:
        if isinstance(task, TaughtTask):
            averaged = Variables(gather(ema.params), ema.stats)
            batch = task.ask_teacher(lambda *inputs: model.apply(averaged, *inputs)[0], batch)
        # The sample number already grows with the step, so (seed, sample) names (seed, step, place in the batch).
        keys = jax.vmap(lambda sample: jax.random.fold_in(jax.random.key(seed), sample))(batch["sample"])

        def loss(params: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            whole = gather(params)

            def apply(*inputs: Any) -> tuple[Any, Any]:
                return model.apply(Variables(whole, stats), *inputs, train=True)

            value, after, metrics = task.loss(apply, batch, keys, number)
            return value, (after, {**metrics, "loss": value})

        (_, (after, metrics)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return after, (gradients, metrics)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        params, stats = state.variables
        if accumulate == 1:
            stats, (gradients, metrics) = gradients_of(params, state.ema, stats, batch, state.step)
        else:
            stats, (gradients, metrics) = _mean_over_parts(
                lambda stats, part: gradients_of(params, state.ema, stats, part, state.step),
                stats,
                batch,
                accumulate,
            )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, params)
        variables = Variables(optax.apply_updates(params, updates), stats)
        # Early averages forget the random initial weights faster than a constant decay would.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        # In this form, what is frozen stays as it is to the last bit.
        ema = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), state.ema, variables)
        metrics = {**metrics, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, variables, ema, optimizer_state), metrics

    return step


def _mean_over_parts(function: Any, stats: Any, batch: dict[str, jax.Array], parts: int) -> Any:
    """Runs `function(stats, part) -> (stats, values)` over the parts of a batch; returns the last stats, mean values.

    A part takes every parts-th sample, so that each device finds its share of every part among its own samples.
    """
    split = {key: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0) for key, x in batch.items()}
    _, shapes = jax.eval_shape(function, stats, {key: x[0] for key, x in split.items()})

    def add(carry: Any, part: dict[str, jax.Array]) -> Any:
        stats, total = carry
        stats, values = function(stats, part)
        return (stats, jax.tree.map(jnp.add, total, values)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (stats, total), _ = jax.lax.scan(add, (stats, zeros), split)
    return stats, jax.tree.map(lambda x: x / parts, total)
