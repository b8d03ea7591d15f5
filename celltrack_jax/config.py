"""What stands between an experiment's config and the code that it names."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias, TypeVar

from celltrack_jax.errors import InputError

Config: TypeAlias = Any
"""An `ml_collections.ConfigDict`. Its declared attribute types are unions with None that no checker can follow."""
T = TypeVar("T")


def build(room: str, name: str, *args: Any, **settings: Any) -> Any:
    """Calls `build(*args, **settings)` of the file `celltrack_jax/<room>/<name>.py`.

    Args:
      room: "tasks", "models" or "representations".
      name: of the file, as the config gives it.
      args: are not from the config.
      settings: are.

    Raises:
      InputError: there is no such file, or it takes other settings; the message names them.
    """
    module = f"celltrack_jax.{room}.{name}"
    try:
        function = importlib.import_module(module).build
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise InputError(f"no {name!r} in {room}: celltrack_jax/{room}/{name}.py does not exist") from None
    check_settings(function, f"{room}/{name}", *args, **settings)
    return function(*args, **settings)


def check_settings(function: Callable, where: str, *args: Any, **settings: Any) -> None:
    """Checks that a function takes these arguments.

    Raises:
      InputError: it takes others; the message names them.
    """
    try:
        inspect.signature(function).bind(*args, **settings)
    except TypeError as error:
        raise InputError(f"config of {where}: {error}") from None


def from_mapping(cls: type[T], given: Mapping[str, Any], where: str) -> T:
    """Makes a frozen dataclass from a part of a config that names every field; lists become tuples.

    Args:
      cls: the dataclass.
      given: value by field.
      where: the part's name, for messages.

    Raises:
      InputError: fields are missing or unknown; the message names them.
    """
    wanted = {field.name for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    missing, unknown = sorted(wanted - set(given)), sorted(set(given) - wanted)
    if missing or unknown:
        raise InputError(f"config.{where}: missing {missing}, unknown {unknown}; it takes {sorted(wanted)}")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def differing(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Returns the dotted keys in which two configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [name for key in keys for name in differing(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [prefix.rstrip(".")]
