"""How cells are written as a dense map: one file per way.

A representation says how labels become a target, what a prediction costs, and how it is read back. It is
chosen by name in a config, and the file of that name in this folder holds it.

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), C channels of the representation. All lengths of a
representation are in the unit of the spacing that it is given: tasks count in the smallest edge of a voxel (pixels in
2D), so that lengths mean the same whether or not the microscope's spacing is known, or in µm where a config says so.
D number of axes of S, K points of a crop, N points of a frame.
"""

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from celltrack_jax import config


class Target(NamedTuple):
    """What the network should answer, and where the answer is known."""

    value: jax.Array
    """(*S, C) float32; for class maps (*S, 1) with the class index."""
    weight: jax.Array
    """(*S, 1) float32 factor of each pixel's loss; 0 where the truth is unknown."""


class Representation(Protocol):
    """The protocol that tasks and inference know."""

    @property
    def channels(self) -> int:
        """Channels that the network's head predicts."""
        ...

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """Makes the target of one sample; traced into the training step, vmapped by the caller.

        Args:
          labels: (*S) int32: cells 1.., 0 background, -1 unknown.
          spacing: (ndim,) float32, pixel size along each axis of S.
        """
        ...

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Compares the network's raw output with targets; pixels of weight 0 count nowhere, exactly.

        Args:
          prediction: (B, *S, C) float32, raw output: logits where the representation says so.
          target: values and weights of the batch.
          step: () int32, training steps done.

        Returns:
          () float32 loss, finite also without a known pixel, and scalar metrics.
        """
        ...

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """Reads cells from the raw output for one frame; runs on the host, thread-safe.

        Args:
          prediction: (*S, C) float32.
          spacing: (ndim,) pixel size along each axis of S.

        Returns:
          (*S) int32: cells 1..K, 0 background.
        """
        ...

    def perfect(self, target: Target) -> jax.Array:
        """The raw output of a network that predicts the target exactly: (*S, C) float32."""
        ...


class Found(NamedTuple):
    """Points read from one frame, from the surest down."""

    position: np.ndarray
    """(N, D) float32, sub-pixel index."""
    heat: np.ndarray
    """(N,) float32, how sure the network is."""
    step: np.ndarray | None
    """(N, D) float32, to the cell's place in the next frame, in the unit of the spacing; None if it is not learned."""


@runtime_checkable
class PointRepresentation(Representation, Protocol):
    """A representation that also learns from points and is read as points: what the task "detect" takes.

    It is a frozen dataclass. If it has a field `around`, offsets of other frames, `point_target` gets their points too,
    as a last argument (F, K, D).
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def axes(self) -> int:
        """D."""
        ...

    @property
    def max_cells(self) -> int:
        """K."""
        ...

    @property
    def threshold(self) -> float:
        """The least heat of a point."""
        ...

    @property
    def has_threshold(self) -> bool:
        """Whether reading depends on `threshold`, so that one can be chosen."""
        ...

    @property
    def learns_steps(self) -> bool:
        """Whether points come with their step to the next frame."""
        ...

    @property
    def directed(self) -> bool:
        """Whether channels have directions, so that what is predicted for a mirrored image is not the mirror image."""
        ...

    def point_target(
        self, points: jax.Array, steps: jax.Array, known: jax.Array, spacing: jax.Array
    ) -> Target:
        """Makes the target of one sample's points; traced into the training step, vmapped by the caller.

        Args:
          points: (K, D) float32 index, also outside of the map; NaN for none.
          steps: (K, D) float32 pixels to the place in the next frame, NaN where unknown.
          known: (*S) int32, -1 where the truth is unknown.
          spacing: (D,) float32.
        """
        ...

    def read(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """Reads the raw output of one frame, as `decode` does; thread-safe.

        Returns:
          (*S) int32 labels, and the points: label k + 1 is that of point k, unless others cover it.
        """
        ...

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> Found:
        """Reads the points alone."""
        ...


@runtime_checkable
class VectorRepresentation(Representation, Protocol):
    """A representation whose channels hold a vector, and else scalars: both are known for a turned image."""

    @property
    def vector(self) -> tuple[int, ...]:
        """Channels that are the components of the vector, one per axis of S."""
        ...


def build(name: str, **kwargs) -> Representation:
    """Makes the representation of `celltrack_jax/representations/<name>.py` by its `build(**kwargs)`.

    Raises:
      InputError: there is no such file, or its constants are not the given ones.
    """
    return config.build("representations", name, **kwargs)
