"""Images that are judged one by one: true maps have all cells back, at whatever size the network sees them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, special

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.metrics import instances
from celltrack_jax.metrics.overlap import overlap
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.ops.diameters import SizeModel
from celltrack_jax.representations import flow
from celltrack_jax.training import checkpoint, size_models
from configs.ctc import segment
from configs.sartorius import cellpose
from tests.data import collections_on_disk as collection
from tests.inference.workdirs import save_untrained

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


def seen_by_brightness(task, monkeypatch, change=lambda labels: labels):
    """Gives a task a network that sees the discs by their brightness; returns the shapes that it was given."""
    shapes = []

    def forward(image):
        shapes.append(image.shape[1:3])
        bright = ndimage.gaussian_filter(np.asarray(image[0, ..., 0]), 1) > 0.5
        labels = np.zeros(bright.shape, np.int32)
        ndimage.label(bright, output=labels)
        target = task.representation.target(jnp.asarray(change(labels), jnp.int32), jnp.ones(2))
        return task.representation.perfect(target)[None]

    monkeypatch.setattr(task, "predictor", lambda model, variables: forward)
    return shapes


def judged(task, monkeypatch, change=lambda labels: labels):
    """Scores what that network says, and the shapes it was given."""
    shapes = seen_by_brightness(task, monkeypatch, change)
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


def sized(folder, **changes) -> tuple[Any, FunctionalModel, Any]:
    """A task with a size model, its network, and weights that nobody trained: their styles tell sizes all the same."""
    config = cellpose.get_config("tiny")
    config.data.update({"store": str(folder), "categories": ("astro", "cort"), "diameter_px": 24.0})
    config.evaluation.update({"folds": 2, "fold": 0, "diameters": "size model", "max_frames": 4})
    config.size_model.update({"samples": 64, "penalty": 1e-6, "tile": (96, 96)})
    config.update_from_flattened_dict(changes)
    task = tasks.build(config)
    model = FunctionalModel(task.model)
    return task, model, jax.jit(model.init)(jax.random.key(0))


def roundness(_, __, image):
    """A style that tells the size of discs: the logarithm of their area over their circumference."""
    bright = ndimage.gaussian_filter(image[0], 1) > 0.5
    edge = np.logical_and(bright, np.logical_not(ndimage.binary_erosion(bright)))
    return np.log([max(bright.sum(), 1) / max(edge.sum(), 1)])


def test_a_size_model_tells_images_of_two_scales_apart(folder, monkeypatch):
    """Discs of 18 and 12 pixels, of which the median would be wrong by a fifth."""
    task, model, variables = sized(folder)
    monkeypatch.setattr(task, "_style_of", roundness)
    shapes = seen_by_brightness(task, monkeypatch)
    sizes = task.fit_sizes(model, variables, lambda: False)
    # Scales of 0.5 to 1.5.
    assert sizes.least < 8
    assert sizes.most > 24
    told = {}
    for sequence, frames in task._held_out():
        views = [task._image(sequence, t, (slice(1), slice(None), slice(None))) for t in frames]
        told[sequence.name] = sizes.diameters([task._style_of(model, variables, view) for view in views])
    np.testing.assert_allclose(told["astro"], 18, rtol=0.15)
    np.testing.assert_allclose(told["cort"], 12, rtol=0.15)

    scores = task.evaluate(model, variables, lambda: False)
    assert scores["AP50"] == 1
    assert scores["diameter_error"] < 0.1
    assert len(shapes) > scores["images"], "the cells that were found correct the diameter"
    assert task.evaluate(model, variables, lambda: True) is None
    assert task.data_facts() == {"median_diameter_px": pytest.approx(15, rel=0.1)}


@pytest.mark.parametrize(("least", "most", "decodes"), [(14.0, 14.0, 1), (14.0, 21.0, 2)])
def test_no_output_is_decoded_twice(folder, monkeypatch, least, most, decodes):
    """The style says 14 pixels of discs of 18 and 12: where that is kept, so are the cells that were found by it."""
    task, model, variables = sized(folder)
    monkeypatch.setattr(task, "_style_of", lambda *_: np.zeros(1))
    sizes = SizeModel(np.zeros(1), np.zeros(1), math.log(14 / 30), least, most)
    monkeypatch.setattr(task, "fit_sizes", lambda *_: sizes)
    seen_by_brightness(task, monkeypatch)
    decoded, decode = [], type(task.representation).decode

    def counted(*given):
        decoded.append(given)
        return decode(*given)

    monkeypatch.setattr(type(task.representation), "decode", counted)
    image = task.judged_images()[0]
    seen = task._image(image.sequence, image.t, image.window)
    cells = task.image_reader(model, variables, sizes)(seen)
    assert len(decoded) == decodes
    decoded.clear()
    results = list(task.results(model, variables, lambda: False))
    # Discs of 12 pixels are taken for 14 in either case.
    assert [result.image.category for result in results] == ["astro", "astro", "cort", "cort"]
    assert len(decoded) == 2 * decodes + 2
    # What is carried along is what the output is read as.
    again = task.read(*next(task.outputs(model, variables, lambda: False)), {})
    np.testing.assert_array_equal(results[0].labels, again.labels)
    np.testing.assert_array_equal(results[0].confidence, again.confidence)
    np.testing.assert_array_equal(results[0].labels, cells.labels)
    assert again.labels.max() == 5


def test_images_of_many_sizes_share_few_programs(folder, monkeypatch):
    task, model, variables = sized(folder)
    sizes = task.fit_sizes(model, variables, lambda: False)._replace(least=20.0, most=28.0)
    shapes = seen_by_brightness(task, monkeypatch)
    reader = task.image_reader(model, variables, sizes)
    programs = (task._style, flow._follow, flow._gathered, flow._errors)
    rng, before = np.random.default_rng(0), [program._cache_size() for program in programs]
    for _ in range(10):
        size = tuple(rng.integers(57, 65, 2).tolist())
        image = np.where(collection.discs(size, 8.0, 0, 3) > 0, 1, rng.normal(0, 0.1, size))
        found = reader(image[None].astype(np.float32))
        assert found.labels.shape == size
        assert 20 <= found.diameter_px <= 28
    made = [program._cache_size() - count for program, count in zip(programs, before, strict=True)]
    assert max(made) <= 1, "a room of 64 x 64"
    # 49 to 77 pixels.
    assert {size for shape in shapes for size in shape} <= {64, 96}


def test_a_size_model_is_fitted_once_to_the_same_weights(folder, monkeypatch):
    """Those of a checkpoint are other arrays of the same numbers."""
    task, model, variables = sized(folder)
    views = []
    monkeypatch.setattr(
        task, "_style_of", lambda *_: views.append(1) or np.random.default_rng(len(views)).random(2)
    )
    seen_by_brightness(task, monkeypatch)
    assert task.fit_sizes(model, variables, lambda: True) is None
    views.clear()
    assert task.evaluate(model, variables, lambda: False) is not None
    images = len(task.judged_images())
    assert len(views) == task.sizing.samples + images
    again = task.fit_sizes(model, jax.tree.map(np.array, variables), lambda: False)
    assert again is not None
    assert len(views) == task.sizing.samples + images
    params = jax.tree.map(np.array, variables.params)
    jax.tree.leaves(params)[-1][...] += 1e-6
    other = task.fit_sizes(model, variables._replace(params=params), lambda: False)
    assert len(views) == 2 * task.sizing.samples + images
    assert not np.array_equal(other.weights, again.weights)


def test_a_size_model_needs_a_network_with_styles(folder):
    config = segment.get_config("tiny")
    config.task = "images"
    config.data.update({"store": str(folder), "categories": ("astro", "cort"), "diameter_px": 24.0})
    config.evaluation.update({"folds": 2, "fold": 0, "diameters": "size model"})
    with pytest.raises(InputError, match="the config has no size_model: add it"):
        tasks.build(config)
    config.size_model = cellpose.get_config("tiny").size_model
    with pytest.raises(InputError, match="networks that give a style, such as cpnet, and unet does not"):
        tasks.build(config)
    with pytest.raises(InputError, match=r"config\.size_model: samples 0"):
        sized(folder, **{"size_model.samples": 0})
    # At their own size images need no diameter.
    assert sized(folder, **{"data.diameter_px": 0.0})[0].sizing is None


def test_the_size_model_of_a_run_is_kept_by_step_and_fitted_once(folder, tmp_path):
    task, model, _ = sized(folder)
    save_untrained(tmp_path, task.config)
    said: list[str] = []
    assert not size_models.fit_missing(task, tmp_path, lambda: True, said.append)
    assert size_models.load(tmp_path, 0) is None
    assert size_models.fit_missing(task, tmp_path, lambda: False, said.append)
    step, variables = checkpoint.restore_variables(tmp_path, "latest", model)
    kept, fitted = size_models.load(tmp_path, step), task.fit_sizes(model, variables, lambda: False)
    assert kept is not None
    for one, other in zip(kept, fitted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert size_models.fit_missing(task, tmp_path, lambda: True, said.append), "nothing is left to do"
    assert [line.partition(" ")[0] for line in said] == ["fitting", "fitting", "fitted"]
    size_models.path_of(tmp_path, step).write_text("{}")
    with pytest.raises(InputError, match=r"size_models/0\.json .*remove it"):
        size_models.load(tmp_path, step)
