"""Which lowering of an operation is traced: the one that is fast on the platform that the program is compiled for.

cuDNN and the TPU compiler run plain `lax` operations best; XLA's CPU backend does not. The choice is left to the
compiler (`lax.platform_dependent`), so that a program for a TPU compiled on a CPU machine gets the TPU's.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

LAYOUTS = {2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
"""Of images, kernels and outputs, by the number of spatial axes: channels last."""
_PLAINLY = contextvars.ContextVar("plainly", default=False)


@contextlib.contextmanager
def lowered_plainly() -> Iterator[None]:
    """Traces what is inside with plain `lax` operations on CPUs too.

    A volume that is split over devices needs them: XLA exchanges halos for a convolution, but gathers the whole
    volume for a loop over its planes.
    """
    token = _PLAINLY.set(True)
    try:
        yield
    finally:
        _PLAINLY.reset(token)


def choose(cpu: Callable, plain: Callable, *operands: Any, **settings: Any) -> Any:
    """Applies one of two ways to compute the same: `cpu` where the program is compiled for CPUs, else `plain`.

    Args:
      cpu: called as cpu(*operands, **settings).
      plain: likewise; what is traced alone inside of `lowered_plainly`.
      operands: arrays.
      settings: static.
    """
    if _PLAINLY.get():
        return plain(*operands, **settings)
    cpu, plain = (functools.partial(function, **settings) for function in (cpu, plain))
    return lax.platform_dependent(*operands, cpu=cpu, default=plain)
