"""What a camera sees of synthetic nuclei: outlines, texture, blur, uneven light, noise.

Shapes: S the field (Y, X) or (Z, Y, X), D its number of axes, N nuclei, V voxels of one nucleus.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage import measure

from celltrack_jax.data.synthetic.nuclei import WAVES, Nuclei, ball_volume
from celltrack_jax.data.synthetic.spec import SyntheticSpec

CONDENSED_GAIN = 1.7
"""Brightness of a fully condensed (mitotic) nucleus relative to interphase."""
CONDENSED_ASPECT = 0.65
"""Thickness along the division axis of a fully condensed nucleus relative to its radius (metaphase plate)."""


def draw(nuclei: Nuclei, spec: SyntheticSpec) -> tuple[np.ndarray, np.ndarray]:
    """Draws one frame.

    Returns:
      (*S) int32, the index of the nucleus at each voxel plus 1, 0 for none; and (*S) float32, its light in
      units of a mean nucleus.
    """
    nearest = np.full(spec.shape, 1.0, np.float32)  # normalised distance from the centre; 1 is the outline
    owner = np.zeros(spec.shape, np.int32)
    windows = {}
    volumes = np.zeros(len(nuclei.identity))
    for index in range(len(nuclei.identity)):
        shape = _shape(nuclei, index, spec)
        volumes[index] = shape.volume
        window = _window(shape, nuclei.position[index], spec)
        if window is None:
            continue
        body, distance = _body_coordinates(shape, nuclei.position[index], window, spec)
        inside = distance < nearest[window]
        nearest[window][inside] = distance[inside]
        owner[window][inside] = index + 1
        windows[index] = (window, body, distance)

    signal = np.zeros(spec.shape, np.float32)
    condensed = nuclei.condensation(spec)
    for index, (window, body, distance) in windows.items():
        own = _largest_part(owner[window], index + 1)
        if own.sum() < max(4.0, spec.visible_fraction * volumes[index]):
            owner[window][owner[window] == index + 1] = 0
            continue
        owner[window][(owner[window] == index + 1) & ~own] = 0
        signal[window][own] = _light(
            nuclei.take(index), body[:, own], distance[own], float(condensed[index]), spec
        )
    return owner, signal


class _Shape(NamedTuple):
    """Outline of one nucleus: an ellipsoid with waves around it."""

    axes: np.ndarray  # (D, D) body frame
    semi: np.ndarray  # (D,) µm
    bump_axis: np.ndarray  # (BUMPS, D)
    bump: np.ndarray  # (BUMPS,)
    volume: float  # voxels


def _shape(nuclei: Nuclei, index: int, spec: SyntheticSpec) -> _Shape:
    D = nuclei.position.shape[1]
    condensed = float(nuclei.condensation(spec)[index])
    plate = np.full(D, -np.log(CONDENSED_ASPECT) / (D - 1))
    plate[0] = np.log(CONDENSED_ASPECT)
    semi = np.exp((1 - condensed) * nuclei.elongation[index] + condensed * plate) * nuclei.radius(spec)[index]
    volume = ball_volume(D) * float(np.prod(semi / np.asarray(spec.spacing_um)))
    return _Shape(nuclei.frame_axes[index], semi, nuclei.bump_axis[index], nuclei.bump[index], volume)


def _window(shape: _Shape, position: np.ndarray, spec: SyntheticSpec) -> tuple[slice, ...] | None:
    reach = float(shape.semi.max()) * (1 + float(np.abs(shape.bump).sum()))
    low = np.maximum(np.floor((position - reach) / spec.spacing_um).astype(int), 0)
    high = np.minimum(np.ceil((position + reach) / spec.spacing_um).astype(int) + 1, spec.shape)
    if np.any(high <= low):
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _body_coordinates(
    shape: _Shape, position: np.ndarray, window: tuple[slice, ...], spec: SyntheticSpec
) -> tuple[np.ndarray, np.ndarray]:
    """(D, *window) coordinates of voxels in semi-axes, and (*window) distance, 1 at the outline."""
    D = len(position)
    grid = np.meshgrid(
        *(
            (np.arange(w.start, w.stop) * step - centre).astype(np.float32)
            for w, step, centre in zip(window, spec.spacing_um, position, strict=True)
        ),
        indexing="ij",
    )
    body = np.tensordot((shape.axes / shape.semi).T.astype(np.float32), np.stack(grid), axes=1)
    radial = np.sqrt(np.sum(body**2, axis=0))
    direction = body / np.maximum(radial, 1e-6)
    outline = np.ones_like(radial)
    for wave, (axis, amplitude) in enumerate(zip(shape.bump_axis, shape.bump, strict=True)):
        along = np.tensordot(axis.astype(np.float32), direction, axes=1)
        outline += np.float32(amplitude) * np.cos(np.float32(wave + 2) * along + np.float32(D * wave))
    return body, radial / np.maximum(outline, 0.3)


def _largest_part(owner: np.ndarray, label: int) -> np.ndarray:
    """(*window) bool: where the owner is the label, without islands that a neighbour has cut off."""
    own = owner == label
    if not np.any((owner != label) & (owner != 0)):
        return own
    parts = np.asarray(measure.label(own, connectivity=1))
    if parts.max() < 2:
        return own
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _light(
    nucleus: Nuclei, body: np.ndarray, distance: np.ndarray, condensed: float, spec: SyntheticSpec
) -> np.ndarray:
    """(V,) float32: light of one nucleus' voxels at body coordinates (D, V) and outline distances (V,)."""
    waves = np.cos(nucleus.wave.astype(np.float32) @ body + nucleus.wave_phase[:, None].astype(np.float32))
    texture = waves.sum(axis=0) * np.float32(np.sqrt(2 / WAVES))
    # A nucleus is thicker in its middle; the square root keeps the rim visible, as in wide-field images.
    thickness = 0.7 + 0.45 * np.sqrt(np.maximum(1 - distance**2, 0))
    gain = np.exp(nucleus.brightness) * (1 + (CONDENSED_GAIN - 1) * condensed)
    light = gain * thickness * (1 + (1 - condensed) * spec.texture * texture)
    return np.maximum(light, 0.05).astype(np.float32)


