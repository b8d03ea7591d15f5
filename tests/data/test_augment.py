import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax.config import from_mapping
from celltrack_jax.data import augment, normalise
from celltrack_jax.data.augment import AugmentSpec
from celltrack_jax.errors import InputError
from tests.representations.cells import touching_cells

NONE = AugmentSpec.none()
STRENGTHS = {
    "flip": {},
    "rot90": {},
    "affine": {"rotation_deg": 180.0, "zoom": 0.3, "shear": 0.2},
    "elastic": {"elastic_px": 3.0, "elastic_spacing_px": 12},
    "gamma": {"gamma_octaves": 1.0},
    "blur": {"blur_px": 1.5},
    "contrast": {"contrast_down_octaves": 3.3, "contrast_up_octaves": 0.5},
    "noise": {"noise_std": 0.1, "shot_noise_std": 0.1},
    "renormalise": {},
    "brightness": {"brightness_offset": 0.2, "brightness_gain_octaves": 0.5},
}
GEOMETRY = ("flip", "rot90", "affine", "elastic")
LABELS = {
    "2d": touching_cells((48, 48), (1, 1), 8.0, seed=0),
    "3d": touching_cells((6, 40, 40), (4, 1, 1), 8.0, seed=0),
}
SIZES = {"2d": (32, 32), "3d": (4, 28, 28)}
every_case = pytest.mark.parametrize("case", LABELS)


def spec_of(*kinds, probability=1.0, **changes) -> AugmentSpec:
    """Returns a spec with some kinds at full strength."""
    strengths = {f"{kind}_probability": probability for kind in kinds}
    for kind in kinds:
        strengths |= STRENGTHS[kind]
    return dataclasses.replace(NONE, **strengths | changes)


@functools.partial(jax.jit, static_argnames=("size", "spec"))
def run_batch(image, labels, keys, size, spec):
    return jax.vmap(lambda key: augment.augment(image, labels, key, size=size, spec=spec))(keys)


