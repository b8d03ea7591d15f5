"""U-Net over clips whose encoder remembers: ConvLSTMs on the way down (Arbelle & Riklin Raviv 2019, arXiv:1805.11247).

Shapes: B batch, T frames, *S spatial axes (y, x) or (z, y, x), C channels; channels last. Levels count from the finest,
0. Frames are folded into the batch, B-major, wherever nothing passes between them, so that a batch that is split over
devices stays so.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.errors import InputError
from celltrack_jax.models import encoder_decoder, layers
from celltrack_jax.ops import blocks, convlstm, sampling

STATE = "state"
"""Name of the entry that holds the recurrent state, among the heads."""
DIRECTIONS = ("forward", "both")
_CONVS = 2
"""Convolutions of a level that see around a pixel of the same frame, on the way down and again on the way up."""


def build(rngs: nnx.Rngs, **kwargs) -> "ConvLSTMUNet":
    """Builds a `ConvLSTMUNet`."""
    check_settings(ConvLSTMUNet.__init__, "models/convlstm_unet", None, rngs, **kwargs)
    return ConvLSTMUNet(rngs, **kwargs)


class ConvLSTMUNet(nnx.Module):
    """Encoder of ConvLSTMs over the clip, decoder with skips per frame, and one 1x1 convolution per head.

    Parameters, normalisation statistics and cell states are float32, whatever the compute dtype.
    """

    sees_clips = True
    """Its inputs have T behind B."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int,
        heads: Mapping[str, int],
        widths: Sequence[int],
        kernels: Sequence[Sequence[int]],
        pools: Sequence[Sequence[int]],
        stem: Sequence[int],
        cell: Literal["standard", "czifan"],
        recurrent: Sequence[bool],
        direction: Literal["forward", "both"],
        norm: Literal["group", "instance", "batch", "none"],
        groups: int,
        activation: str,
        truncate: int,
        remat: Sequence[bool],
        upsample: Literal["transposed", "overlapping", "bilinear", "nearest"],
        up_channels: Literal["halve", "keep"],
        dtype: str,
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          in_channels: channels of a frame.
          heads: channels of each named output.
          widths: channels of each level; their number is the depth.
          kernels: convolution kernel of each level, odd sizes, of its ConvLSTM too.
          pools: pool window from each level to the next coarser one; one fewer than levels.
          stem: as `unet.UNet` has it: a window whose pixels become channels of the finest level.
          cell: a key of `ops.convlstm.CELLS`: "standard" as Flax has it, "czifan" without tanh at the candidate, without
            bias and without the 1 that the forget gate starts at.
          recurrent: per level, whether its first convolution is a ConvLSTM.
          direction: "forward", or "both" for a second ConvLSTM that reads the clip backwards; a 1x1 convolution joins
            what the two remember.
          norm: which statistics normalise; those of "batch" are the whole clip's, the others' a frame's.
          groups: channel groups of norm "group".
          activation: a key of `layers.ACTIVATIONS`, of the encoder; the decoder has ReLU.
          truncate: gradients stop every so many frames, and do not reach a given state; 0 for never.
          remat: per level, whether the gates of its ConvLSTM are computed again in the backward pass, frame by frame.
          upsample: as `unet.UNet` has it.
          up_channels: likewise.
          dtype: compute dtype, "float32" or "bfloat16".

        Raises:
          InputError: the arguments contradict each other.
        """
        self.kernels = tuple(tuple(kernel) for kernel in kernels)
        self.pools = tuple(tuple(pool) for pool in pools)
        self.direction, self.upsample, self.dtype = direction, upsample, jnp.dtype(dtype)
        self.stem = tuple(stem)
        encoder_decoder.check_levels(widths, self.kernels, self.pools, self.stem, remat)
        layers.check_layers(
            norm=norm, activation=activation, heads=heads, upsample=upsample, up_channels=up_channels
        )
        _check_recurrence(cell, recurrent, direction, truncate, widths, heads)

        lstm: dict[str, Any] = dict(cell=cell, both=direction == "both", truncate=truncate, dtype=self.dtype)
        layer: dict[str, Any] = dict(norm=norm, groups=groups, dtype=self.dtype)
        self.down = nnx.List(
            Encoder(
                rngs,
                channels,
                width,
                kernel,
                lstm | dict(remat=again) if remembers else None,
                activation,
                layer,
            )
            for channels, width, kernel, remembers, again in zip(
                (math.prod(self.stem) * in_channels, *widths),
                widths,
                self.kernels,
                recurrent,
                remat,
                strict=False,
            )
        )
        risen = widths[1:] if up_channels == "keep" else widths[:-1]
        self.up = nnx.List(
            layers.Upsample(rngs, coarse, width, pool, upsample, self.dtype, kernel)
            for coarse, width, pool, kernel in zip(widths[1:], risen, self.pools, self.kernels, strict=False)
        )
        self.merge = nnx.List(
            Decoder(rngs, width + up, width, kernel, layer)
            for width, up, kernel in zip(widths, risen, self.kernels, strict=False)
        )
        pixels = math.prod(self.stem)
        self.heads = nnx.Dict({name: layers.Head(rngs, widths[0], pixels * n) for name, n in heads.items()})

    def __call__(self, x: jax.Array, state: Any = None, train: bool = False) -> dict[str, Any]:
        """Applies the network.

        Args:
          x: (B, T, *S, C) floats, *S divisible by `stride`.
          state: what the clip before left under "state"; None starts with zeros.
          train: batch normalisation uses the clip's own statistics and updates the running ones.

        Returns:
          per head (B, T, *S, channels) float32, and "state": per recurrent level of direction "forward" an
          `ops.convlstm.State` behind the last frame, () elsewhere.

        Raises:
          InputError: S is not divisible by the stride, or a state is given to direction "both", whose second ConvLSTM
            would need that of the clip behind.
        """
        if state is not None and self.direction == "both":
            raise InputError(
                "ConvLSTM U-Net: direction 'both' reads each clip alone: give no state, or set direction to 'forward'"
            )
        encoder_decoder.check_input(x.shape[2:-1], self.stride, x.shape)
        clip = (x.shape[0], x.shape[1])
        x = blocks.space_to_depth(x.reshape(-1, *x.shape[2:]), self.stem).astype(self.dtype)
        skips, states = [], []
        for level, encoder in enumerate(self.down):
            if level > 0:
                skips.append(x)
                x = sampling.max_pool(x, self.pools[level - 1])
            x, after = encoder(x, clip, () if state is None else state[level], train)
            states.append(after)
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            x = merge(jnp.concatenate([skips.pop(), up(x)], -1), train)
        outputs = {name: blocks.depth_to_space(head(x), self.stem) for name, head in self.heads.items()}
        return {name: y.reshape(*clip, *y.shape[1:]) for name, y in outputs.items()} | {STATE: tuple(states)}

    @property
    def stride(self) -> tuple[int, ...]:
        """Total pooling per axis: a frame's sizes must be multiples of it."""
        return tuple(math.prod(sizes) for sizes in zip(self.stem, *self.pools, strict=True))

    @property
    def receptive_radius(self) -> tuple[int, ...]:
        """Per axis, how far the farthest pixel of the same frame is that an output pixel sees through convolutions.

        States carry further: with every frame between by half a kernel of each recurrent level, in that level's pixels.
        Group and instance normalisation see the whole frame, as in `unet.UNet`.
        """
        return encoder_decoder.receptive_radius(self.kernels, self.pools, self.stem, _CONVS, self.upsample)