def illumination(spec: SyntheticSpec, rng: np.random.Generator) -> np.ndarray:
    """(*S) float32, 1 at the brightest place and 1 - illumination at the corner farthest from it.

    It varies along Y and X only: the lamp lights all planes alike.
    """
    centre = rng.uniform(0.25, 0.75, 2)
    y, x = (np.linspace(0, 1, n, dtype=np.float32) - c for n, c in zip(spec.shape[-2:], centre, strict=True))
    squared = y[:, None] ** 2 + x[None] ** 2
    plane = 1 - spec.illumination * squared / max(float(squared.max()), 1e-6)
    return np.broadcast_to(plane, spec.shape).astype(np.float32)


def expose(signal: np.ndarray, lit: np.ndarray, spec: SyntheticSpec, rng: np.random.Generator) -> np.ndarray:
    """(*S) uint16: what the camera makes of the nuclei's light (*S) in units of a mean nucleus."""
    psf = np.divide(spec.psf_um, spec.spacing_um)
    sharp = ndimage.gaussian_filter(signal, psf, mode="nearest", truncate=3)
    if spec.haze:
        wide = np.divide(spec.radius_um, spec.spacing_um)
        sharp = (1 - spec.haze) * sharp + spec.haze * ndimage.gaussian_filter(
            signal, wide, mode="constant", truncate=2
        )
    photons = spec.background_photons * lit * (1 + spec.contrast * sharp)
    noisy = rng.poisson(photons) + spec.read_noise * rng.standard_normal(spec.shape, np.float32)
    counts = np.rint(spec.offset_counts + spec.counts_per_photon * noisy)
    return np.clip(counts, 0, np.iinfo(np.uint16).max).astype(np.uint16)
