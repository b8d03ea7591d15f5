"""Flax networks, one file each. nnx stays in here: callers see `nnx.split` results and a pure apply."""

import importlib

from flax import nnx

from celltrack_jax.errors import InputError
from celltrack_jax.ops import cpu

# Every network passes here, and before the first computation starts the backend.
cpu.leave_convolutions_to_eigen()


def build(name: str, rngs: nnx.Rngs, **kwargs) -> nnx.Module:
    """Builds the network of `celltrack_jax/models/<name>.py` by its `build(rngs, **kwargs)`.

    Raises:
      InputError: there is no such file.
    """
    module = f"{__name__}.{name}"
    try:
        return importlib.import_module(module).build(rngs, **kwargs)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise InputError(f"no model named {name!r}: celltrack_jax/models/{name}.py does not exist") from None
