"""One training step of a ConvLSTM U-Net, ours against PyTorch's: `python -m launch.bench convlstm --against=torch`.

Both are the same network (32-64-128, a ConvLSTM and a 3x3 convolution per level on the way down, bilinear up-sampling
and two 3x3 convolutions on the way up, batch norm, one output) on one clip of five frames, with its loss (mean square)
and gradients, in float32; on a CPU PyTorch in channels_last. On a GPU ours computes in bfloat16 and PyTorch under
bfloat16 autocast.

Ours is timed with and without remat of the ConvLSTMs; each row says how much memory the compiled step takes per frame
beside its arguments and results.
"""

import functools
import importlib
import itertools
import os
from collections.abc import Callable
from typing import Any

from celltrack_jax.errors import InputError
from launch.benches import timing

SIZE = (1, 5, 160, 160)
"""(B, T, *S) of the clips."""
WIDTHS = (32, 64, 128)
REPEATS = 7


def run(against: str | None) -> list[dict[str, Any]]:
    """Times a step without and with remat, in turns with the peer's.

    Args:
      against: "torch", or None for ours alone.

    Returns:
      a row each, as `timing` makes them, with the memory per frame.

    Raises:
      InputError: the peer is not known or not installed.
    """
    if against not in (None, "torch"):
        raise InputError(f"bench convlstm: no peer {against!r}; give --against=torch or leave it out")
    peer = None if against is None else torch_step()
    rows = []
    for remat in (False, True):
        name = f"convlstm step, {'x'.join(map(str, SIZE))}" + ", remat" * remat
        step, memory = jax_step(remat)
        if peer is None:
            row = timing.alone_row(name, timing.alone(step, REPEATS))
        else:
            row = timing.interleaved(step, peer, REPEATS, warmup=2).row(name)
        rows.append(row | {"MB per frame": memory / 1e6})
    return rows


def jax_step(remat: bool) -> tuple[Callable[[], float], float]:
    """Returns our training step, which gives the loss, and the bytes per frame that it needs while it runs."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from celltrack_jax import models
    from celltrack_jax.models.functional import FunctionalModel, Variables

    levels = len(WIDTHS)
    model = FunctionalModel(
        functools.partial(
            models.build,
            "convlstm_unet",
            in_channels=1,
            heads={"out": 1},
            widths=WIDTHS,
            kernels=((3, 3),) * levels,
            pools=((2, 2),) * (levels - 1),
            stem=(1, 1),
            cell="czifan",
            recurrent=(True,) * levels,
            direction="forward",
            norm="batch",
            groups=1,
            activation="leaky_relu",
            truncate=0,
            remat=(remat,) * levels,
            upsample="bilinear",
            up_channels="keep",
            dtype="float32" if jax.default_backend() == "cpu" else "bfloat16",
        )
    )
    params, stats = jax.jit(model.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(*SIZE, 1)), jnp.float32) for _ in range(2))

    def loss(params, x, y):
        return jnp.mean((model.apply(Variables(params, stats), x, train=True)[0]["out"] - y) ** 2)

    step = jax.jit(jax.value_and_grad(loss)).lower(params, x, y).compile()
    batch, frames, *_ = SIZE
    memory: Any = step.memory_analysis()
    return lambda: float(jax.block_until_ready(step(params, x, y))[0]), memory.temp_size_in_bytes / (
        batch * frames
    )


def torch_step() -> Callable[[], float]:
    """Returns PyTorch's training step on as many threads as this process may use."""
    torch = _torch()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    model = torch_convlstm_unet(WIDTHS).to(device=device, memory_format=torch.channels_last)
    batch, frames, *space = SIZE
    x, y = (torch.randn(batch, frames, 1, *space, device=device) for _ in range(2))

    def once() -> float:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            out = model(x)
        loss = torch.nn.functional.mse_loss(out.float(), y)
        loss.backward()
        return loss.item()

    return once


def torch_convlstm_unet(widths: tuple[int, ...]) -> Any:
    """Returns the same network as a `torch.nn.Module`, (B, T, 1, Y, X) to the same; tests copy our weights into it."""
    torch = _torch()
    nn = torch.nn

    class ConvLSTM(nn.Module):
        def __init__(self, channels, width):
            super().__init__()
            self.gates = nn.Conv2d(channels + width, 4 * width, 3, padding=1, bias=False)
            self.width = width

        def forward(self, x):
            batch, _, _, *space = x.shape
            cell = hidden = x.new_zeros(batch, self.width, *space).to(memory_format=torch.channels_last)
            seen = []
            for frame in x.unbind(1):
                i, f, g, o = self.gates(torch.cat([frame, hidden], 1)).chunk(4, 1)
                cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * g
                hidden = torch.sigmoid(o) * torch.tanh(cell)
                seen.append(hidden)
            return torch.stack(seen, 1).flatten(0, 1)

    def normed(channels, width):
        return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    class TorchConvLSTMUNet(nn.Module):
        def __init__(self):
            super().__init__()
            before = (1, *widths[:-1])
            self.lstm = nn.ModuleList(map(ConvLSTM, before, widths))
            self.down = nn.ModuleList(normed(width, width) for width in widths)
            self.first = nn.ModuleList(
                nn.Conv2d(fine + coarse, fine, 3, padding=1) for fine, coarse in itertools.pairwise(widths)
            )
            self.second = nn.ModuleList(normed(width, width) for width in widths[:-1])
            self.up = nn.Upsample(scale_factor=2, mode="bilinear")
            self.head = nn.Conv2d(widths[0], 1, 1)

        def forward(self, x):
            clip = x.shape[:2]
            activate = nn.functional.leaky_relu
            skips = []
            for level, (lstm, convolve) in enumerate(zip(self.lstm, self.down, strict=True)):
                if level > 0:
                    skips.append(x)
                    x = nn.functional.max_pool2d(x, 2).unflatten(0, clip)
                x = activate(convolve(activate(lstm(x))))
            for first, second in zip(reversed(self.first), reversed(self.second), strict=True):
                x = torch.relu(second(first(torch.cat([skips.pop(), self.up(x)], 1))))
            return self.head(x).unflatten(0, clip)

    return TorchConvLSTMUNet()


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        raise InputError(
            "bench convlstm: PyTorch, the peer, is not installed; make bench-setup, or leave --against out"
        ) from None
