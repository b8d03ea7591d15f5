"""Images that are judged one by one: true maps have all cells back, at whatever size the network sees them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, special

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.metrics import instances
from celltrack_jax.metrics.overlap import overlap
from celltrack_jax.tasks import images
from configs.ctc import segment
from configs.sartorius import cellpose
from tests.data import collections_on_disk as collection

SHAPE = (90, 110)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {
        f"{kind[0]}{k}": (kind, collection.discs(SHAPE, radius, k))
        for kind, radius in (("astro", 9.0), ("cort", 6.0))
        for k in range(4)
    }
    return collection.write(tmp_path_factory.mktemp("collection"), made)


def task_of(folder, diameter_px=0.0, **changes):
    config = segment.get_config("tiny")
    config.task = "images"
    config.data.store = str(folder)
    config.data.update({"categories": ("astro", "cort"), "diameter_px": diameter_px})
    config.evaluation.update({"folds": 2, "fold": 0, "diameters": "known"} | changes)
    return tasks.build(config)


def evaluate(task: Any, stopped: bool = False):
    return task.evaluate(None, None, lambda: stopped)


def judged(task, monkeypatch, change=lambda labels: labels):
    """Scores what a network says that sees the discs by their brightness, and the shapes it was given."""
    shapes = []

    def forward(image):
        shapes.append(image.shape[1:3])
        bright = ndimage.gaussian_filter(np.asarray(image[0, ..., 0]), 1) > 0.5
        labels = np.zeros(bright.shape, np.int32)
        ndimage.label(bright, output=labels)
        target = task.representation.target(jnp.asarray(change(labels), jnp.int32), jnp.ones(2))
        return task.representation.perfect(target)[None]

    monkeypatch.setattr(task, "predictor", lambda model, variables: forward)
    return evaluate(task), shapes


def test_the_true_map_has_every_cell_of_every_image(folder, monkeypatch):
    scores, shapes = judged(task_of(folder), monkeypatch)
    assert scores["images"] == 4
    assert scores["AP50"] == scores["astro/AP50"] == scores["cort/AP50"] == 1
    assert scores["mAP"] == scores["score"] > 0.6
    assert set(shapes) == {(96, 128)}


def test_a_cell_that_lacks_costs_its_image(folder, monkeypatch):
    scores, _ = judged(task_of(folder), monkeypatch, lambda labels: np.where(labels == 1, 0, labels))
    assert scores["AP50"] == pytest.approx(4 / 5)


def test_images_are_judged_at_the_diameter_that_is_taught(folder, monkeypatch):
    """Discs of 18 and 12 pixels at 24: the images grow by a third and to twice their size."""
    scores, shapes = judged(task_of(folder, 24.0), monkeypatch)
    assert scores["AP50"] == 1
    assert set(shapes) == {(128, 192), (192, 256)}
    # Cells of half the images are smaller than the median, 15.
    _, shapes = judged(task_of(folder, 24.0, diameters="median"), monkeypatch)
    assert set(shapes) == {(192, 192)}


def test_a_stop_ends_the_evaluation(folder):
    assert evaluate(task_of(folder), stopped=True) is None


@pytest.mark.parametrize(
    ("size", "room"), [(1, 8), (8, 8), (9, 16), (17, 24), (25, 32), (520, 768), (33, 48)]
)
def test_rooms_are_multiples_of_which_there_are_two_to_a_doubling(size, room):
    assert images._room(size, 8) == room


def flow_task(folder):
    config = cellpose.get_config("tiny")
    config.data.store, config.data.diameter_px = str(folder), 0.0
    config.evaluation.update({"folds": 2, "fold": 0, "max_frames": 64})
    return tasks.build(config)


def test_flows_are_read_by_other_settings_and_cells_are_as_sure_as_their_pixels(folder, monkeypatch):
    """Of the truth's flows; the first cell of each image is less probable than the others."""
    task: Any = flow_task(folder)
    image = task.judged_images()[0]
    truth = image.truth()
    target = task.representation.target(jnp.asarray(truth, jnp.int32), jnp.ones(2))
    output = np.array(task.representation.perfect(target))
    output[..., 2] = np.where(truth == 1, 1.0, np.where(truth > 0, 3.0, -3.0))
    monkeypatch.setattr(task, "predictor", lambda model, variables: pytest.fail("it is not applied again"))
    plain = task.read(image, output, {})
    matched = instances.match(overlap(truth, plain.labels, 0), 0.9)
    assert len(matched.ref) == plain.labels.max() == len(plain.confidence) == 5
    assert sorted(plain.confidence) == pytest.approx([special.expit(1), *[special.expit(3)] * 4], abs=1e-4)
    fewer = task.read(image, output, {"representation.cellprob_threshold": 2.0})
    assert fewer.labels.max() == len(fewer.confidence) == 4
    size = int(np.bincount(truth.ravel())[1])
    assert task.read(image, output, {"representation.min_size": size + 20}).labels.max() == 0
    keys = [axis.key.removeprefix("representation.") for axis in task.axes()]
    assert keys == ["cellprob_threshold", "flow_threshold", "min_size"]
    for axis in task.axes():
        assert axis.present in axis.values
        assert {type(value) for value in axis.values} == {type(axis.present)}


def test_images_whose_cells_are_all_outlined_are_judged(folder):
    task: Any = flow_task(folder)
    images = task.judged_images()
    assert [(image.category, image.name.partition("/")[0]) for image in images] == [
        *[("astro", "astro")] * 2,
        *[("cort", "cort")] * 2,
    ]
    assert images[0].truth().shape == images[0].picture().shape == SHAPE
    task._sequences[0].annotation[images[1].t] = "sparse"
    assert [image.name for image in task.judged_images()] == [
        image.name for image in images if image.name != images[1].name
    ]


def test_what_is_not_known_is_refused(folder):
    with pytest.raises(InputError, match=r"evaluation\.diameters is 'guessed'"):
        task_of(folder, diameters="guessed")
