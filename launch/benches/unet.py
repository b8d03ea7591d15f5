"""One training step of a plain U-Net, ours against PyTorch's: `python -m launch.bench unet --against=torch`.

Both are the same network (32-64-128-256, two 3x3 convolutions per level, GroupNorm, ReLU, one output),
loss (mean square) and optimizer (Adam). On a CPU both run in float32, PyTorch in channels_last, its fastest
layout there. On a GPU ours computes in bfloat16 and PyTorch in channels_last under bfloat16 autocast,
compiled by `torch.compile`.
"""

import functools
import importlib
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

from celltrack_jax.errors import InputError
from launch.benches import timing

SIZES = {2: (4, 256, 256), 3: (1, 32, 96, 96)}
"""(B, *S) of the batch by the number of axes."""
WIDTHS = (32, 64, 128, 256)
GROUPS = 8
LEARNING_RATE = 1e-4
REPEATS = 7


def run(against: str | None) -> list[dict[str, Any]]:
    """Times a step in 2D and in 3D, in turns with the peer's.

    Args:
      against: "torch", or None for ours alone.

    Returns:
      a row per number of axes, as `timing` makes them.

    Raises:
      InputError: the peer is not known or not installed.
    """
    if against not in (None, "torch"):
        raise InputError(f"bench unet: no peer {against!r}; give --against=torch or leave it out")
    rows = []
    for ndim, size in SIZES.items():
        name = f"unet {ndim}D step, {'x'.join(map(str, size))}"
        if against is None:
            rows.append(timing.alone_row(name, timing.alone(jax_step(ndim), REPEATS)))
        else:
            peer = torch_step(ndim)
            rows.append(timing.interleaved(jax_step(ndim), peer, REPEATS, warmup=2).row(name))
    return rows


def jax_step(ndim: int) -> Callable[[], float]:
    """Returns our training step; each call takes one and returns the loss."""
    settings = dict(
        widths=WIDTHS,
        kernels=((3,) * ndim,) * len(WIDTHS),
        pools=((2,) * ndim,) * (len(WIDTHS) - 1),
        stem=(1,) * ndim,
        convs=2,
        narrow_first=False,
        bias=True,
        norm="group",
        groups=GROUPS,
        affine=True,
        activation="relu",
        order="cna",
        dropout=0.0,
        upsample="transposed",
        up_channels="halve",
        join="concat",
        remat=(False,) * len(WIDTHS),
        dtype="auto",
    )
    return jax_step_of(settings, SIZES[ndim])


def jax_step_of(settings: dict[str, Any], size: Sequence[int]) -> Callable[[], float]:
    """Returns a training step of a `models/unet` of these settings on a batch of size (B, *S)."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from celltrack_jax import models
    from celltrack_jax.models.functional import FunctionalModel, Variables

    make = functools.partial(models.build, "unet", in_channels=1, heads={"out": 1}, **settings)
    model = FunctionalModel(make)
    optimizer = optax.adam(LEARNING_RATE)
    params, stats = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(*size, 1)), jnp.float32) for _ in range(2))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, moments, x, y):
        def loss(params):
            return jnp.mean((model.apply(Variables(params, stats), x, train=True)[0]["out"] - y) ** 2)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, value

    state = [params, optimizer.init(params)]

    def once() -> float:
        state[0], state[1], value = step(*state, x, y)
        return float(value)

    return once


def torch_step(ndim: int) -> Callable[[], float]:
    """Returns PyTorch's training step on as many threads as this process may use; as `jax_step`."""
    return torch_step_of(torch_unet(ndim, WIDTHS, GROUPS), SIZES[ndim])


def torch_step_of(model: Any, size: Sequence[int]) -> Callable[[], float]:
    """Returns a training step of a `torch.nn.Module`, as `jax_step_of`."""
    torch = _torch()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    batch, *space = size
    layout = torch.channels_last if len(space) == 2 else torch.channels_last_3d
    model = model.to(device=device, memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    x, y = (torch.randn(batch, 1, *space, device=device).to(memory_format=layout) for _ in range(2))
    forward = torch.compile(model) if gpu else model

    def once() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            out = forward(x)
        loss = torch.nn.functional.mse_loss(out.float(), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return once


def torch_unet(ndim: int, widths: Sequence[int], groups: int) -> Any:
    """Returns the same network as a `torch.nn.Module`, channels first; tests copy our weights into it."""
    torch = _torch()
    nn = torch.nn
    conv, up, pool = (getattr(nn, f"{kind}{ndim}d") for kind in ("Conv", "ConvTranspose", "MaxPool"))

    def block(channels, width):
        return nn.Sequential(
            conv(channels, width, 3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
            conv(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
        )

    class TorchUNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.ModuleList(
                block(before, width) for before, width in zip((1, *widths[:-1]), widths, strict=True)
            )
            self.up = nn.ModuleList(up(coarse, fine, 2, 2) for fine, coarse in itertools.pairwise(widths))
            self.merge = nn.ModuleList(block(2 * width, width) for width in widths[:-1])
            self.pool = pool(2)
            self.head = conv(widths[0], 1, 1)

        def forward(self, x):
            skips = []
            for level, block in enumerate(self.down):
                if level > 0:
                    skips.append(x)
                    x = self.pool(x)
                x = block(x)
            for up, block in zip(reversed(self.up), reversed(self.merge), strict=True):
                x = block(torch.cat([skips.pop(), up(x)], 1))
            return self.head(x)

    return TorchUNet()


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        raise InputError(
            "bench unet: PyTorch, the peer, is not installed; make bench-setup, or leave --against out"
        ) from None
