"""The life of synthetic nuclei: they walk, push, turn, deform, grow and divide. No voxels here.

Shapes: D axes of the field (2 or 3), N nuclei. Positions in µm from the centre of the field's first voxel.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from celltrack_jax.data.synthetic.spec import SyntheticSpec
from celltrack_jax.errors import InputError

WAVES = 10
"""Plane waves that make up a nucleus' texture; fewer look periodic, more look like noise."""
BUMPS = 3
"""Waves around the outline of a nucleus."""
CONDENSED_SIZE = 0.8
"""Radius of a fully condensed (mitotic) nucleus relative to interphase."""


class Nuclei(NamedTuple):
    """State of all nuclei in one frame."""

    identity: np.ndarray  # (N,) int64, unique over the movie; a division retires the mother's
    mother: np.ndarray  # (N,) int64 identity or -1
    position: np.ndarray  # (N, D) µm
    velocity: np.ndarray  # (N, D) µm per frame
    frame_axes: np.ndarray  # (N, D, D) orthonormal; column 0 is the division axis
    phase: np.ndarray  # (N,) share of the cycle passed
    cycle: np.ndarray  # (N,) frames
    size: np.ndarray  # (N,) individual radius factor
    mitosis: np.ndarray  # (N,) int64, frames until division, 0 when in interphase
    recovery: np.ndarray  # (N,) int64, frames until relaxed after birth
    elongation: np.ndarray  # (N, D) log semi-axes, mean 0
    bump_axis: np.ndarray  # (N, BUMPS, D) unit vectors
    bump: np.ndarray  # (N, BUMPS) amplitudes
    brightness: np.ndarray  # (N,) log, mean 0
    wave: np.ndarray  # (N, WAVES, D) wave vectors of the texture in body coordinates
    wave_phase: np.ndarray  # (N, WAVES)

    def take(self, index) -> "Nuclei":
        """The nuclei at an index or where a mask is set."""
        return Nuclei(*(value[index] for value in self))

    def join(self, other: "Nuclei") -> "Nuclei":
        """These nuclei, then the others."""
        return Nuclei(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def condensation(self, spec: SyntheticSpec) -> np.ndarray:
        """(N,) from 0 in interphase to 1 in the frames around the division."""
        steps = max(spec.mitosis_frames, 1)
        before = np.where(self.mitosis > 0, (steps + 1 - self.mitosis) / steps, 0.0)
        return np.maximum(before, self.recovery / steps)

    def radius(self, spec: SyntheticSpec) -> np.ndarray:
        """(N,) µm. Volume grows linearly and doubles over a cycle; radius_um is the one at mid-cycle."""
        D = self.position.shape[1]
        volume = 2 / 3 * (1 + np.clip(self.phase, 0, 1))
        condensed = 1 - (1 - CONDENSED_SIZE) * self.condensation(spec)
        return spec.radius_um * self.size * volume ** (1 / D) * condensed


def life(spec: SyntheticSpec, rng: np.random.Generator) -> Iterator[Nuclei]:
    """Yields the nuclei of each frame."""
    nuclei = first_nuclei(spec, rng)
    yield nuclei
    for _ in range(spec.frames - 1):
        nuclei = advance(nuclei, spec, rng)
        yield nuclei


def first_nuclei(spec: SyntheticSpec, rng: np.random.Generator) -> Nuclei:
    """Nuclei of frame 0, of all phases of the cycle.

    Raises:
      InputError: they fill so much of the space that they could not move.
    """
    low, high = spec.domain_um
    D = len(low)
    count = round(spec.cells * float(np.prod((high - low) / spec.field_um)))
    filled = count * ball_volume(D) * spec.radius_um**D / float(np.prod(high - low))
    if filled > 0.8:
        raise InputError(
            f"synthetic spec: {spec.cells} nuclei of radius {spec.radius_um} µm fill {filled:.0%} of the "
            "space; lower cells or radius_um, or enlarge shape, to stay below 80%"
        )
    nuclei = _newborn(np.arange(count), np.full(count, -1), rng.uniform(low, high, (count, D)), spec, rng)
    nuclei = nuclei._replace(phase=rng.uniform(0, 1, count))
    return nuclei._replace(position=_push_apart(nuclei.position, nuclei.radius(spec), spec, rounds=60))


def _newborn(identity, mother, position, spec: SyntheticSpec, rng: np.random.Generator) -> Nuclei:
    N, D = position.shape
    bump_axis = rng.normal(size=(N, BUMPS, D))
    return Nuclei(
        identity=np.asarray(identity, np.int64),
        mother=np.asarray(mother, np.int64),
        position=position,
        velocity=spec.speed_um * rng.normal(size=(N, D)),
        frame_axes=_orthonormal(rng.normal(size=(N, D, D))),
        phase=np.zeros(N),
        cycle=spec.cell_cycle_frames * np.exp(spec.cell_cycle_spread * rng.normal(size=N)),
        size=np.exp(0.06 * rng.normal(size=N)),
        mitosis=np.zeros(N, np.int64),
        recovery=np.zeros(N, np.int64),
        elongation=_centred(spec.elongation * rng.normal(size=(N, D))),
        bump_axis=bump_axis / np.linalg.norm(bump_axis, axis=-1, keepdims=True),
        bump=spec.roughness * rng.normal(size=(N, BUMPS)),
        brightness=spec.brightness_spread * rng.normal(size=N),
        wave=5.0 * rng.normal(size=(N, WAVES, D)),
        wave_phase=rng.uniform(0, 2 * np.pi, (N, WAVES)),
    )


def advance(nuclei: Nuclei, spec: SyntheticSpec, rng: np.random.Generator) -> Nuclei:
    """One frame of life: divide, grow, enter mitosis, walk, push, turn, deform."""
    dividing = nuclei.mitosis == 1
    born = _daughters(nuclei.take(dividing), int(nuclei.identity.max(initial=-1)) + 1, spec, rng)
    grown = nuclei.take(~dividing)
    grown = grown._replace(
        phase=grown.phase + 1 / grown.cycle,
        mitosis=np.maximum(grown.mitosis - 1, 0),
        recovery=np.maximum(grown.recovery - 1, 0),
    )
    grown = _enter_mitosis(grown, born, spec)
    grown = _walk(grown, spec, rng)
    both = grown.join(born)
    pushed = _push_apart(both.position, both.radius(spec), spec, rounds=12)
    # Daughters were placed by the division, and their distance to the mother is part of that.
    start = np.concatenate([nuclei.position[~dividing], born.position])
    return both._replace(position=start + _shorten(pushed - start, spec.max_step_um))


def _daughters(mothers: Nuclei, first: int, spec: SyntheticSpec, rng: np.random.Generator) -> Nuclei:
    """Two daughters per mother, on both sides along its axis 0, condensed as the mother was."""
    N = len(mothers.identity)
    axis = mothers.frame_axes[..., 0]
    interphase = mothers.radius(spec) / (1 - (1 - CONDENSED_SIZE) * mothers.condensation(spec))
    sides = []
    for number, side in enumerate((1.0, -1.0)):
        identity = first + 2 * np.arange(N) + number
        position = mothers.position + side * 0.55 * interphase[:, None] * axis
        born = _newborn(identity, mothers.identity, position, spec, rng)
        sides.append(
            born._replace(
                frame_axes=mothers.frame_axes,
                velocity=side * spec.speed_um * axis,
                # Phase 0 has half the volume of phase 1, so that the daughters share the mother's exactly.
                size=mothers.size,
                recovery=np.full(N, spec.mitosis_frames),
                brightness=0.7 * mothers.brightness + 0.71 * born.brightness,
            )
        )
    return sides[0].join(sides[1])


def _enter_mitosis(nuclei: Nuclei, born: Nuclei, spec: SyntheticSpec) -> Nuclei:
    low, high = spec.domain_um
    D = len(low)
    volume = sum(ball_volume(D) * float(np.sum(group.radius(spec) ** D)) for group in (nuclei, born))
    if volume > spec.confluence * float(np.prod(high - low)):
        return nuclei
    steps = max(spec.mitosis_frames, 1)
    due = (nuclei.mitosis == 0) & (nuclei.phase >= 1 - steps / nuclei.cycle) & (nuclei.recovery == 0)
    return nuclei._replace(mitosis=np.where(due, steps, nuclei.mitosis))


def _walk(nuclei: Nuclei, spec: SyntheticSpec, rng: np.random.Generator) -> Nuclei:
    """Moves, turns and deforms every nucleus; the walls of the domain reflect."""
    N, D = nuclei.position.shape
    keep, fresh = spec.persistence, np.sqrt(max(0.0, 1 - spec.persistence**2))
    velocity = keep * nuclei.velocity + fresh * spec.speed_um * rng.normal(size=(N, D))
    position = nuclei.position + velocity
    low, high = spec.domain_um
    outside = (position < low) | (position > high)
    velocity = np.where(outside, -velocity, velocity)
    position = np.clip(position, low, high)

    skew = spec.turn_rad * rng.normal(size=(N, D, D))
    skew = (skew - np.swapaxes(skew, 1, 2)) / np.sqrt(2)
    axes = _orthonormal(nuclei.frame_axes + nuclei.frame_axes @ skew)
    # Shapes forget over about ten frames: slow enough to recognise a nucleus, fast enough to see it deform.
    forget, refresh = 0.9, np.sqrt(1 - 0.9**2)
    elongation = forget * nuclei.elongation + refresh * _centred(spec.elongation * rng.normal(size=(N, D)))
    bump = forget * nuclei.bump + refresh * spec.roughness * rng.normal(size=nuclei.bump.shape)
    return nuclei._replace(
        position=position, velocity=velocity, frame_axes=axes, elongation=elongation, bump=bump
    )


def _push_apart(position: np.ndarray, radius: np.ndarray, spec: SyntheticSpec, rounds: int) -> np.ndarray:
    """Moves centres (N, D) until they are `separation` times the sum of their radii apart, or rounds end."""
    low, high = spec.domain_um
    farthest = 2 * spec.separation * float(radius.max(initial=0))
    for _ in range(rounds):
        first, second = KDTree(position).query_pairs(farthest, output_type="ndarray").T
        apart = position[first] - position[second]
        distance = np.linalg.norm(apart, axis=-1)
        overlap = np.maximum(spec.separation * (radius[first] + radius[second]) - distance, 0)
        if not overlap.any():
            break
        # Half of the overlap each would settle a pair; 0.4 keeps crowds from oscillating.
        push = (0.4 * overlap / np.maximum(distance, 1e-6))[:, None] * apart
        moved = position.copy()
        np.add.at(moved, first, push)
        np.subtract.at(moved, second, push)
        position = np.clip(moved, low, high)
    return position


def _shorten(step: np.ndarray, longest: float) -> np.ndarray:
    length = np.linalg.norm(step, axis=-1, keepdims=True)
    return step * np.minimum(1.0, longest / np.maximum(length, 1e-12))


def _centred(value: np.ndarray) -> np.ndarray:
    return value - value.mean(axis=-1, keepdims=True)


def _orthonormal(matrix: np.ndarray) -> np.ndarray:
    """Nearest frames by Gram-Schmidt, with the signs that keep slow turns slow."""
    if not len(matrix):
        return matrix
    q, r = np.linalg.qr(matrix)
    return q * np.where(np.diagonal(r, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None, :]


def ball_volume(D: int) -> float:
    """Volume of the unit ball (area of the unit disc in 2D)."""
    return np.pi if D == 2 else 4 / 3 * np.pi
