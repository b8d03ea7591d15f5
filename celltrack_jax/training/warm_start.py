"""Starts a run from the weights of another one.

Rules say which parameters are taken over: of a network whose heads tell other classes all but the heads, of one that
shares a few layers those that fit.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import Variables
from celltrack_jax.training import rules
from celltrack_jax.training.rules import parameter_name
from celltrack_jax.training.state import TrainState

TAKEN, FITTING, ANEW = "taken", "fitting", "anew"
_LISTED = 12
"""Modules that a message names."""


def warm_start(
    state: TrainState,
    given: Variables,
    origin: str,
    how: Sequence[tuple[str, str]],
    say: Callable[[str], None] = lambda text: None,
) -> TrainState:
    """Puts weights into a state that has not been trained.

    Args:
      state: fresh.
      given: weights of the other run, in the memory of this process.
      origin: work folder of that run, for messages.
      how: (regex, value) rules over names of parameters, the first match wins: "taken" parameters have to be there in
        the same shape, "fitting" ones are taken where they are, "anew" ones are made anew though they may fit, as those
        of as many other classes do. What is no parameter, such as running statistics, goes by the same rules.
      say: is told what was taken over, made anew, and not used.

    Returns:
      The state, with its old shardings.

    Raises:
      InputError: a parameter that has to be taken is not there, none fits, or a rule is not understood.
    """
    unknown = sorted({str(value) for _, value in how} - {TAKEN, FITTING, ANEW})
    if unknown:
        raise InputError(
            f"train.initial_rules: {', '.join(unknown)}: a rule says {TAKEN!r}, {FITTING!r} or {ANEW!r}"
        )
    rules.match(how, state.variables.params)
    known, every = _leaves(given.params), _leaves(state.variables.params)
    taken = _taken(every, known, origin, how)
    if not taken:
        raise InputError(
            f"train.initial: no parameter of {origin} has the name and shape of one of this network that is not made "
            "anew: give a run of a network with the same layers, or leave it out"
        )
    stats = _taken(_leaves(state.variables.stats), _leaves(given.stats), origin, how)
    params = _filled(state.variables.params, taken)
    variables = Variables(params, _filled(state.variables.stats, stats))
    # The average starts from the same weights, in memory of its own; the optimizer has seen nothing and stays.
    ema = jax.tree.map(lambda new, old: jax.device_put(np.array(new), old.sharding), variables, state.ema)
    say(
        f"{len(taken)} of {len(every)} parameters are those of {origin}"
        + _listed("; made anew", every.keys() - taken)
        + _listed("; not used", known.keys() - taken)
    )
    return state._replace(variables=variables, ema=ema)


def _leaves(tree: Any) -> dict[str, Any]:
    return {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _taken(
    every: dict[str, Any], known: dict[str, Any], origin: str, how: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Returns those of the known arrays that are taken, by name."""
    taken, lacking = {}, []
    for name, leaf in every.items():
        value = rules.first(how, name, FITTING)
        if value == ANEW:
            continue
        if name in known and known[name].shape == leaf.shape:
            taken[name] = known[name]
        elif value == TAKEN:
            lacking.append(name)
    if lacking:
        name = lacking[0]
        there = f"of shape {known[name].shape}" if name in known else "absent"
        more = f" ({len(lacking) - 1} more do not fit)" if len(lacking) > 1 else ""
        raise InputError(
            f"train.initial: {name} has shape {every[name].shape} in this network and is {there} in {origin}{more}: give "
            f"a run whose config.model is alike, or have it made anew by a rule ({_module(name)!r}, {ANEW!r}) before the "
            "others of train.initial_rules"
        )
    return taken


def _filled(tree: Any, taken: dict[str, Any]) -> Any:
    """Replaces the leaves of these names."""

    def chosen(path: Any, leaf: jax.Array) -> jax.Array:
        other = taken.get(parameter_name(path))
        return leaf if other is None else jax.device_put(np.asarray(other, leaf.dtype), leaf.sharding)

    return jax.tree_util.tree_map_with_path(chosen, tree)


def _module(name: str) -> str:
    """The outer parts of a name, without that of the array."""
    return "/".join(name.split("/")[:-1][:2]) or name


def _listed(what: str, names: Iterable[str]) -> str:
    modules = sorted({_module(name) for name in names})
    more = f" and {len(modules) - _LISTED} more" if len(modules) > _LISTED else ""
    return f"{what}: {', '.join(modules[:_LISTED])}{more}" if modules else ""
