"""First-match rules over parameter names: one idiom for decay, learning rates, freezing and sharding."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from celltrack_jax.errors import InputError


def parameter_name(path: tuple) -> str:
    """Returns a pytree path as `encoder/0/conv/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def first(rules: Sequence[tuple[str, Any]], name: str, default: Any = None) -> Any:
    """Returns the value of the first rule whose pattern is found in a name, or the default."""
    return next((value for pattern, value in rules if re.search(pattern, name)), default)


def freezing(rules: Sequence[tuple[str, float]]) -> Callable[[str], bool]:
    """Returns what says of a name whether these rules of learning rates freeze it; what no rule matches they do not."""
    return lambda name: first(rules, name, 1.0) == 0


def match(rules: Sequence[tuple[str, Any]], tree: Any) -> Any:
    """Gives every leaf the value of the first rule whose pattern is found in its name.

    Args:
      rules: (regular expression, value) pairs, for `re.search` in names such as `encoder/0/conv/kernel`.
      tree: a pytree.

    Returns:
      A pytree of the same structure that holds the values.

    Raises:
      InputError: a leaf matches no rule (end the rules with (".*", value)), or a rule matches no leaf.
    """
    unused = {pattern for pattern, _ in rules if pattern != ".*"}

    def value_of(path: tuple, _: Any) -> Any:
        name = parameter_name(path)
        for pattern, value in rules:
            if re.search(pattern, name):
                unused.discard(pattern)
                return value
        raise InputError(f"no rule matches parameter {name}: end the rules with ('.*', value)")

    values = jax.tree_util.tree_map_with_path(value_of, tree)
    if unused:
        known = ", ".join(parameter_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)[:4])
        raise InputError(f"rules {sorted(unused)} match no parameter: names look like {known}, ...")
    return values
