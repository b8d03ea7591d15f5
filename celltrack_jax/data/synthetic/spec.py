"""Every knob of a synthetic movie.

Shapes: D axes of the field, 2 or 3.
"""

from dataclasses import dataclass, fields

import numpy as np

from celltrack_jax.errors import InputError

MARGIN_RADII = 1.5
"""Nuclei live in the field plus this many radii on every side, so that they can leave and enter."""


@dataclass(frozen=True)
class SyntheticSpec:
    """Every knob of a synthetic movie. Lengths in µm, times in frames, light in photons."""

    frames: int = 30
    shape: tuple[int, ...] = (256, 256)
    """Field in voxels, (Y, X) or (Z, Y, X)."""
    spacing_um: tuple[float, ...] = (0.5, 0.5)
    """Size of a voxel along each axis of `shape`."""

    cells: int = 25
    """Nuclei expected in the field of frame 0."""
    radius_um: float = 6.0
    """Radius of a nucleus half way through its cycle."""
    cell_cycle_frames: float = 40.0
    """Mean frames between divisions; phases start uniform, so about frames/cycle of the nuclei divide."""
    cell_cycle_spread: float = 0.15
    """Standard deviation of the logarithm of a nucleus' cycle."""
    mitosis_frames: int = 2
    """Frames of condensation before a division, and of relaxation after it."""
    confluence: float = 0.6
    """No nucleus enters mitosis while nuclei fill more than this share of the space."""

    speed_um: float = 0.8
    """Standard deviation of the walk's velocity per axis and frame."""
    persistence: float = 0.7
    """Share of the velocity kept from frame to frame."""
    max_step_um: float = 4.0
    """No nucleus moves farther between two frames, pushes of its neighbours included."""
    separation: float = 0.95
    """Centres are pushed apart to this share of the sum of the radii: nuclei touch, and flatten a little."""
    elongation: float = 0.18
    """Standard deviation of the logarithm of each semi-axis."""
    roughness: float = 0.06
    """Standard deviation of each wave of the outline, relative to the radius."""
    turn_rad: float = 0.1
    """Standard deviation of the rotation per frame."""
    visible_fraction: float = 0.1
    """A nucleus is drawn and labelled when at least this share of its volume is inside the field."""

    background_photons: float = 20.0
    """Photons of a voxel without nuclei at the centre of the field, not bleached."""
    contrast: float = 1.5
    """Light of a mean nucleus in frame 0 relative to the background."""
    brightness_spread: float = 0.35
    """Standard deviation of the logarithm of brightness between nuclei."""
    texture: float = 0.3
    """Standard deviation of the chromatin texture relative to a nucleus' brightness."""
    haze: float = 0.15
    """Share of the nuclei's light that arrives out of focus, blurred over one radius."""
    psf_um: tuple[float, ...] = (0.6, 0.6)
    """Standard deviation of the Gaussian point spread function along each axis."""
    illumination: float = 0.35
    """Fall of the light from the brightest place of the field to its farthest corner."""
    bleaching: float = 0.01
    """Share of the nuclei's light lost per frame."""
    read_noise: float = 2.0
    """Standard deviation of the camera's noise in photons."""
    counts_per_photon: float = 4.0
    offset_counts: float = 100.0

    def __post_init__(self):
        D = len(self.shape)
        if D not in (2, 3) or len(self.spacing_um) != D or len(self.psf_um) != D:
            raise InputError(
                f"synthetic spec: shape {self.shape}, spacing_um {self.spacing_um} and psf_um {self.psf_um} "
                "need one entry per axis, for 2 or 3 axes"
            )
        if self.frames < 1 or min(self.shape) < 1 or min(self.spacing_um) <= 0 or self.radius_um <= 0:
            raise InputError("synthetic spec: frames, shape, spacing_um and radius_um must be positive")
        for field in fields(self):
            value = getattr(self, field.name)
            if np.min(value) < 0:
                raise InputError(f"synthetic spec: {field.name}={value} must not be negative")
        if self.cell_cycle_frames <= 2 * self.mitosis_frames:
            raise InputError(
                f"synthetic spec: cell_cycle_frames={self.cell_cycle_frames} must exceed two times "
                f"mitosis_frames={self.mitosis_frames}"
            )

    @property
    def field_um(self) -> np.ndarray:
        """(D,) float64, size of the field."""
        return np.multiply(self.shape, self.spacing_um).astype(np.float64)

    @property
    def domain_um(self) -> tuple[np.ndarray, np.ndarray]:
        """((D,), (D,)) float64, corners of the space that nuclei live in."""
        margin = MARGIN_RADII * self.radius_um
        return np.full(len(self.shape), -margin), self.field_um + margin
