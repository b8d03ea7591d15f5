"""Synthetic cultures: numbers and sizes of the three cell types, files that are read, nothing that a threshold finds."""

import hashlib

import numpy as np
import pytest
from scipy import ndimage
from skimage import feature, filters, measure, segmentation

from celltrack_jax.data import sources
from celltrack_jax.data.sources import collection
from celltrack_jax.data.synthetic import cultures
from celltrack_jax.data.synthetic.phase_contrast import SHAPE, make_culture
from celltrack_jax.io import sartorius
from celltrack_jax.metrics.competition import competition_measures
from celltrack_jax.metrics.overlap import overlap

SMALL = (96, 128)


@pytest.fixture(scope="module")
def images():
    """Six images of the whole size of each type of Sartorius."""
    return {
        kind: [make_culture(look, SHAPE, seed) for seed in range(6)]
        for kind, look in cultures.SARTORIUS.items()
    }


def test_images_and_labels_are_as_promised(images):
    for made in (one for found in images.values() for one in found):
        assert (made.image.shape, made.image.dtype) == (SHAPE, np.uint8)
        assert np.unique(made.labels).tolist() == list(range(len(made.outlines) + 1))
        sizes = np.bincount(made.labels.ravel())
        assert 40 < made.image.mean() < 150
        assert np.mean((made.image == 0) | (made.image == 255)) < 0.001
        for label, (corner, mask) in enumerate(made.outlines, 1):
            here = made.labels[tuple(slice(a, a + n) for a, n in zip(corner, mask.shape, strict=True))]
            own = here == label
            assert own.sum() == sizes[label]
            assert (mask & own).sum() == own.sum()
            assert np.asarray(measure.label(own, connectivity=1)).max() == 1


def test_numbers_and_sizes_are_those_of_the_type(images):
    """As far as six images tell: the mean of so few numbers is uncertain by a sixth to a third."""
    for kind, found in images.items():
        mean, spread, most = cultures.SARTORIUS[kind].cells
        numbers = [len(made.outlines) for made in found]
        assert abs(np.mean(numbers) - mean) < 2.5 * spread / np.sqrt(len(found))
        assert max(numbers) <= most
        mean, spread, least, largest = cultures.SARTORIUS[kind].area
        areas = np.concatenate([np.bincount(made.labels.ravel())[1:] for made in found])
        assert np.mean(areas) == pytest.approx(mean, rel=0.2)
        assert np.std(areas) == pytest.approx(spread, rel=0.3)
        assert least / 3 < areas.min()
        assert areas.max() < 1.1 * largest


def test_drawn_cells_overlap_a_little(images):
    for found in images.values():
        drawn = sum(int(mask.sum()) for made in found for _, mask in made.outlines)
        seen = sum(np.count_nonzero(made.labels) for made in found)
        assert 0.001 < drawn / seen - 1 < 0.03


def classic(image: np.ndarray, feature_of) -> np.ndarray:
    """Otsu's threshold and a watershed of the distance."""
    shown = feature_of(image.astype(np.float64))
    mask = ndimage.binary_fill_holes(ndimage.binary_opening(shown > filters.threshold_otsu(shown)))
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 1.0)
    seeds = np.zeros(mask.shape, int)
    peaks = feature.peak_local_max(depth, min_distance=5, labels=np.asarray(measure.label(mask)))
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return segmentation.watershed(-depth, seeds, mask=mask)


def contrast(image):
    return ndimage.gaussian_filter(image, 1) - ndimage.gaussian_filter(image, 30)


def texture(image):
    return np.sqrt(
        np.maximum(ndimage.gaussian_filter(image**2, 3) - ndimage.gaussian_filter(image, 3) ** 2, 0)
    )


def test_threshold_and_watershed_is_not_enough(images):
    """Of dark or textured pixels, which find more than bright ones; a network has several times as much."""
    for kind, found in images.items():
        for feature_of in (lambda image: -contrast(image), texture):
            overlaps = [overlap(found[0].labels, classic(found[0].image, feature_of), 0)]
            assert (competition_measures(overlaps)["mAP"] or 0) < 0.2, kind


def digest(folder) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("write", [cultures.write_sartorius, cultures.write_livecell])
def test_a_seed_gives_the_same_bytes_and_types_do_not_change_each_other(write, tmp_path):
    for name, types, seed in (("a", 2, 3), ("b", 2, 3), ("c", 1, 3), ("d", 1, 4)):
        write(tmp_path / name, types=types, images=2, shape=SMALL, seed=seed)
    found = {name: digest(tmp_path / name) for name in "abcd"}
    assert found["a"] == found["b"]
    pictures = {key: value for key, value in found["c"].items() if not key.endswith((".csv", ".json"))}
    assert pictures.items() < found["a"].items()
    assert not set(found["d"].values()) & set(pictures.values())


def test_sartorius_files_hold_the_truth(tmp_path):
    cultures.write_sartorius(tmp_path, types=3, images=3, shape=SMALL, seed=5)
    found = {one.name: one for one in sources.open_sources(tmp_path, "sartorius", None)}
    assert {name: len(one.files) for name, one in found.items()} == {
        "astro": 3,
        "astro_unlabelled": 1,
        "cort": 3,
        "cort_unlabelled": 1,
        "shsy5y": 3,
        "shsy5y_unlabelled": 1,
    }
    frame = found["shsy5y"].read(0)
    assert frame.image.shape == (1, 1, *SMALL)
    assert frame.image.dtype == np.uint8
    assert set(frame.odd) <= {collection.OVERWRITTEN}
    names = found["shsy5y"].frame_names
    assert names is not None
    table = sartorius.read_table(tmp_path / "train.csv")
    assert frame.masks["segmentation"].max() == len(table[names[0]].annotations)


def test_livecell_files_hold_the_truth(tmp_path):
    cultures.write_livecell(tmp_path, types=3, images=6, shape=SMALL, seed=5)
    found = sources.open_sources(tmp_path, "livecell", None)
    assert [(one.name, len(one.files)) for one in found] == [("a172", 6), ("bt474", 6), ("bv2", 6)]
    assert len(list((tmp_path / "annotations" / "LIVECell").iterdir())) == 2
    states = np.random.SeedSequence([5, *b"BV2"]).generate_state(6)
    made = make_culture(cultures.LIVECELL["BV2"], SMALL, int(states[0]))
    frame = found[2].read(0)
    np.testing.assert_array_equal(frame.image[0, 0], made.image)
    # Polygons lose corners of pixels.
    score = competition_measures([overlap(made.labels, frame.masks["segmentation"][0], 0)])
    assert score["AP75"] > 0.95
