"""Constants of a representation, checked against its fields."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from celltrack_jax.errors import InputError

T = TypeVar("T")


def from_settings(cls: type[T], given: Mapping[str, Any]) -> T:
    """Makes the frozen dataclass `cls` from a config's mapping; lists become tuples.

    Raises:
      InputError: constants are missing or unknown; the message names them.
    """
    wanted = {field.name for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    missing, unknown = sorted(wanted - set(given)), sorted(set(given) - wanted)
    if missing or unknown:
        raise InputError(
            f"config.representation ({cls.__name__}): missing {missing}, unknown {unknown}; "
            f"it takes {sorted(wanted)}"
        )
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
