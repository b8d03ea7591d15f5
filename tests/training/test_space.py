"""One volume split over devices: the same loss and gradients, and a fraction of the memory."""

import json

import pytest

from tests import mains


@pytest.mark.parametrize(
    ("dtype", "size", "loss", "gradients", "memory"),
    [
        ("float32", "64,48,48", 1e-5, 1e-3, 0.25),
        # Minutes on two cores: float64 is lowered plainly.
        pytest.param("float64", "32,32,32", 1e-12, 1e-6, 0.5, marks=pytest.mark.slow),
    ],
)
def test_a_volume_over_eight_devices_learns_what_one_device_does(dtype, size, loss, gradients, memory):
    """In the smaller volume the parameters, which every device holds, weigh more. By hand: 96,256,256."""
    done = mains.call_module("tests.training.run_space", size, dtype)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["loss"] > 0
    assert report["loss_difference"] < loss
    assert report["gradient_difference"] < gradients
    assert report["bytes_eight"] < report["bytes_one"] * memory
