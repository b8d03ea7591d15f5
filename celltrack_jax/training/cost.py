"""What a training step costs, counted before it runs: FLOPs of the network, roofline and memory of the program."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tasks import Task


def network_flops(task: Task, model: FunctionalModel, platform: str) -> float:
    """Returns the FLOPs of one global batch in the network: forward pass and gradients of the parameters.

    Convolutions and matrix products alone, as papers count them: no augmentation, targets, normalisation, activation,
    loss or optimizer, and no gradient of the input. Layers under remat count twice in their forward pass.

    Args:
      task: its loss says on what the model is called.
      model: its model.
      platform: "cpu", "tpu" or "cuda": whose lowering is counted.
    """
    variables = jax.eval_shape(model.init, jax.random.key(0))
    batch = task.batch_spec()
    calls = []

    def loss(variables: Variables, batch: dict[str, jax.Array], keys: jax.Array, step: jax.Array) -> Any:
        def apply(*inputs: Any) -> tuple[Any, Any]:
            calls.append(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs))
            return model.apply(variables, *inputs, train=True)

        return task.loss(apply, batch, keys, step)[0]

    samples = next(iter(batch.values())).shape[0]
    keys = jax.eval_shape(lambda key: jax.random.split(key, samples), jax.random.key(0))
    jax.eval_shape(loss, variables, batch, keys, jax.ShapeDtypeStruct((), jnp.int32))

    def train(variables: Variables, inputs: Any) -> Any:
        def outputs(params: Any) -> Any:
            return model.apply(Variables(params, variables.stats), *inputs, train=True)[0]

        values, pull_back = jax.vjp(outputs, variables.params)
        return values, pull_back(values)

    return sum(matrix_flops(train, platform, variables, inputs) for inputs in calls)


def matrix_flops(function: Callable, platform: str, *args: Any) -> float:
    """Returns the FLOPs of a function's convolutions and matrix products, two for each multiplication.

    What the results do not need is left out. Every tap of a convolution counts, on zero padding too; of a dilated input
    only its pixels do. A loop counts as often as it runs; where that depends on data, once.

    Args:
      function: traceable.
      platform: whose branch of `lax.platform_dependent` counts.
      *args: arrays or their shapes.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _walk(needed, platform)


def _walk(jaxpr: Any, platform: str) -> float:
    return float(sum(_equation(equation, platform) for equation in jaxpr.eqns))


def _equation(equation: Any, platform: str) -> float:
    params = equation.params
    match equation.primitive.name:
        case "dot_general":
            return _dot(equation)
        case "conv_general_dilated":
            return _convolution(equation)
        case "scan":
            return params["length"] * _walk(params["jaxpr"].jaxpr, platform)
        case "cond":
            return _branch(params, platform)
        case "custom_vjp_call" | "custom_jvp_call":
            return _walk(params["call_jaxpr"].jaxpr, platform)
    return sum(_walk(inner, platform) for inner in _inner(params))


def _branch(params: dict[str, Any], platform: str) -> float:
    """The branch that the platform takes, or the costliest one where data choose."""
    costs = [_walk(branch.jaxpr, platform) for branch in params["branches"]]
    platforms = params.get("branches_platforms")
    if platforms is None:
        return max(costs)
    named = [cost for cost, names in zip(costs, platforms, strict=True) if names and platform in names]
    return named[0] if named else costs[platforms.index(None)]


def _inner(params: dict[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters."""
    found = []
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(each, "jaxpr", each)
            if hasattr(jaxpr, "eqns"):
                found.append(jaxpr)
    return found


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    _, inputs, *taps = equation.params["dimension_numbers"].rhs_spec
    kernel = equation.invars[1].aval.shape
    seen = kernel[inputs] * math.prod(kernel[axis] for axis in taps)
    outputs = math.prod(equation.outvars[0].aval.shape)
    return 2.0 * outputs * seen / math.prod(equation.params["lhs_dilation"])


def compiler_count(program: Any) -> tuple[float, float]:
    """Returns the FLOPs and bytes of a compiled program on one device, as its compiler counts them.

    FLOPs are all arithmetic, without taps on zero padding; bytes are what operations read and write, on
    a TPU in the memory of its cores too (`hlo.hbm_bytes` leaves that out). A loop counts once.
    """
    counted = program.cost_analysis()
    counted = counted[0] if isinstance(counted, list) else counted
    return float(counted.get("flops", 0.0)), float(counted.get("bytes accessed", 0.0))


class Roofline(NamedTuple):
    """Seconds that a step on one device needs at least, by what would bound it alone."""

    compute_s: float
    """Its FLOPs at the device's peak."""
    memory_s: float
    """Its bytes at the bandwidth of the device's memory."""
    cores_s: float
    """Its operations one after the other, as a TPU's compiler expects them; 0 where that is not known."""
    communication_s: float

    @property
    def step_s(self) -> float:
        """The first three overlap; collectives wait for the gradients and are waited for."""
        return max(self.compute_s, self.memory_s, self.cores_s) + self.communication_s

    @property
    def bound(self) -> str:
        """What takes the most time."""
        return max(zip(self, self._fields, strict=True))[1].removesuffix("_s")


class BatchModel(NamedTuple):
    """Memory of a device as a straight line in its batch, from two compilations."""

    fixed: float
    """Bytes at batch 0: parameters, optimizer, code."""
    per_sample: float
    """Bytes that each sample adds."""

    @classmethod
    def fit(cls, first: tuple[float, float], second: tuple[float, float]) -> "BatchModel":
        """Takes two (batch, bytes)."""
        slope = (second[1] - first[1]) / (second[0] - first[0])
        return cls(first[1] - slope * first[0], slope)

    def largest(self, memory: float) -> int | None:
        """Returns the largest batch that fits, or None where the batch does not add to the memory."""
        return max(0, math.floor((memory - self.fixed) / self.per_sample)) if self.per_sample > 0 else None
