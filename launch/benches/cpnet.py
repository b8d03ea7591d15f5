"""A step of Cellpose's network, ours against its own in PyTorch: `python -m launch.bench cpnet --against=cellpose`.

Both are the published network (32-64-128-256, batch norm, style), on the same tiles, with its loss and AdamW. On a CPU
both run in float32, PyTorch in channels_last, the faster layout there.
"""

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

from celltrack_jax.errors import InputError
from launch.benches import timing

SIZES = ((2, 224, 224), (4, 128, 128))
"""(B, *S) of batches: crops as Cellpose's, of which it takes 8, and those of configs/sartorius/cellpose.py:dsb."""
CHANNELS, OUTPUTS = 2, 3
WIDTHS = (32, 64, 128, 256)
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 1e-5
REPEATS = 5


def run(against: str | None) -> list[dict[str, Any]]:
    """Times a step of each size, in turns with the peer's.

    Args:
      against: "cellpose", or None for ours alone.

    Returns:
      A row per size as `timing` makes it.

    Raises:
      InputError: the peer is not known or not installed.
    """
    if against not in (None, "cellpose"):
        raise InputError(f"bench cpnet: no peer {against!r}; give --against=cellpose or leave it out")
    return [_row(size, against) for size in SIZES]


def _row(size: tuple[int, ...], against: str | None) -> dict[str, Any]:
    name = f"cpnet step, {'x'.join(map(str, size))}"
    if against is None:
        return timing.alone_row(name, timing.alone(jax_step(size), REPEATS))
    peer = torch_step(size)
    return timing.interleaved(jax_step(size), peer, REPEATS, warmup=2).row(name)


def jax_step(size: tuple[int, ...]) -> Callable[[], float]:
    """Returns our training step of (B, *S) = size; each call takes one and returns the loss."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from celltrack_jax import models
    from celltrack_jax.models.functional import FunctionalModel, Variables

    make = functools.partial(
        models.build,
        "cpnet",
        in_channels=CHANNELS,
        heads={"out": OUTPUTS},
        widths=WIDTHS,
        kernels=((3, 3),) * len(WIDTHS),
        pools=((2, 2),) * (len(WIDTHS) - 1),
        norm="batch",
        groups=1,
        style=True,
        dtype="auto",
    )
    model = FunctionalModel(make)
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    params, stats = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    x, flow = (jnp.asarray(rng.normal(size=(*size, 2)), jnp.float32) for _ in range(2))
    cell = jnp.asarray(rng.random((*size, 1)) < 0.3, jnp.float32)

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, stats, moments):
        def loss(params):
            out, new = model.apply(Variables(params, stats), x, train=True)
            flows, logit = out["out"][..., :2], out["out"][..., 2:]
            bce = jnp.mean(jax.nn.softplus(logit) - logit * cell)
            return 0.5 * jnp.mean((flows - 5 * flow) ** 2) + bce, new

        (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), stats, moments, value

    state = [params, stats, optimizer.init(params)]

    def once() -> float:
        state[0], state[1], state[2], value = step(*state)
        return float(value)

    return once


def torch_step(size: tuple[int, ...]) -> Callable[[], float]:
    """Returns Cellpose's training step on as many threads as this process may use; as `jax_step`."""
    try:
        torch, nets = (importlib.import_module(name) for name in ("torch", "cellpose.resnet_torch"))
    except ModuleNotFoundError:
        raise InputError(
            "bench cpnet: Cellpose, the peer, is not installed: pip install cellpose==3.1.1.2, or leave --against out"
        ) from None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.channels_last
    model = nets.CPnet([CHANNELS, *WIDTHS], OUTPUTS, 3).to(device=device, memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batch, *space = size
    x, flow = (torch.randn(batch, 2, *space, device=device).to(memory_format=layout) for _ in range(2))
    cell = (torch.rand(batch, *space, device=device) < 0.3).float()
    mean_square, cross_entropy = torch.nn.MSELoss(), torch.nn.BCEWithLogitsLoss()

    def once() -> float:
        optimizer.zero_grad(set_to_none=True)
        out = model(x)[0]
        loss = 0.5 * mean_square(out[:, :2], 5 * flow) + cross_entropy(out[:, 2], cell)
        loss.backward()
        optimizer.step()
        return loss.item()

    return once
