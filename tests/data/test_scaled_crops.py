"""Crops brought to one diameter, and the category of each."""

from typing import Any

import numpy as np
import pytest

from celltrack_jax.data import pipeline
from celltrack_jax.data.diameters import diameter_px, frame_diameters
from celltrack_jax.errors import InputError
from celltrack_jax.ops import resize
from tests.data import collections_on_disk as collection
from tests.data import datasets

SHAPE = (90, 110)
FLAT: dict[str, Any] = {
    "shape": (24, 32),
    "ndim": 2,
    "batch_size": 4,
    "process": (0, 1),
    "foreground_probability": 0.7,
    "unknown_radius_um": 0.0,
    "max_cells": 32,
    "seed": 3,
    "margin": (0, 0),
    "silver": False,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Cells of radius 4 and 8 in two types, and images without annotation."""
    images = {
        "a": ("astro", collection.discs(SHAPE, 8.0, 1)),
        "b": ("astro", collection.discs(SHAPE, 8.0, 2)),
        "c": ("cort", collection.discs(SHAPE, 4.0, 3)),
        "d": ("cort", collection.discs(SHAPE, 1.0, 4)),
    }
    path = collection.write(tmp_path_factory.mktemp("collection"), images, ("cort_1", "who"))
    return collection.opened(path)


def crops(found, **changes) -> Any:
    sequences = list(found.values())
    frames = [range(sequence.shape[0]) for sequence in sequences]
    return pipeline.crops(sequences, frames=changes.pop("frames", frames), **FLAT | changes)


def places(dataset) -> Any:
    return dataset._map_fn.__self__.places


def test_the_diameter_is_that_of_the_median_disc():
    assert diameter_px(np.array([np.pi * 100, np.pi * 25, np.pi * 400])) == pytest.approx(20)
    assert diameter_px(np.array([1.0])) == 5
    assert diameter_px(np.zeros(0)) is None


def test_frames_without_cells_have_the_diameter_of_their_kin(found):
    by_name = dict(zip(found, frame_diameters(list(found.values()), silver=False), strict=True))
    area = {
        name: np.bincount(collection.discs(SHAPE, r, 1).ravel())[1]
        for name, r in (("astro", 8.0), ("cort", 4.0))
    }
    size = {name: 2 * np.sqrt(pixels / np.pi) for name, pixels in area.items()}
    np.testing.assert_allclose(by_name["astro"], [size["astro"]] * 2)
    np.testing.assert_allclose(by_name["cort"], [size["cort"], 5])
    cells = [found[name].foreground[:, 5] for name in ("astro", "cort")]
    assert by_name["cort_unlabelled"].tolist() == [diameter_px(cells[1])]
    assert by_name["unlabelled"].tolist() == [diameter_px(np.concatenate(cells))]


def test_a_crop_is_its_window_resized(found):
    """Written out here: read, reflect, average or interpolate, take the nearest label."""
    dataset = crops(found, diameter_px=10.0, margin=(4, 4))
    scales = [found / 10.0 for found in frame_diameters(list(found.values()), silver=False)]
    sequences = list(found.values())
    windows = set()
    for step in range(4):
        batch = dataset[step]
        for i in range(4):
            request = places(dataset).request(4 * step + i)
            sequence, scale = sequences[request.sequence], scales[request.sequence][request.t]
            size = (round(24 * scale), round(32 * scale))
            windows.add(size)
            pad = 60
            frame = sequence.image[request.t, 0, 0].read().result()
            low, _, high = sequence.percentiles[request.t, 0]
            image = np.pad((frame.astype(np.float32) - low) / (high - low), pad, mode="reflect")
            y, x = (start + pad for start in request.start[1:])
            expected = resize.resize_on_host(image[None, y : y + size[0], x : x + size[1]], (24, 32))[0]
            inside = np.s_[8:16, 10:22]  # reflected borders of a part are not those of the frame
            np.testing.assert_allclose(batch["image"][i, ..., 0][inside], expected[inside], atol=1e-5)
            labels = np.full(frame.shape, -1, np.int64)
            if "segmentation" in sequence.labels:
                labels = sequence.labels["segmentation"][request.t, 0, 0].read().result().astype(np.int64)
            labels = np.pad(labels, pad, constant_values=-1)[y : y + size[0], x : x + size[1]]
            labels = resize.resize_labels(labels, (24, 32))
            np.testing.assert_array_equal(batch["labels"][i] > 0, labels > 0)
            np.testing.assert_array_equal(batch["labels"][i] < 0, labels < 0)
            cells = np.unique(batch["labels"][i])
            assert cells[cells > 0].tolist() == list(range(1, len(np.unique(labels[labels > 0])) + 1))
            np.testing.assert_allclose(batch["spacing"][i], [size[0] / 24, size[1] / 32], rtol=1e-6)
    assert len(windows) > 2


def test_cells_come_to_the_diameter(found):
    # Crops as large as frames show whole cells.
    dataset = crops(found, diameter_px=12.0, shape=(96, 96), frames=[[0, 1], [0], [], []])
    for step in range(3):
        for labels in dataset[step]["labels"]:
            border = np.unique(np.where(np.pad(np.ones((88, 88), bool), 4), 0, labels))
            cells = np.setdiff1d(labels, [*border, 0, -1])
            sizes = [np.count_nonzero(labels == name) for name in cells]
            if sizes:
                assert diameter_px(np.array(sizes)) == pytest.approx(12.0, rel=0.06)


def test_at_its_own_diameter_nothing_changes(found):
    plain = crops(found, frames=[[0, 1], [], [], []])
    own = frame_diameters(list(found.values()), silver=False)[0][0]
    scaled = crops(found, frames=[[0, 1], [], [], []], diameter_px=own)
    for step in range(3):
        for key, values in plain[step].items():
            np.testing.assert_allclose(scaled[step][key], values, atol=1e-5)


def test_diameters_are_for_planes_alone(found, tmp_path):
    for changes in ({"whole": True}, {"clip": pipeline.Clip(1, 1, 0.0)}):
        with pytest.raises(InputError, match=r"set --config\.data\.diameter_px=0"):
            crops(found, diameter_px=10.0, **changes)
    with pytest.raises(InputError, match="no outlined cell that would tell a diameter"):
        crops({"unlabelled": found["unlabelled"]}, diameter_px=10.0)
    stacks = found["astro"]._replace(shape=(2, 1, 3, *SHAPE))
    with pytest.raises(InputError, match=r"astro is a movie of stacks of 3 planes.*diameter_px=0"):
        crops({"astro": stacks}, diameter_px=10.0)


def test_batches_tell_the_category(found):
    assert "category" not in crops(found)[0]
    dataset = crops(found, categories=("shsy5y", "cort", "astro"))
    expected = {"astro": 2, "cort": 1, "cort_unlabelled": 1, "unlabelled": -1}
    names = list(found)
    seen = set()
    for step in range(3):
        category = dataset[step]["category"]
        assert (category.shape, category.dtype) == ((4,), np.int32)
        drawn = [names[places(dataset).request(4 * step + i).sequence] for i in range(4)]
        assert category.tolist() == [expected[name] for name in drawn]
        seen |= set(drawn)
    assert seen == set(names)


def test_a_category_that_the_config_does_not_know_is_refused(found):
    with pytest.raises(
        InputError, match=r"cort is of the category 'cort', the config has astro: add it to config\.data"
    ):
        crops(found, categories=("astro",))


def test_movies_have_no_category(tmp_path):
    from tests.data.test_pipeline import prepared

    movie = prepared(datasets.write_movie(tmp_path / "set", "01"), tmp_path / "store")
    batch = crops({"01": movie[0]}, categories=("astro",), shape=(16, 16))[0]
    assert batch["category"].tolist() == [-1] * 4