def draws(image, labels, size, spec, count, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Returns `count` augmentations of one sample."""
    images, maps = run_batch(image, labels, jax.random.split(jax.random.key(seed), count), size, spec)
    return np.asarray(images), np.asarray(maps)


def picture_of(labels, channels=1, seed=0):
    """Returns (*S, C) float32: bright cells on a noisy background, about 0..1."""
    rng = np.random.default_rng(seed)
    brightness = np.concatenate([[0.1], rng.uniform(0.5, 1.0, labels.max())])[labels]
    clean = ndimage.gaussian_filter(brightness, 0.7)
    return (clean[..., None] + 0.02 * rng.normal(size=(*labels.shape, channels))).astype(np.float32)


def middle(array, size):
    return array[
        tuple(slice((r - s) // 2, (r - s) // 2 + s) for r, s in zip(array.shape, size, strict=False))
    ]


# --------------------------------------------------------------------------------------------------- identity


@pytest.mark.parametrize("size", [(32, 32), (31, 20), (48, 48)])
def test_nothing_is_exactly_the_middle(size):
    image, labels = picture_of(LABELS["2d"], 2), LABELS["2d"]
    images, maps = draws(image, labels, size, NONE, 2)
    np.testing.assert_array_equal(images[0], middle(image, size))
    np.testing.assert_array_equal(maps[1], middle(labels, size))


@every_case
def test_every_kind_at_strength_zero_is_the_identity(case):
    kinds = [kind for kind in STRENGTHS if kind not in ("flip", "rot90")]
    spec = dataclasses.replace(NONE, **{f"{kind}_probability": 1.0 for kind in kinds})
    image, labels = picture_of(LABELS[case]), LABELS[case]
    images, maps = draws(image, labels, SIZES[case], spec, 2)
    np.testing.assert_array_equal(images[1], middle(image, SIZES[case]))
    np.testing.assert_array_equal(maps[1], middle(labels, SIZES[case]))


@every_case
def test_a_kind_that_is_not_drawn_is_exactly_the_identity(case):
    # The kinds are compiled in, but come up about once in a million.
    spec = spec_of(*STRENGTHS, probability=1e-6)
    image, labels = picture_of(LABELS[case]), LABELS[case]
    images, maps = draws(image, labels, SIZES[case], spec, 3)
    for found, map_ in zip(images, maps, strict=True):
        np.testing.assert_array_equal(found, middle(image, SIZES[case]))
        np.testing.assert_array_equal(map_, middle(labels, SIZES[case]))


def test_a_sample_depends_on_its_key_alone():
    image, labels = picture_of(LABELS["2d"]), LABELS["2d"]
    spec = spec_of("flip", "affine", "noise", flip_probability=0.5)
    images, maps = draws(image, labels, (32, 32), spec, 4)
    again, _ = draws(image, labels, (32, 32), spec, 4)
    np.testing.assert_array_equal(images, again)
    key = jax.random.split(jax.random.key(0), 4)[2]
    one, map_ = jax.jit(functools.partial(augment.augment, size=(32, 32), spec=spec))(image, labels, key)
    np.testing.assert_allclose(images[2], one, atol=1e-5)
    np.testing.assert_array_equal(maps[2], map_)
    assert len({found.tobytes() for found in images}) == 4


def test_switching_a_kind_off_changes_no_other():
    image, labels = picture_of(LABELS["2d"]), LABELS["2d"]
    _, both = draws(image, labels, (32, 32), spec_of("affine", "contrast", "brightness"), 4)
    _, alone = draws(image, labels, (32, 32), spec_of("affine"), 4)
    np.testing.assert_array_equal(both, alone)


# --------------------------------------------------------------------------------------------------- geometry


def symmetries(array, turns=(0, 1, 2, 3), axes=(0,)):
    """Returns all mirrored and turned versions of an array, as bytes."""
    found = set()
    for turn in turns:
        turned = np.rot90(array, turn, (-2, -1)) if turn else array
        found |= {turned.tobytes(), *(np.flip(turned, axis).tobytes() for axis in axes)}
    return found


def test_mirrors_and_turns_give_exactly_the_eight_symmetries():
    labels = LABELS["2d"]
    image = labels[..., None].astype(np.float32)
    images, maps = draws(image, labels, (32, 32), spec_of("flip", "rot90", flip_probability=0.5), 64)
    np.testing.assert_array_equal(images[..., 0], maps)
    assert {map_.tobytes() for map_ in maps} == symmetries(middle(labels, (32, 32)))


def test_turns_alone_are_never_mirrored():
    labels = LABELS["2d"]
    _, maps = draws(labels[..., None].astype(np.float32), labels, (32, 32), spec_of("rot90"), 40)
    assert {map_.tobytes() for map_ in maps} == symmetries(middle(labels, (32, 32)), axes=())


def test_an_oblong_crop_makes_half_turns_only():
    labels = LABELS["2d"]
    _, maps = draws(labels[..., None].astype(np.float32), labels, (32, 20), spec_of("rot90"), 20)
    assert {map_.tobytes() for map_ in maps} == symmetries(middle(labels, (32, 20)), turns=(0, 2), axes=())


def test_volumes_are_mirrored_along_every_axis_and_turned_in_the_plane():
    labels = LABELS["3d"]
    image = labels[..., None].astype(np.float32)
    images, maps = draws(image, labels, (4, 28, 28), spec_of("flip", "rot90", flip_probability=0.5), 120)
    np.testing.assert_array_equal(images[..., 0], maps)
    centre = middle(labels, (4, 28, 28))
    expected = symmetries(centre, axes=(-1,)) | symmetries(centre[::-1], axes=(-1,))
    assert {map_.tobytes() for map_ in maps} == expected


def test_planes_are_never_mixed():
    depth = np.broadcast_to(np.arange(6, dtype=np.float32)[:, None, None], LABELS["3d"].shape)
    spec = spec_of(*GEOMETRY, flip_probability=0.5)
    images, maps = draws(depth[..., None], depth.astype(np.int32), (4, 28, 28), spec, 12)
    for image, map_ in zip(images[..., 0], maps, strict=True):
        planes = image[:, 0, 0]
        assert planes.tolist() in ([1, 2, 3, 4], [4, 3, 2, 1])
        np.testing.assert_allclose(image, np.broadcast_to(planes[:, None, None], image.shape), rtol=1e-6)
        assert ((map_ == planes[:, None, None]) | (map_ == -1)).all()


@every_case
def test_an_image_that_equals_its_labels_still_does(case):
    labels = (LABELS[case] > 0).astype(np.int32)
    spec = spec_of(*GEOMETRY, flip_probability=0.5)
    images, maps = draws(labels[..., None].astype(np.float32), labels, SIZES[case], spec, 16)
    image, inside = images[..., 0], maps >= 0
    assert inside.mean() > 0.8
    # Linear and nearest samples differ by at most 3/4, at a corner, and not at all inside and outside of cells.
    assert np.abs(image - maps)[inside].max() <= 0.75 + 1e-5
    plain = (image == 0) | (image == 1)
    assert plain.mean() > 0.6
    np.testing.assert_array_equal(image[plain & inside], maps[plain & inside])


def test_points_move_with_the_image_and_keep_their_ids():
    labels = np.zeros((64, 64), np.int32)
    for k, (y, x) in enumerate([(26, 26), (26, 37), (37, 26), (37, 37), (32, 32)]):
        labels[y - 2 : y + 3, x - 2 : x + 3] = k + 1
    bright = np.eye(6, dtype=np.float32)[labels][..., 1:]
    spec = spec_of(*GEOMETRY, flip_probability=0.5, elastic_px=2.0)
    images, maps = draws(bright, labels, (48, 48), spec, 16)
    for image, map_ in zip(images, maps, strict=True):
        for k in range(5):
            assert (map_ == k + 1).any()
            seen = ndimage.center_of_mass(image[..., k])
            marked = ndimage.center_of_mass(map_ == k + 1)
            assert np.linalg.norm(np.subtract(seen, marked)) < 0.8


def test_zoom_changes_areas_within_its_bounds():
    labels = np.zeros((96, 96), np.int32)
    labels[38:58, 38:58] = 1
    spec = dataclasses.replace(spec_of("affine"), shear=0.0, zoom=0.3)
    _, maps = draws(np.zeros((96, 96, 1), np.float32), labels, (64, 64), spec, 60)
    growth = np.sqrt((maps == 1).sum((1, 2)) / 400)
    assert growth.min() > 0.97 / 1.3
    assert growth.max() < 1.03 * 1.3
    assert growth.min() < 0.85
    assert growth.max() > 1.15


def test_what_lies_outside_is_unknown_and_mirrored():
    labels = np.ones((32, 32), np.int32)
    image = np.random.default_rng(0).uniform(2, 3, (32, 32, 1)).astype(np.float32)
    images, maps = draws(image, labels, (32, 32), spec_of("affine", rotation_deg=45.0), 8)
    assert set(np.unique(maps)) == {-1, 1}
    assert images.min() >= 2
    assert images.max() <= 3


def test_unknown_pixels_stay_unknown():
    labels = np.full((40, 40), -1, np.int32)
    _, maps = draws(np.zeros((40, 40, 1), np.float32), labels, (32, 32), spec_of(*GEOMETRY), 3)
    assert (maps == -1).all()


@pytest.mark.parametrize("kind", GEOMETRY[1:3])
def test_kinds_come_up_with_their_probability(kind):
    labels = np.arange(12 * 12, dtype=np.int32).reshape(12, 12)
    spec = spec_of(kind, probability=0.3)
    _, maps = draws(labels[..., None].astype(np.float32), labels, (8, 8), spec, 2000)
    changed = (maps != middle(labels, (8, 8))).any((1, 2)).mean()
    # One quarter turn in four is none.
    assert changed == pytest.approx(0.3 * (0.75 if kind == "rot90" else 1), abs=0.04)


# ------------------------------------------------------------------------------------------------------ light


def test_light_leaves_the_labels_alone():
    spec = spec_of(*(kind for kind in STRENGTHS if kind not in GEOMETRY))
    _, maps = draws(picture_of(LABELS["2d"]), LABELS["2d"], (32, 32), spec, 4)
    assert (maps == middle(LABELS["2d"], (32, 32))).all()


def test_contrast_scales_about_the_background_down_to_a_tenth():
    labels = np.where(LABELS["2d"] % 2 == 0, LABELS["2d"], 0)
    picture = picture_of(labels)
    images, _ = draws(picture, labels, (48, 48), spec_of("contrast"), 300)
    spread = images.std((1, 2, 3)) / picture.std()
    assert 0.1 <= spread.min() < 0.12
    assert 1.3 < spread.max() <= 2**0.5 + 1e-3
    # Log-uniform: as many below as above the middle octave.
    assert np.mean(np.log2(spread) < -1.4) == pytest.approx(0.5, abs=0.1)
    background = np.asarray(ndimage.binary_erosion(labels == 0, iterations=2), bool)
    moved = np.median(images[:, background], (1, 2)) - np.median(picture[background])
    assert np.abs(moved).max() < 0.03


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_the_background_level_does_not_follow_the_cells(share):
    rng = np.random.default_rng(0)
    image = np.where(rng.random((200, 210, 1)) < share, 1.0, 0.2) + 0.01 * rng.normal(size=(200, 210, 1))
    assert augment._background_level(jnp.asarray(image, jnp.float32))[0] == pytest.approx(0.2, abs=0.02)


def test_noise_has_its_strength_and_grows_with_the_signal():
    image = np.broadcast_to(np.array([0.0, 1.0], np.float32)[:, None], (64, 64, 2, 1))[:, :, :, 0]
    flat = np.ascontiguousarray(image)  # two channels: dark and bright
    labels = np.zeros((64, 64), np.int32)
    camera, _ = draws(flat, labels, (64, 64), spec_of("noise", shot_noise_std=0.0), 200)
    assert camera.std((1, 2)).max() == pytest.approx(0.1, rel=0.1)
    assert camera.std((1, 2)).mean() == pytest.approx(0.05, rel=0.15)
    assert np.abs((camera - flat).mean()) < 1e-3
    shot, _ = draws(flat, labels, (64, 64), spec_of("noise", noise_std=0.0), 200)
    assert shot[..., 0].std((1, 2)).max() == 0
    assert shot[..., 1].std((1, 2)).max() == pytest.approx(0.1, rel=0.1)


def test_noise_after_contrast_lowers_the_signal_to_noise_ratio():
    labels = LABELS["2d"]
    picture = picture_of(labels)
    spec = spec_of("contrast", "noise", contrast_up_octaves=0.0)
    images, _ = draws(picture, labels, labels.shape, spec, 300)
    inside, outside = (
        images[:, np.asarray(ndimage.binary_erosion(labels > 0), bool)],
        images[:, np.asarray(ndimage.binary_erosion(labels == 0), bool)],
    )
    ratio = (np.median(inside, (1, 2)) - np.median(outside, (1, 2))) / outside.std((1, 2))
    assert np.quantile(ratio, 0.05) < 1.5
    assert np.quantile(ratio, 0.95) > 12


def test_renormalised_crops_look_as_a_dim_movie_does_after_normalisation():
    labels = touching_cells((120, 120), (1, 1), 12.0, seed=3)
    labels[np.isin(labels, labels[::3, ::3])] = 0  # sparse: most of a frame is background
    raw = picture_of(labels)
    picture = np.moveaxis(
        normalise.normalise(np.moveaxis(raw, -1, 0), normalise.percentiles(np.moveaxis(raw, -1, 0))), 0, -1
    )
    spec = spec_of("contrast", "noise", "renormalise", shot_noise_std=0.0)
    images, _ = draws(picture, labels, labels.shape, spec, 60)
    low, high = np.percentile(images, 1, (1, 2, 3)), np.percentile(images, 99.8, (1, 2, 3))
    assert np.abs(low).max() < 0.15
    assert np.abs(high - 1).max() < 0.3
    assert np.abs(high - 1).mean() < 0.12


def test_blur_takes_noise_away_and_keeps_the_mean():
    image = np.random.default_rng(0).normal(size=(64, 64, 1)).astype(np.float32)
    images, _ = draws(image, np.zeros((64, 64), np.int32), (64, 64), spec_of("blur"), 40)
    deviation = images.std((1, 2, 3))
    assert deviation.max() <= 1.05 * image.std()
    assert deviation.min() < 0.25
    assert np.abs(images.mean((1, 2, 3)) - image.mean()).max() < 0.05


def test_blur_stays_in_the_plane():
    image = np.zeros((5, 24, 24, 1), np.float32)
    image[2] = np.random.default_rng(0).normal(size=(24, 24, 1))
    images, _ = draws(image, np.zeros((5, 24, 24), np.int32), (5, 24, 24), spec_of("blur"), 3)
    assert not images[:, [0, 1, 3, 4]].any()


def test_gamma_keeps_order_sign_and_the_ends():
    image = np.linspace(-0.5, 1.5, 64 * 64, dtype=np.float32).reshape(64, 64, 1)
    images, _ = draws(image, np.zeros((64, 64), np.int32), (64, 64), spec_of("gamma"), 20)
    for found in images.reshape(20, -1):
        assert (np.diff(found) >= -1e-6).all()
        assert (
            np.sign(found[np.abs(image.reshape(-1)) > 0.01])
            == np.sign(image.reshape(-1)[np.abs(image.reshape(-1)) > 0.01])
        ).all()
        assert np.interp(1.0, image.reshape(-1), found) == pytest.approx(1, abs=1e-3)
    exponents = np.log(images[:, 40, 0, 0]) / np.log(image[40, 0, 0])
    assert 0.5 <= exponents.min() < 0.7
    assert 1.4 < exponents.max() <= 2.001


def test_brightness_is_affine_and_each_channel_has_its_own():
    picture = picture_of(LABELS["2d"], 2)
    images, _ = draws(picture, LABELS["2d"], (48, 48), spec_of("brightness"), 20)
    gains = []
    for found in images:
        for channel in range(2):
            gain, offset = np.polyfit(picture[..., channel].reshape(-1), found[..., channel].reshape(-1), 1)
            np.testing.assert_allclose(found[..., channel], gain * picture[..., channel] + offset, atol=1e-4)
            assert abs(offset) <= 0.2001
            assert 2**-0.501 <= gain <= 2**0.501
            gains.append(gain)
    assert len(np.unique(np.round(gains, 4))) > 30


# ------------------------------------------------------------------------------------------------------- spec


def test_a_spec_names_every_strength():
    given = dataclasses.asdict(NONE)
    assert from_mapping(AugmentSpec, given, "augment") == NONE
    with pytest.raises(InputError, match="blur_px"):
        from_mapping(
            AugmentSpec, {name: value for name, value in given.items() if name != "blur_px"}, "augment"
        )
    with pytest.raises(InputError, match="sparkle"):
        from_mapping(AugmentSpec, given | {"sparkle": 1}, "augment")


@pytest.mark.parametrize(
    ("name", "value"),
    [("flip_probability", 1.5), ("noise_std", -0.1), ("elastic_probability", -1)],
)
def test_a_spec_out_of_range_is_an_input_error_that_names_it(name, value):
    with pytest.raises(InputError, match=name):
        dataclasses.replace(NONE, **{name: value})


def test_elastic_needs_control_points():
    with pytest.raises(InputError, match="elastic_spacing_px"):
        spec_of("elastic", elastic_spacing_px=0)


def test_the_crop_must_fit_into_what_was_read():
    with pytest.raises(ValueError, match="does not fit"):
        draws(picture_of(LABELS["2d"]), LABELS["2d"], (49, 48), NONE, 1)


@every_case
@pytest.mark.parametrize("kinds", [("flip",), ("rot90",), ("affine",), ("elastic",), GEOMETRY], ids=str)
def test_points_go_where_the_image_goes(case, kinds):
    """The moved point samples from where it came: the coordinates of the picture, read at the point, are the point."""
    size, read = SIZES[case], LABELS[case].shape
    grid = jnp.stack(jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in read), indexing="ij"), -1)
    points = np.random.default_rng(1).uniform(0.35, 0.65, (20, len(read))).astype(np.float32) * np.array(read)

    @jax.jit
    def moved(key):
        geometry = augment.geometry(read, key, size=size, spec=spec_of(*kinds))
        return geometry.image(grid), geometry.points(jnp.asarray(points))

    for seed in range(4):
        origin, found = (np.asarray(x) for x in moved(jax.random.key(seed)))
        inside = ((found >= 0) & (found <= np.array(size) - 1)).all(-1)
        assert inside.sum() >= 10
        back = [
            ndimage.map_coordinates(origin[..., axis], found[inside].T, order=1) for axis in range(len(read))
        ]
        np.testing.assert_allclose(np.stack(back, -1), points[inside], atol=0.02)


def test_points_that_are_none_stay_none():
    geometry = augment.geometry((48, 48), jax.random.key(0), size=(32, 32), spec=spec_of(*GEOMETRY))
    assert np.isnan(geometry.points(jnp.full((3, 2), jnp.nan))).all()


def test_the_first_of_several_channels_is_lit_as_an_image_of_one():
    """Else the numbers that turn a sample also light its second channel."""
    image = picture_of(LABELS["2d"], channels=3)
    spec = spec_of("gamma", "blur", "contrast", "brightness")
    for key in jax.random.split(jax.random.key(0), 4):
        every, first = (augment.light(jnp.asarray(part), key, spec=spec) for part in (image, image[..., :1]))
        np.testing.assert_allclose(every[..., 0], first[..., 0], rtol=1e-5, atol=1e-6)
