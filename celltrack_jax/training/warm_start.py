"""Starts a run from the weights of another one.

What has the same name and shape is taken over: all of a network that learns something else with the same layers, the
encoder alone where the decoder differs. The heads stay fresh where they have other channels.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import Variables
from celltrack_jax.training.rules import parameter_name
from celltrack_jax.training.state import TrainState


def warm_start(
    state: TrainState, given: Variables, origin: str, say: Callable[[str], None] = lambda text: None
) -> TrainState:
    """Puts weights into a state that has not been trained.

    Args:
      state: fresh.
      given: weights of the other run, in the memory of this process.
      origin: work folder of that run, for messages.
      say: is told what was taken over.

    Returns:
      The state, with its old shardings.

    Raises:
      InputError: no parameter fits.
    """
    known = {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(given.params)}
    every = {
        parameter_name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.variables.params)
    }
    taken = {name for name, leaf in every.items() if name in known and known[name].shape == leaf.shape}
    if not taken:
        raise InputError(
            f"train.initial: no parameter of {origin} has the name and shape of one of this network: give a run of a "
            "network with the same layers, or leave it out"
        )
    params = _filled(state.variables.params, given.params)
    variables = Variables(params, _filled(state.variables.stats, given.stats))
    # The average starts from the same weights, in memory of its own; the optimizer has seen nothing and stays.
    ema = jax.tree.map(lambda new, old: jax.device_put(np.array(new), old.sharding), variables, state.ema)
    fresh = sorted({"/".join(name.split("/")[:2]) for name in every.keys() - taken})
    rest = f", {', '.join(fresh)} start afresh" if fresh else ""
    say(f"{len(taken)} of {len(every)} parameters are those of {origin}{rest}")
    return state._replace(variables=variables, ema=ema)


def _filled(tree: Any, given: Any) -> Any:
    """Replaces the leaves that `given` has under the same name and in the same shape."""
    known = {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(given)}

    def chosen(path: Any, leaf: jax.Array) -> jax.Array:
        other = known.get(parameter_name(path))
        if other is None or other.shape != leaf.shape:
            return leaf
        return jax.device_put(np.asarray(other, leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(chosen, tree)
