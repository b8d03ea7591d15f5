"""Mask R-CNN (He et al. 2017, arXiv:1703.06870): a feature pyramid, and heads that tell boxes, classes and masks.

The network has three parts, and which one is called is told by what it is called with: an image, `BoxRegions` or
`MaskRegions`. What lies between them (proposals, samples, suppression) is the task's, `tasks/mask_rcnn.py`.

Shapes: B batch, Y, X an image's size, L levels of the pyramid, h, w a level's size, A anchors per place, F channels of
the pyramid, R boxes of an image, N classes of cells, m pixels of a mask along each axis.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.errors import InputError
from celltrack_jax.models import layers
from celltrack_jax.models.feature_pyramid import LEVELS, FeaturePyramid
from celltrack_jax.ops import roi_align

BOX_SIZE = 7
"""Pixels along each axis of the features that the box head sees."""
MASK_SIZE = 28
"""m: twice those that the mask head sees."""
_WEIGHTS_STD = 0.01
"""Of the layers that end in numbers of boxes: they begin near their priors."""
_FOREGROUND_PRIOR = 0.25
"""Of a region: the share of positives that is drawn."""


class Image(NamedTuple):
    """What the network says of an image."""

    pyramid: tuple[jax.Array, ...]
    """L levels (B, h, w, F) of the compute dtype, the finest first."""
    objectness: list[jax.Array]
    """Per level (B, h * w * A) float32 logits, in the order of `ops.anchors`."""
    deltas: list[jax.Array]
    """Per level (B, h * w * A, 4) float32."""


class BoxRegions(NamedTuple):
    """Boxes of which class and true place are asked."""

    pyramid: tuple[jax.Array, ...]
    boxes: jax.Array
    """(B, R, 4) float32."""


class MaskRegions(NamedTuple):
    """Boxes of which masks are asked."""

    pyramid: tuple[jax.Array, ...]
    boxes: jax.Array
    """(B, R, 4) float32."""


class BoxOutputs(NamedTuple):
    """What the network says of boxes."""

    logits: jax.Array
    """(B, R, 1 + N) float32, of background and of each class."""
    deltas: jax.Array
    """(B, R, N, 4) float32, one set per class."""


def build(rngs: nnx.Rngs, **kwargs) -> "MaskRCNN":
    """Builds a `MaskRCNN`."""
    check_settings(MaskRCNN.__init__, "models/mask_rcnn", None, rngs, **kwargs)
    return MaskRCNN(rngs, **kwargs)


class MaskRCNN(nnx.Module):
    """The network, as a function of three kinds of input."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int,
        classes: int,
        anchors: int,
        depth: int,
        widths: Sequence[int],
        channels: int,
        stem_kernel: int,
        stem_strides: tuple[int, int],
        norm: str,
        groups: int,
        hidden: int,
        mask_convs: int,
        samples: int,
        finest_px: float,
        prior: float,
        dtype: str,
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          in_channels: of the images.
          classes: N.
          anchors: A.
          depth: as of `FeaturePyramid`, like widths, channels, stem_kernel, stem_strides, norm, groups.
          widths: of the ResNet's stages.
          channels: F.
          stem_kernel: of the first convolution.
          stem_strides: of the first convolution and of the pooling behind it.
          norm: of the ResNet.
          groups: of group norm.
          hidden: width of the box head's two layers.
          mask_convs: 3x3 convolutions of the mask head.
          samples: of `ops.roi_align`, along each axis of a made pixel.
          finest_px: boxes smaller than this are read from the finest level; 112 in the paper, at stride 4.
          prior: of an anchor to be an object, at the start.
          dtype: compute dtype of pyramid and mask head, "float32" or "bfloat16".

        Raises:
          InputError: a setting is out of its range.
        """
        if not 0 < prior < 1:
            raise InputError(f"Mask R-CNN: prior {prior} must lie in (0, 1)")
        if min(classes, anchors, hidden, samples) < 1:
            raise InputError(
                f"Mask R-CNN: classes {classes}, anchors {anchors}, hidden {hidden}, samples {samples} must be positive"
            )
        self.classes, self.samples, self.finest_px = classes, samples, finest_px
        self.dtype = jnp.dtype(dtype)
        self.pyramid = FeaturePyramid(
            rngs,
            in_channels=in_channels,
            depth=depth,
            widths=widths,
            channels=channels,
            stem_kernel=stem_kernel,
            stem_strides=stem_strides,
            norm=norm,
            groups=groups,
            dtype=dtype,
        )
        three = {"kernel": (3, 3), "bias": True, "dtype": self.dtype}
        self.propose = layers.Convolution(rngs, channels, channels, **three)
        self.objectness = Linear(rngs, channels, anchors, math.log(prior / (1 - prior)))
        self.anchor_deltas = Linear(rngs, channels, 4 * anchors)
        self.first = Linear(rngs, BOX_SIZE**2 * channels, hidden, std=math.sqrt(2 / (BOX_SIZE**2 * channels)))
        self.second = Linear(rngs, hidden, hidden, std=math.sqrt(2 / hidden))
        self.logits = Linear(rngs, hidden, 1 + classes)
        odds = (1 - _FOREGROUND_PRIOR) / (_FOREGROUND_PRIOR / classes)
        self.logits.bias[...] = self.logits.bias[...].at[0].set(math.log(odds))
        self.box_deltas = Linear(rngs, hidden, 4 * classes, std=_WEIGHTS_STD / 10)
        self.mask_convs = nnx.List(
            layers.Convolution(rngs, channels, channels, **three) for _ in range(mask_convs)
        )
        self.upsample = layers.Upsample(rngs, channels, channels, (2, 2), "transposed", self.dtype)
        self.masks = Linear(rngs, channels, classes)

    def __call__(self, x: Any, train: bool = False) -> Any:
        """Applies one part of the network.

        Args:
          x: (B, Y, X, in_channels) floats, Y and X multiples of `stride`, or `BoxRegions`, or `MaskRegions`.
          train: as of `FeaturePyramid`; for images alone.

        Returns:
          `Image`, `BoxOutputs`, or (B, R, m, m, N) float32 logits of masks.
        """
        if isinstance(x, BoxRegions):
            return self._boxes(x)
        if isinstance(x, MaskRegions):
            return self._masks(x)
        return self._image(x, train)

    @property
    def stride(self) -> tuple[int, int]:
        """Images have to be multiples of it."""
        coarsest = self.pyramid.strides[-2]
        return (coarsest, coarsest)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per pixel of each of the L levels."""
        return self.pyramid.strides

    def _image(self, x: jax.Array, train: bool) -> Image:
        pyramid = self.pyramid(x, train)
        objectness, deltas = [], []
        for level in pyramid:
            seen = jax.nn.relu(self.propose(level))
            objectness.append(self.objectness(seen).reshape(len(x), -1))
            deltas.append(self.anchor_deltas(seen).reshape(len(x), -1, 4))
        return Image(pyramid, objectness, deltas)

    def _boxes(self, regions: BoxRegions) -> BoxOutputs:
        seen = self._aligned(regions, BOX_SIZE)
        seen = seen.reshape(*seen.shape[:2], -1)
        seen = jax.nn.relu(self.second(jax.nn.relu(self.first(seen))))
        deltas = self.box_deltas(seen)
        return BoxOutputs(self.logits(seen), deltas.reshape(*deltas.shape[:2], self.classes, 4))

    def _masks(self, regions: MaskRegions) -> jax.Array:
        seen = self._aligned(regions, MASK_SIZE // 2)
        leading = seen.shape[:2]
        seen = seen.reshape(-1, *seen.shape[2:])
        for convolution in self.mask_convs:
            seen = jax.nn.relu(convolution(seen))
        made = self.masks(jax.nn.relu(self.upsample(seen)))
        return made.reshape(*leading, *made.shape[1:])

    def _aligned(self, regions: BoxRegions | MaskRegions, size: int) -> jax.Array:
        """(B, R, size, size, F) from all levels but the last, which is for proposals alone."""
        levels = LEVELS - 1

        def align(pyramid: tuple[jax.Array, ...], boxes: jax.Array) -> jax.Array:
            return roi_align.roi_align(
                pyramid,
                boxes,
                self.strides[:levels],
                size=size,
                samples=self.samples,
                finest_px=self.finest_px,
            )

        return jax.vmap(align)(regions.pyramid[:levels], regions.boxes)


class Linear(nnx.Module):
    """x W + b in float32; normal weights, and a bias of one value."""

    def __init__(self, rngs, inputs, outputs, bias=0.0, std=_WEIGHTS_STD):
        self.kernel = nnx.Param(nnx.initializers.normal(std)(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.full(outputs, bias))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) to (..., outputs) float32."""
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...]
