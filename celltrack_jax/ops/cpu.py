"""Settings of XLA's CPU backend, in one place. No jax import: they are read when the backend starts."""

import os


def spare_ynnpack() -> None:
    """Adds to XLA_FLAGS that YNNPACK takes neither convolutions, nor matrix products, nor sums; a given choice stays,
    and has to keep `-reduce`.

    On two quiet cores (Zen 4) YNNPACK, the default of jaxlib 0.10.2, ran a 3x3 convolution of 32 channels at
    4x256x256 in 84 ms and its weight gradient in 158 ms; Eigen took 36 and 75 ms (PyTorch 34 and 23). On one
    core YNNPACK's convolution is the faster one (11.8 against 13.3 ms for one image).

    Its sums of products are wrong where the first of several axes has one element, as a batch of one sample has for each
    device: in `warp.plane_coordinates` x became y, and crops were not turned with what was drawn. Statistics of 32
    channels at 4x256x256 take 59 ms of a core by XLA's own loops, and 43 by YNNPACK; their gradient as long by both.
    """
    _add("--xla_cpu_experimental_ynn_fusion_type", "-individual_convolution,-individual_dot,-reduce")


def run_collectives_in_order() -> None:
    """Adds to XLA_FLAGS that a program's operations are scheduled one by one; a given choice stays.

    Otherwise each of several processes runs sums that do not depend on each other in its own order, and gloo, which
    takes messages as they come, aborts with "Received data size doesn't match expected size".
    """
    _add("--xla_cpu_enable_concurrency_optimized_scheduler", "false")


def _add(flag: str, value: str) -> None:
    given = os.environ.get("XLA_FLAGS", "")
    if flag not in given:
        os.environ["XLA_FLAGS"] = f"{given} {flag}={value}".strip()