class Encoder(nnx.Module):
    """ConvLSTM or convolution, activation, convolution, normalisation, activation."""

    def __init__(self, rngs, channels, width, kernel, lstm, activation, layer: dict[str, Any]):
        self.activation = activation
        self.first = (
            layers.Convolution(rngs, channels, width, kernel, bias=True, dtype=layer["dtype"])
            if lstm is None
            else ConvLSTM(rngs, channels, width, kernel, **lstm)
        )
        self.second = NormedConvolution(rngs, width, width, kernel, **layer)

    def __call__(self, x: jax.Array, clip: tuple[int, int], state: Any, train: bool) -> tuple[jax.Array, Any]:
        """(B T, *S, channels) to (B T, *S, width) and the state behind the clip, whose (B, T) are given."""
        activate = layers.ACTIVATIONS[self.activation]
        x, state = self.first(x, clip, state) if isinstance(self.first, ConvLSTM) else (self.first(x), ())
        return activate(self.second(activate(x), train)), state


class Decoder(nnx.Module):
    """Two convolutions, normalisation, ReLU."""

    def __init__(self, rngs, channels, width, kernel, layer: dict[str, Any]):
        self.first = layers.Convolution(rngs, channels, width, kernel, bias=True, dtype=layer["dtype"])
        self.second = NormedConvolution(rngs, width, width, kernel, **layer)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B T, *S, channels) to (B T, *S, width)."""
        return jax.nn.relu(self.second(self.first(x), train))


class NormedConvolution(nnx.Module):
    """Convolution and normalisation; a bias only where none follows."""

    def __init__(self, rngs, channels, width, kernel, *, norm, groups, dtype):
        self.convolution = layers.Convolution(rngs, channels, width, kernel, bias=norm == "none", dtype=dtype)
        self.norm = None if norm == "none" else layers.Norm(norm, width, groups, affine=True)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B T, *S, channels) to (B T, *S, width)."""
        x = self.convolution(x)
        return x if self.norm is None else self.norm(x, train)


