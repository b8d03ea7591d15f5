"""The border between flax.nnx and everything else: a module as two pure functions.

nnx stays inside `models/`. Everybody else sees pytrees of arrays and `init`/`apply`, so that steps are plain
`jax.jit` functions (an `nnx.jit` call costs 16 ms on a 290-leaf state, a split state 3.4 ms).
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from celltrack_jax.models import layers


class Variables(NamedTuple):
    """What a model owns: nested dicts of arrays."""

    params: Any
    """Learned by gradients, float32."""
    stats: Any
    """Everything else it carries, such as the running averages of batch norm; often empty."""


def digest(variables: Variables) -> str:
    """Returns what tells the weights of one network apart; it copies them to the host."""
    found = hashlib.sha256()
    for array in jax.tree.leaves(variables):
        found.update(np.asarray(array).tobytes())
    return found.hexdigest()


class FunctionalModel:
    """`init(key) -> Variables` and `apply(variables, *inputs, train) -> (outputs, stats)` of an nnx module."""

    def __init__(
        self, make: Callable[[nnx.Rngs], nnx.Module], fixed: Callable[[str], bool] = lambda name: False
    ):
        """Takes a constructor; builds nothing yet.

        Args:
          make: returns the module from its random streams. It must be callable as `module(*inputs, train=bool)`.
          fixed: says of the name of a batch norm's running statistic, such as `encoder/0/norm/mean`, whether it is used
            in training as it is and stays.
        """
        self._make = make
        module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        for path, part in nnx.iter_modules(module):
            if isinstance(part, layers.Norm) and fixed("/".join(map(str, (*path, "mean")))):
                part.fixed = True
        self._graphdef = nnx.graphdef(module)

    def init(self, key: jax.Array) -> Variables:
        """Returns fresh variables. Trace it (`jax.eval_shape`, `jax.jit`) to have them born sharded."""
        _, params, stats = nnx.split(self._make(nnx.Rngs(key)), nnx.Param, ...)
        return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))

    def apply(self, variables: Variables, *inputs: Any, train: bool = False) -> tuple[Any, Any]:
        """Runs the module.

        Args:
          variables: as `init` returns them.
          *inputs: what the module takes.
          train: whether the module is in training (batch norm then uses and updates batch statistics).

        Returns:
          The module's outputs, and the stats after the call.
        """
        module = nnx.merge(self._graphdef, variables.params, variables.stats)
        outputs = module(*inputs, train=train)
        _, _, stats = nnx.split(module, nnx.Param, ...)
        return outputs, nnx.to_pure_dict(stats)
