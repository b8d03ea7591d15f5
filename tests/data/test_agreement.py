import re

import numpy as np
import pytest

from celltrack_jax.data import agreement
from tests.representations.cells import touching_cells

LABELS = touching_cells((120, 160), (1, 1), 9.0, seed=0)[None]


def picture(bright: float, texture: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=LABELS.shape)
    return 100 + 5 * noise + (LABELS > 0) * (bright + texture * rng.normal(size=LABELS.shape))


@pytest.mark.parametrize(("bright", "texture"), [(20, 0), (-20, 0), (0, 15)])
def test_masks_on_what_the_image_shows_are_not_doubted(bright, texture):
    found = agreement.measure(picture(bright, texture)[None], LABELS)
    assert found is not None
    assert agreement.doubt([found]) is None


def test_masks_of_another_movie_are_doubted():
    found = [agreement.measure(picture(0, 0, seed)[None], LABELS) for seed in range(3)]
    text = agreement.doubt([one for one in found if one is not None])
    assert text is not None
    assert re.match(r"in 3 frames labelled pixels are neither .* masks of another movie", text)


def test_one_channel_that_shows_the_cells_is_enough():
    found = agreement.measure(np.stack([picture(0, 0), picture(20, 0)]), LABELS)
    assert found == agreement.measure(picture(20, 0)[None], LABELS)


def test_ranks_are_those_of_a_brute_force_comparison_of_pairs():
    image = np.random.default_rng(0).integers(0, 6, (1, 40, 40))
    mask = (np.arange(40) % 3 == 0) * np.ones((1, 40, 40), int)
    found = agreement.measure(image[None], mask)
    assert found is not None
    pixels, inside = image[0, ::4, 1::2].astype(float), mask[0, ::4, 1::2] > 0
    higher = np.sign(pixels[inside][:, None] - pixels[~inside][None]).mean()
    # The difference of mean ranks is half the share of pairs that are higher less those that are lower.
    assert found[0] == pytest.approx(higher / 2)


def test_frames_with_hardly_a_labelled_pixel_say_nothing():
    assert agreement.measure(picture(0, 0)[None], np.zeros_like(LABELS)) is None
    assert agreement.doubt([]) is None