class ConvLSTM(nnx.Module):
    """Reads a clip forwards, or both ways with a 1x1 convolution that joins the hidden states."""

    def __init__(self, rngs, channels, width, kernel, *, cell, both, truncate, remat, dtype):
        self.cell, self.truncate, self.remat, self.dtype = convlstm.CELLS[cell], truncate, remat, dtype
        self.width = width
        self.cells = nnx.List(
            Gates(rngs, channels, width, kernel, self.cell.bias, dtype) for _ in range(1 + both)
        )
        ones = (1,) * len(kernel)
        self.join = layers.Convolution(rngs, 2 * width, width, ones, bias=True, dtype=dtype) if both else None

    def __call__(self, x: jax.Array, clip: tuple[int, int], state: Any) -> tuple[jax.Array, Any]:
        """(B T, *S, channels) to (B T, *S, width) and the state behind the clip; () starts with zeros."""
        x = x.reshape(*clip, *x.shape[1:])
        if not state:
            shape = (clip[0], *x.shape[2:-1], self.width)
            state = convlstm.State(jnp.zeros(shape), jnp.zeros(shape, self.dtype))
        read = [
            convlstm.recur(
                x,
                cell.weights(),
                state,
                self.cell,
                truncate=self.truncate,
                reverse=backwards,
                remat=self.remat,
            )
            for backwards, cell in zip((False, True), self.cells, strict=False)
        ]
        hidden, states = zip(*read, strict=True)
        folded = jnp.concatenate([h.reshape(-1, *h.shape[2:]) for h in hidden], -1)
        return (folded, states[0]) if self.join is None else (self.join(folded), ())


class Gates(nnx.Module):
    """The learned part of a ConvLSTM: 4 gates from the frame and from the hidden state."""

    def __init__(self, rngs, channels, width, kernel, bias, dtype):
        self.dtype = dtype
        # Both parts add up to one gate: as one kernel of both, fan-in included.
        whole = nnx.initializers.lecun_normal()(rngs.params(), (*kernel, channels + width, 4 * width))
        self.of_input = nnx.Param(whole[..., :channels, :])
        self.of_hidden = nnx.Param(whole[..., channels:, :])
        self.bias = nnx.Param(jnp.zeros(4 * width)) if bias else None

    def weights(self) -> convlstm.Weights:
        """Returns them in the compute dtype."""
        bias = None if self.bias is None else self.bias[...].astype(self.dtype)
        of_input, of_hidden = (kernel[...].astype(self.dtype) for kernel in (self.of_input, self.of_hidden))
        return convlstm.Weights(of_input, of_hidden, bias)


def _check_recurrence(cell, recurrent, direction, truncate, widths, heads):
    """Raises InputError where an argument of `ConvLSTMUNet` that `UNet` lacks is out of range."""
    _refuse(cell not in convlstm.CELLS, f"cell {cell!r} is none of {tuple(convlstm.CELLS)}")
    _refuse(
        len(recurrent) != len(widths),
        f"{len(recurrent)} recurrent flags for {len(widths)} levels: give one per level",
    )
    _refuse(direction not in DIRECTIONS, f"direction {direction!r} is none of {DIRECTIONS}")
    _refuse(truncate < 0, f"truncate {truncate} must not be negative; 0 never cuts")
    _refuse(STATE in heads, f"a head may not be called {STATE!r}: that is the recurrent state")


def _refuse(fault: bool, text: str) -> None:
    if fault:
        raise InputError(f"ConvLSTM U-Net: {text}")
