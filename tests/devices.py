"""Child processes that see several virtual CPU devices."""

import os


def on_devices(count: int) -> dict[str, str]:
    """Returns this environment in which XLA makes so many devices of the CPU; its other flags stay."""
    flags = os.environ.get("XLA_FLAGS", "")
    return os.environ | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}".strip()}
