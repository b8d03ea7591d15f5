"""Settings of XLA's CPU backend, in one place. No jax import: they are read when the backend starts."""

import os

_YNNPACK = "--xla_cpu_experimental_ynn_fusion_type"


def leave_convolutions_to_eigen() -> None:
    """Adds to XLA_FLAGS that YNNPACK does not take convolutions and matrix products; a given choice stays.

    On two quiet cores (Zen 4) YNNPACK, the default of jaxlib 0.10.2, ran a 3x3 convolution of 32 channels at
    4x256x256 in 84 ms and its weight gradient in 158 ms; Eigen took 36 and 75 ms (PyTorch 34 and 23). On one
    core YNNPACK's convolution is the faster one (11.8 against 13.3 ms for one image).
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _YNNPACK not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_YNNPACK}=-individual_convolution,-individual_dot".strip()
