"""Mask R-CNN as a task: what true heads cost and find, what unknown pixels say, and one program for any image."""

import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.metrics import instances
from celltrack_jax.metrics.overlap import overlap
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.models.mask_rcnn import MASK_SIZE, BoxOutputs, BoxRegions, Image, MaskRegions
from celltrack_jax.ops import boxes, roi_align
from celltrack_jax.tasks import detections, regions
from celltrack_jax.training import loop, progress
from configs.sartorius import mask_rcnn
from tests import tiny_store
from tests.representations.cells import touching_cells

SURE = 12.0
"""A logit near certainty."""
WIDE = {"score": 0.5, "nms_iou": 0.7, "pixel": 0.5, "min_area": 0.0, "max_area": 1e6, "min_pixels": 1}


def config_of(store="", categories=(), **changes):
    config = mask_rcnn.get_config("tiny")
    config.data.store, config.data.categories = str(store), categories
    config.detection.per_class = {name: dict(WIDE) for name in categories or ("cell",)}
    config.update_from_flattened_dict(changes)
    return config


def task_of(**changes) -> Any:
    return tasks.build(config_of(**changes))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store.make(tmp_path_factory.mktemp("movie"))


@pytest.fixture(scope="module")
def labels():
    """(64, 64) int32: cells of 3 to 9 pixels in radius that touch, and a corner of which nothing is known."""
    made = touching_cells((64, 64), (1, 1), 6.0, seed=3).astype(np.int32)
    made[56:, 56:] = -1
    return made


class TrueHeads:
    """The network that is never wrong: its pyramid is the label map itself."""

    def __init__(self, task, category=0, max_cells=63):
        self.task, self.category, self.max_cells = task, category, max_cells

    def __call__(self, x):
        if isinstance(x, BoxRegions):
            return jax.vmap(self.boxes)(x.pyramid[0], x.boxes), None
        if isinstance(x, MaskRegions):
            return jax.vmap(self.masks)(x.pyramid[0], x.boxes), None
        return jax.vmap(self.image)(x[..., 0].astype(jnp.int32)), {}

    def truth(self, labels, given):
        table = boxes.of_labels(labels, self.max_cells)
        overlaps = boxes.pairwise_iou(given, table)
        return table, overlaps.argmax(1), overlaps

    def image(self, labels):
        levels = self.task.anchors(labels.shape)
        every = jnp.concatenate([jnp.asarray(level) for level in levels])
        table, own, overlaps = self.truth(labels, every)
        met = overlaps.max(0) > 0
        object_here = (overlaps.max(1) >= 0.7).at[jnp.where(met, overlaps.argmax(0), -1)].max(met)
        ends = np.cumsum([len(level) for level in levels])[:-1]
        objectness = jnp.split(jnp.where(object_here, SURE, -SURE), ends)
        deltas = jnp.split(boxes.encode(table[own], every, (1.0,) * 4), ends)
        return Image((labels,), objectness, deltas)

    def boxes(self, labels, given):
        table, own, overlaps = self.truth(labels, given)
        count = len(self.task.classes)
        # Of two boxes of one cell the nearer one is surer.
        sure = jnp.where(overlaps.max(1) >= 0.5, SURE * overlaps.max(1), -SURE)
        logits = (
            jnp.zeros((len(given), 1 + count)).at[:, 1:].set(-2 * SURE).at[:, 1 + self.category].set(sure)
        )
        deltas = boxes.encode(table[own], given, self.task.rules.sampling.weights)
        return BoxOutputs(logits, jnp.repeat(deltas[:, None], count, 1))

    def masks(self, labels, given):
        _, own, _ = self.truth(labels, given)
        target, _ = roi_align.mask_targets(labels, own + 1, given, size=MASK_SIZE, samples=2)
        logits = jnp.log(jnp.clip(target, 1e-5, 1 - 1e-5)) - jnp.log1p(-jnp.clip(target, 1e-5, 1 - 1e-5))
        return jnp.repeat(logits[..., None], len(self.task.classes), -1)


def batch_of(labels, task, **more):
    many = np.repeat(labels[None], task.config.data.batch_size, 0)
    return {
        "image": many[..., None].astype(np.float32),
        "labels": many,
        "spacing": np.ones((len(many), 2), np.float32),
        "sample": np.arange(len(many), dtype=np.uint32),
        "category": np.full(len(many), 2, np.int32),
        **more,
    }


def judge(task, heads):
    """Returns batch -> loss and metrics, of samples that are not augmented."""
    keys = jax.random.split(jax.random.key(0), task.config.data.batch_size)

    @jax.jit
    def cost(batch):
        value, _, metrics = task.loss(heads, batch, keys, jnp.int32(0))
        return {**metrics, "loss": value}

    return lambda batch: {key: float(value) for key, value in cost(batch).items()}


