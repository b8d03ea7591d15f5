"""What accelerators can do at most: peaks for MFU and the roofline, memory, and how chips are connected.

Vendors' dense data-sheet figures. Those of TPUs are from the Cloud TPU documentation's page of each version.
"""

from typing import Any, NamedTuple


class Peak(NamedTuple):
    """What one device can do at most."""

    flops: float
    """bf16 matrix FLOP/s."""
    bytes: float
    """Bytes/s of device memory."""


class Chip(NamedTuple):
    """A TPU version. Its chips are joined by links (ICI) to a torus, a slice; slices by the data-centre network."""

    kind: str
    """What jax calls the device."""
    peak: Peak
    clock: float
    """Cycles/s, at which its matrix units reach the peak (that of v6e from four of 256x256, which are not documented)."""
    memory: int
    """Bytes of HBM that its compiler gives to a program; the data sheet's are 1 to 4 % more."""
    link: float
    """Bytes/s of one link in one direction; the documentation sums over links and both directions."""
    axes: int
    """Axes of the torus: two links per chip for each."""
    ring: int
    """Axes that are a multiple of this long are closed to a ring; shorter ones are open lines."""
    slice: int
    """Most chips that one program can have without crossing the data-centre network."""
    network: float
    """Bytes/s of the data-centre network for each chip, in one direction."""
    per_host: int
    """Chips of a host of a slice that spans several hosts."""


CHIPS = {
    "v4": Chip("TPU v4", Peak(275e12, 1.2e12), 1.05e9, int(30.75 * 2**30), 50e9, 3, 4, 4096, 6.25e9, 4),
    "v5e": Chip(
        "TPU v5 lite", Peak(197e12, 0.82e12), 1.5e9, int(15.75 * 2**30), 50e9, 2, 16, 256, 3.125e9, 4
    ),
    "v5p": Chip("TPU v5", Peak(459e12, 2.77e12), 1.75e9, int(95.74 * 2**30), 100e9, 3, 4, 6144, 6.25e9, 4),
    "v6e": Chip(
        "TPU v6 lite", Peak(918e12, 1.64e12), 1.75e9, int(31.25 * 2**30), 100e9, 2, 16, 256, 12.5e9, 4
    ),
}
"""By the name in a topology such as v5e:4x4."""

_PEAKS = {chip.kind: chip.peak for chip in CHIPS.values()} | {
    "TPU v5e": CHIPS["v5e"].peak,
    "TPU v5p": CHIPS["v5p"].peak,
    "TPU v6e": CHIPS["v6e"].peak,
    "NVIDIA A100": Peak(312e12, 2.0e12),
    "NVIDIA H100": Peak(989e12, 3.35e12),
    "NVIDIA H200": Peak(989e12, 4.8e12),
}


def device_peak(device: Any) -> Peak | None:
    """Returns the device's peak rates, or None where they are not known (any CPU)."""
    known = [name for name in _PEAKS if device.device_kind.startswith(name)]
    return _PEAKS[max(known, key=len)] if known else None
