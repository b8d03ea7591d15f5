"""Peak rates of accelerators, for MFU and the share of the roofline. Vendors' dense data-sheet figures."""

from typing import Any, NamedTuple


class Peak(NamedTuple):
    """What one device can do at most."""

    flops: float
    """bf16 matrix FLOP/s."""
    bytes: float
    """Bytes/s of device memory."""


_PEAKS = {
    "TPU v4": Peak(275e12, 1.2e12),
    "TPU v5 lite": Peak(197e12, 0.82e12),
    "TPU v5e": Peak(197e12, 0.82e12),
    "TPU v5p": Peak(459e12, 2.77e12),
    "TPU v5": Peak(459e12, 2.77e12),
    "TPU v6 lite": Peak(918e12, 1.64e12),
    "NVIDIA A100": Peak(312e12, 2.0e12),
    "NVIDIA H100": Peak(989e12, 3.35e12),
    "NVIDIA H200": Peak(989e12, 4.8e12),
}


def device_peak(device: Any) -> Peak | None:
    """Returns the device's peak rates, or None where they are not known (any CPU)."""
    known = [name for name in _PEAKS if device.device_kind.startswith(name)]
    return _PEAKS[max(known, key=len)] if known else None