STILL: dict[str, Any] = {
    **{
        f"augment.{kind}_probability": 0.0 for kind in ("flip", "rot90", "affine", "elastic", "gamma", "blur")
    },
    **{f"augment.{kind}_probability": 0.0 for kind in ("contrast", "noise", "renormalise", "brightness")},
    "data.margin": (0, 0),
    "data.batch_size": 2,
    "proposals.before": 400,
    "proposals.count": 400,
}


@pytest.fixture(scope="module")
def three_classes():
    """A task of three classes, and what its batches cost where the heads are true and say the third class."""
    task = task_of(categories=("a", "b", "c"), **STILL)
    return task, judge(task, TrueHeads(task, category=2))


def test_true_heads_cost_nothing_and_wrong_ones_do(labels, three_classes):
    task, cost = three_classes
    right = cost(batch_of(labels, task))
    assert right["recall"] == 1
    assert right["positives"] == task.rules.sampling.positives
    # Pixels on an outline are part cell, part not: their entropy is left.
    assert right["masks_loss"] < 0.15
    assert right["loss"] - right["masks_loss"] < 0.02
    shifted = np.roll(labels, 5, 0)
    wrong = cost(batch_of(labels, task, image=batch_of(shifted, task)["image"]))
    assert wrong["loss"] > 1
    assert all(
        wrong[f"{name}_loss"] > 0.02 for name in ("objectness", "anchors", "classes", "boxes", "masks")
    )

    # Without cells, known or not, nothing is positive.
    for empty in (np.zeros_like(labels), np.full_like(labels, -1)):
        nothing = cost(batch_of(empty, task))
        assert nothing["loss"] == pytest.approx(0, abs=1e-3)
        assert nothing["positives"] == 0
        assert nothing["recall"] == 1

    # What is unknown is no background.
    image = batch_of(labels, task)["image"]
    hidden = np.where(labels > labels.max() // 2, -1, labels)
    unknown = cost(batch_of(hidden, task, image=image))
    denied = cost(batch_of(np.maximum(hidden, 0), task, image=image))
    assert unknown["loss"] < 0.3
    assert denied["loss"] > 2 * unknown["loss"]


def test_the_class_of_a_sample_is_that_of_its_category(labels, three_classes):
    task, cost = three_classes
    right, wrong, unknown = (
        cost(batch_of(labels, task, category=np.array([2, other], np.int32))) for other in (2, 0, -1)
    )
    assert right["loss"] < 0.2
    assert wrong["classes_loss"] > 1
    assert unknown["classes_loss"] < 0.02
    assert unknown["loss"] < right["loss"] < wrong["loss"]


def found_by(task, heads, labels):
    """The label map that inference makes of what true heads say."""
    padded = np.pad(labels, [(0, -size % 64) for size in labels.shape])

    def detect(image, size):
        return detections.detect(
            lambda x: heads(x)[0],
            image,
            size,
            task.anchors(padded.shape),
            task.reading,
            task.rules,
        )

    found = jax.jit(detect)(padded[..., None].astype(np.float32), np.array(labels.shape))
    return found, task.cells(found, task.reading, labels.shape)


def test_true_heads_give_the_labels_back():
    """Boxes and masks of the truth go all the way: proposals, classes, suppression, masks, one label map."""
    truth = touching_cells((90, 110), (1, 1), 7.0, seed=5).astype(np.int32)
    count, category = int(truth.max()), 2
    task = task_of(
        categories=("a", "b", "c"),
        **{"proposals.before": 400, "proposals.count": 400, "detection.count": 300},
    )
    found, cells = found_by(task, TrueHeads(task, category, count), truth)
    assert int(found.valid.sum()) == count
    assert found.lost == 0
    np.testing.assert_array_equal(np.asarray(found.classes)[:count], category)
    assert (np.diff(np.asarray(found.scores)[:count]) <= 0).all()
    matched = instances.match(overlap(truth, cells.labels, 0), 0.5)
    assert len(matched.ref) == cells.labels.max() == count
    assert matched.iou.min() > 0.9
    np.testing.assert_array_equal(cells.category, category)
    np.testing.assert_array_equal(np.unique(cells.labels), np.arange(count + 1))


def test_the_class_of_an_image_is_that_of_most_detections():
    truth = touching_cells((60, 60), (1, 1), 7.0, seed=5).astype(np.int32)

    class Mixed(TrueHeads):
        """Cells of odd numbers are of class 0, the others of class 1; there are fewer of these."""

        def boxes(self, labels, given):
            said = super().boxes(labels, given)
            _, own, _ = self.truth(labels, given)
            even = (own[:, None] % 3 == 1) & (jnp.arange(3) > 0)
            swapped = said.logits[:, jnp.array([0, 2, 1])]
            return said._replace(logits=jnp.where(even.any(1, keepdims=True), swapped, said.logits))

    kinds = {}
    for one_class in (False, True):
        task = task_of(categories=("a", "b"), **{"detection.one_class": one_class, "proposals.before": 200})
        kinds[one_class] = found_by(task, Mixed(task, 0, int(truth.max())), truth)[1].category
    assert set(kinds[False].tolist()) == {0, 1}
    assert set(kinds[True].tolist()) == {0}
    assert (kinds[False] == 0).sum() == len(kinds[True])


def test_each_class_is_read_by_its_own_thresholds():
    truth = touching_cells((60, 60), (1, 1), 7.0, seed=5).astype(np.int32)
    area = np.bincount(truth.reshape(-1))[1:]
    limit = float(np.median(area)) + 0.5
    task = task_of(categories=("a", "b"), **{"proposals.before": 200})
    found, cells = found_by(task, TrueHeads(task, 1, int(truth.max())), truth)
    programs = task._paint._cache_size()

    def count(**changes):
        reading = task.reading._replace(
            **{key: np.array([0, each], np.float32) for key, each in changes.items()}
        )
        return task.cells(found, reading, truth.shape).labels.max()

    assert count() == len(area) == cells.labels.max()
    assert count(pixel=1.0) == 0
    assert count(min_pixels=limit) == pytest.approx((area > limit).sum(), abs=1)
    assert count(min_area=limit) == pytest.approx((area > limit).sum(), abs=1)
    assert count(max_area=limit) == pytest.approx((area < limit).sum(), abs=1)
    assert task._paint._cache_size() == programs, "other thresholds need no other program"


class Hesitant(TrueHeads):
    """True heads whose boxes are shifted and of any class, so that many overlap."""

    def boxes(self, labels, given):
        said = super().boxes(labels, given)
        noise = jax.random.normal(jax.random.key(1), (2, *said.deltas.shape)) * 0.7
        logits = 2 * jax.random.normal(jax.random.key(2), said.logits.shape)
        return BoxOutputs(logits, said.deltas + noise[0])


def test_candidates_are_read_as_they_would_be_detected():
    """The network is applied once; other thresholds, and classes that vote otherwise for them, need it no more."""
    truth = touching_cells((60, 60), (1, 1), 7.0, seed=5).astype(np.int32)
    rng = np.random.default_rng(0)
    task = task_of(
        categories=("a", "b"),
        **{
            "proposals.before": 100,
            "proposals.count": 100,
            "detection.count": 30,
            "detection.one_class": True,
        },
    )
    heads = Hesitant(task, 0, int(truth.max()))
    image, size = np.pad(truth, ((0, 4), (0, 4)))[..., None].astype(np.float32), np.array([60, 60])
    parts: Any = (lambda x: heads(x)[0], image, size, task.anchors(image.shape[:2]))
    detect: Any = detections.detect
    direct = jax.jit(lambda reading: detect(*parts, reading, task.rules))
    every = jax.jit(lambda: detections.candidates(*parts, rules=task.rules))()
    assert len(every.valid) == 200
    kinds, programs = set(), task._choose._cache_size()
    for _ in range(8):
        reading = task.reading._replace(
            score=rng.uniform(0.05, 0.8, 2).astype(np.float32),
            nms_iou=rng.uniform(0.05, 0.8, 2).astype(np.float32),
        )
        wanted, found = direct(reading), task._choose(every, reading, task.rules.detecting)
        for name in ("boxes", "scores", "valid", "lost"):
            np.testing.assert_array_equal(getattr(wanted, name), getattr(found, name), name)
        np.testing.assert_array_equal(wanted.classes[wanted.valid], found.classes[found.valid])
        np.testing.assert_allclose(wanted.masks, found.masks, atol=1e-5)
        kinds |= set(np.asarray(found.classes[found.valid]).tolist())
    assert kinds == {0, 1}
    assert task._choose._cache_size() == programs + 1


def test_one_program_serves_images_of_any_number_of_cells_and_any_size_below_the_padded_one():
    task = task_of()
    model = FunctionalModel(task.model)
    detect = task.detector(model, jax.jit(model.init)(jax.random.key(0)))
    reading = task.reading._replace(score=np.zeros(1, np.float32))
    rng = np.random.default_rng(0)
    for size in ((64, 64), (40, 50), (64, 33)):
        for cells in (0, 3, 40):
            image = rng.normal(0, 0.05, size).astype(np.float32)
            for y, x in rng.integers(0, 30, (cells, 2)):
                image[y : y + 8, x : x + 8] += 1
            found = detect(image[..., None], reading)
            assert np.asarray(found.boxes).max() <= max(size)
            assert task.cells(found, reading, size).labels.shape == size
    assert task._detect._cache_size() == 1


def test_batches_have_the_promised_shapes(store):
    task = task_of(store=store)
    assert {key: (value.shape, value.dtype) for key, value in task.train_data((0, 1))[3].items()} == {
        key: (value.shape, value.dtype) for key, value in task.batch_spec().items()
    }
    assert task_of(categories=("a", "b")).batch_spec()["category"].shape == (task.config.data.batch_size,)


@pytest.mark.slow
def test_a_step_is_felt_by_all_parts_of_the_network(store):
    task = task_of(store=store)
    batch = task.train_data((0, 1))[3]
    model = FunctionalModel(task.model)
    variables = jax.jit(model.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(batch["sample"]))

    def loss(params):
        return task.loss(
            lambda x: model.apply(Variables(params, variables.stats), x, train=True),
            {key: jnp.asarray(value) for key, value in batch.items()},
            keys,
            jnp.int32(0),
        )[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables.params)
    assert np.isfinite(value)
    norms = {
        jax.tree_util.keystr(path): float(jnp.abs(x).max())
        for path, x in jax.tree.leaves_with_path(gradients)
    }
    assert all(np.isfinite(norm) for norm in norms.values())
    still = {name for name, norm in norms.items() if norm == 0}
    # Behind a norm whose scale starts at zero nothing is felt in the first step.
    assert all("'stages'" in name for name in still), still


@pytest.mark.slow
def test_a_few_images_are_learned_by_heart(store, tmp_path):
    config = config_of(store=store)
    config.evaluation.store = str(shutil.copytree(store, tmp_path / "store"))
    config.detection.per_class = {"cell": WIDE | {"score": 0.5, "nms_iou": 0.4}}
    config.train.steps, config.train.evaluate_every, config.train.save_every = 400, 400, 400
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 3e-3, 20
    assert loop.train(tasks.build(config), config, tmp_path / "run")
    rows = progress.read_history(tmp_path / "run")
    scores = [row for row in rows if "AP50" in row][-1]
    assert scores["AP50"] > 0.5, scores


def test_it_is_judged_by_the_instances_of_whole_frames(store, monkeypatch):
    task = task_of(
        store=store, **{"evaluation.holdout": 0.3, "proposals.before": 400, "proposals.count": 400}
    )
    truths = []

    def detector(model, variables):
        def detect(image, reading):
            sequence, frames = task._held_out()[0]
            t = frames[len(truths)]
            truth = np.asarray(sequence.labels["segmentation"][t, 0, 0].read().result(), np.int32)
            truths.append(truth)
            return found_by(task, TrueHeads(task, 0, int(truth.max())), truth)[0]

        return detect

    monkeypatch.setattr(task, "detector", detector)
    scores = task.evaluate(None, None, lambda: False)
    assert len(truths) == task.config.evaluation.max_frames == 2
    assert scores["AP50"] == scores["AP75"] == scores["all/AP50"] == scores["all/precision75"] == 1
    assert scores["mAP"] == scores["score"] > 0.9
    assert scores["images"] == 2
    assert scores["lost"] == 0
    assert task.evaluate(None, None, lambda: True) is None


def test_what_does_not_go_together_is_refused():
    with pytest.raises(InputError, match=r"detection.per_class is of \['cell'\]: give it for \['a', 'b'\]"):
        task_of(**{"data.categories": ("a", "b")})
    with pytest.raises(InputError, match=r"proposals.sizes has 2 levels: give 5"):
        task_of(**{"proposals.sizes": ((8.0,), (16.0,))})
    with pytest.raises(InputError, match=r"data.crop \(40, 64\) is not a multiple of the model's stride"):
        task_of(**{"data.crop": (40, 64)})
    with pytest.raises(InputError, match=r"inference.multiple \(24, 24\) is not a multiple"):
        task_of(**{"inference.multiple": 24})
    with pytest.raises(InputError, match=r"set --config\.mesh\.space=1"):
        task_of(**{"mesh.space": 2})
    config = config_of()
    config.data.diameter_px = 30.0
    with pytest.raises(InputError, match=r"data.diameter_px is 30.0, but Mask R-CNN"):
        tasks.build(config)
    with pytest.raises(InputError, match=r"config.proposals: .*negative_iou <= positive_iou"):
        task_of(**{"proposals.negative_iou": 0.9})
    with pytest.raises(InputError, match=r"config.regions: samples 0"):
        task_of(**{"regions.samples": 0})
    with pytest.raises(InputError, match=r"config.detection: count 0"):
        task_of(**{"detection.count": 0})
    assert regions.Sampling(10, 0.01, 0.5, (1, 1, 1, 1)).positives == 1
