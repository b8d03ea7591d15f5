import numpy as np
import pytest

from celltrack_jax.errors import InputError
from launch.benches import sliding


def test_windows_of_a_network_that_sees_single_pixels_give_the_whole_frame(monkeypatch):
    monkeypatch.setattr(sliding, "WINDOW", 16)
    image = np.random.default_rng(0).random((43, 50)).astype(np.float32)

    def forward(batch):
        return 2 * batch

    found = sliding.slide(forward, image)
    seen = np.zeros(image.shape, bool)
    for y, x in sliding.corners(image.shape):
        seen[y : y + 16, x : x + 16] = True
    assert seen.mean() > 0.95
    np.testing.assert_allclose(found[seen], sliding.once(forward, image)[seen], rtol=1e-6)


def test_a_frame_of_the_bursts_has_two_passes_of_27_by_43_windows():
    assert len(sliding.corners(sliding.FRAME)) == 2 * 27 * 43


def test_an_unknown_peer_is_bad_input():
    with pytest.raises(InputError, match="no peer 'torch'"):
        sliding.run("torch")
