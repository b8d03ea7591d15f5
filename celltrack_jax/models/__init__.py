"""Flax networks, one file each. nnx stays in here: callers see `nnx.split` results and a pure apply."""

import jax
from flax import nnx

from celltrack_jax import config


def build(name: str, rngs: nnx.Rngs, **kwargs) -> nnx.Module:
    """Builds the network of `celltrack_jax/models/<name>.py` by its `build(rngs, **kwargs)`.

    A dtype "auto" is float32 on a CPU and bfloat16 on accelerators.

    Raises:
      InputError: there is no such file, or it takes other settings.
    """
    if kwargs.get("dtype") == "auto":
        kwargs["dtype"] = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return config.build("models", name, rngs, **kwargs)
