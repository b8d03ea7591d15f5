"""What a teacher says becomes labels where it is sure, counts by its weight, and reaches no held-out image."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.tasks import TaughtTask
from celltrack_jax.tasks.frames import FrameData
from celltrack_jax.tasks.images import ImageTask
from celltrack_jax.tasks.semi import OTHER, Semi, SemiImages, SemiMaskRCNN, SemiSupervised
from celltrack_jax.training import checkpoint, loop, progress
from configs.sartorius import cellpose, mask_rcnn, semi
from tests.data import collections_on_disk as collection
from tests.representations.cells import touching_cells
from tests.tasks.test_mask_rcnn import WIDE, TrueHeads

SHAPE = (70, 80)
TRUST = {"images": {"flow_error": 0.2, "sure": 0.9, "flips": True}, "mask_rcnn": {"score": 0.7, "doubt": 0.1}}


def config_of(base, folder="", trust=None, **changes) -> Any:
    config = base.get_config("tiny")
    config.semi = {
        "task": config.task,
        "labels": 0.25,
        "weight": 0.5,
        "ramp_steps": 10,
        "trust": {**TRUST[config.task], **(trust or {})},
    }
    config.task = "semi"
    config.data.store = str(folder)
    config.data.update({"categories": ("astro", "cort")})
    config.evaluation.update({"folds": 3, "fold": 1})
    if base is mask_rcnn:
        config.detection.per_class = {name: dict(WIDE) for name in ("astro", "cort")}
    config.update_from_flattened_dict(changes)
    return config


def task_of(base, *given, **changes) -> Any:
    return tasks.build(config_of(base, *given, **changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images of each of two types, and one of each without annotation; cells of astro are larger."""
    images = {
        f"{kind[0]}{k}": (kind, collection.discs(SHAPE, radius + k % 2, k))
        for kind, radius in (("astro", 8.0), ("cort", 5.0))
        for k in range(6)
    }
    return collection.write(tmp_path_factory.mktemp("collection"), images, ("cort_1", "astro_1"))


def test_held_out_images_are_neither_taught_nor_told(folder):
    task = task_of(cellpose, folder)
    taught, others = task._taught(), task._unlabelled(task._taught())
    held = [frames for _, frames in task._held_out()]
    names = [one.name for one in task._sequences]
    assert names == ["astro", "astro_unlabelled", "cort", "cort_unlabelled"]
    assert [len(frames) for frames in taught] == [1, 0, 1, 0]
    for sequence, *parts in zip(task._sequences, taught, others, held, strict=True):
        assert sorted(t for part in parts for t in part) == list(range(sequence.shape[0]))
    assert [len(frames) for frames in others] == [3, 1, 3, 1]
    # The judged images are those of a run without any of this.
    assert [len(frames) for frames in held] == [2, 0, 2, 0]


def test_a_larger_budget_holds_the_images_of_a_smaller_one(folder):
    kept = []
    for share in (0.05, 0.25, 0.5, 1.0):
        task = task_of(cellpose, folder, **{"semi.labels": share, "seed": int(100 * share)})
        kept.append({(s, t) for s, frames in enumerate(task._taught()) for t in frames})
    assert [len(chosen) for chosen in kept] == [2, 2, 4, 8]
    assert all(less <= more for less, more in itertools.pairwise(kept))


def test_batches_hold_as_many_images_of_each_and_the_labels_of_one(folder):
    task = task_of(cellpose, folder)
    batch = task.train_data((0, 1))[3]
    assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {
        key: (x.shape, x.dtype) for key, x in task.batch_spec().items()
    }
    assert (batch["labels"] > 0).any()
    assert OTHER + "labels" not in batch
    # Diameters are those of what is annotated: of one image of each type, at which all are read.
    (astro,), (cort,) = (frames for frames in task._taught() if frames)
    diameters = {0: 2 * (8.0 + astro % 2), 1: 2 * (5.0 + cort % 2)}
    spacing = {kind: size / task.config.data.diameter_px for kind, size in diameters.items()}
    for k in range(8):
        batch = task.train_data((0, 1))[k]
        for prefix in ("", OTHER):
            wanted = [spacing[int(kind)] for kind in batch[prefix + "category"]]
            np.testing.assert_allclose(batch[prefix + "spacing"][:, 0], wanted, rtol=0.08)
    alone = task_of(cellpose, folder, **{"semi.weight": 0.0})
    first = alone.train_data((0, 1))[0]
    assert set(first) == set(alone.batch_spec()) == {"image", "labels", "spacing", "sample", "category"}
    np.testing.assert_array_equal(first["image"], task.train_data((0, 1))[0]["image"])


def test_a_store_without_other_images_is_refused(folder, tmp_path):
    images = {f"a{k}": ("astro", collection.discs(SHAPE, 8.0, k)) for k in range(6)}
    whole = collection.write(tmp_path, images)
    with pytest.raises(InputError, match=r"has no image without annotation, and semi\.labels is 1\.0"):
        task_of(cellpose, whole, **{"semi.labels": 1.0}).train_data((0, 1))
    assert task_of(cellpose, whole, **{"semi.labels": 0.5}).train_data((0, 1))[0]


def saying(task, labels):
    """A teacher that is never wrong of an image that shows its labels, flipped or not."""

    def teacher(image):
        perfect = lambda one: task.representation.perfect(task.representation.target(one, jnp.ones(2)))  # noqa: E731
        return {"cells": jax.vmap(perfect)(image[..., 0].astype(jnp.int32))}

    return teacher, jnp.asarray(labels, jnp.float32)[None, ..., None]


@pytest.fixture(scope="module")
def labels():
    """(64, 64) int32 of cells that touch."""
    return touching_cells((64, 64), (1, 1), 7.0, seed=3).astype(np.int32)


def same_cells(found, truth):
    """Share of the true cells that one found cell covers with an IoU above 0.8."""
    met = 0
    for cell in range(1, truth.max() + 1):
        inside = truth == cell
        names, counts = np.unique(found[inside & (found > 0)], return_counts=True)
        union = (found == names[counts.argmax()]) | inside if len(names) else inside
        met += len(names) > 0 and counts.max() / union.sum() > 0.8
    return met / truth.max()


@pytest.mark.parametrize("flips", [False, True])
def test_a_teacher_of_flows_that_is_never_wrong_is_believed(labels, flips):
    task = task_of(cellpose, trust={"flips": flips}, **{"representation.min_size": 5})
    teacher, image = saying(task, labels)
    told = np.asarray(
        jax.jit(lambda x: task.ask_teacher(teacher, {OTHER + "image": x})[OTHER + "labels"])(image)
    )[0]
    assert same_cells(told, labels) > 0.9
    np.testing.assert_array_equal(told == 0, labels == 0)


def test_cells_whose_flows_do_not_fit_are_unknown_as_is_what_is_unsure(labels):
    task = task_of(cellpose, **{"representation.min_size": 5})
    target = task.representation.target(jnp.asarray(labels), jnp.ones(2))
    said = np.array(task.representation.perfect(target))
    # The upper half's flows are turned halfway to the left, and background on the right is likely but not sure.
    y, x = said[:32, ..., 0].copy(), said[:32, ..., 1].copy()
    said[:32, ..., 0], said[:32, ..., 1] = 0.5 * y - 0.87 * x, 0.87 * y + 0.5 * x
    said[:, 48:, 2] = np.where(labels[:, 48:] > 0, said[:, 48:, 2], -1.0)
    believe = jax.jit(lambda p, e: task.representation.believed(p, flow_error=e, sure=0.9))
    strict, lenient = (np.asarray(believe(said, error)) for error in (0.2, 4.0))
    lower = labels * (np.arange(64)[:, None] > 40)
    upper = (labels > 0) & (np.arange(64)[:, None] < 20)
    assert (strict[upper] == -1).mean() > 0.9
    assert (lenient[upper] > 0).mean() > 0.5
    assert ((strict > 0) == (lower > 0))[42:].mean() > 0.9
    background = labels == 0
    assert (strict[:, :48][background[:, :48]] == 0).all()
    assert (strict[:, 48:][background[:, 48:]] == -1).all()


def test_detections_are_cells_above_the_score_and_unknown_between():
    truth = touching_cells((64, 64), (1, 1), 7.0, seed=5).astype(np.int32)
    task = task_of(mask_rcnn, **{"proposals.before": 400, "proposals.count": 400, "detection.count": 60})

    class Doubtful(TrueHeads):
        """Cells of even numbers have scores of about 0.5."""

        def boxes(self, labels, given):
            said = super().boxes(labels, given)
            _, own, overlaps = self.truth(labels, given)
            even = (own % 2 == 1) & (overlaps.max(1) >= 0.5)
            logits = said.logits.at[:, 1].set(jnp.where(even, 0.3 * overlaps.max(1), said.logits[:, 1]))
            return said._replace(logits=logits)

    heads = Doubtful(task, 0, int(truth.max()))
    image = jnp.asarray(truth, jnp.float32)[None, ..., None]
    batch = {OTHER + "image": image}
    told = np.asarray(
        jax.jit(lambda x: task.ask_teacher(lambda x: heads(x)[0], batch)[OTHER + "labels"])(image)
    )[0]
    cells = range(1, truth.max() + 1)
    kinds = np.array(
        [[(np.sign(told[truth == cell]) == kind).sum() for kind in (-1, 0, 1)] for cell in cells]
    )
    np.testing.assert_array_equal(kinds.argmax(1) - 1, [-1 if cell % 2 == 0 else 1 for cell in cells])
    assert (told[truth == 0] == 0).mean() > 0.8


def test_the_weight_grows_and_stays():
    spec = Semi("images", 0.5, 0.8, 100, {})
    weights = [float(spec.weight_at(jnp.int32(step))) for step in (0, 49, 99, 500)]
    np.testing.assert_allclose(
        weights, [0.8 * np.exp(-5 * 0.99**2), 0.8 * np.exp(-1.25), 0.8, 0.8], rtol=1e-5
    )
    assert float(Semi("images", 0.5, 0.8, 0, {}).weight_at(jnp.int32(0))) == pytest.approx(0.8)


def test_the_loss_is_the_sum_of_both_by_the_weight(labels):
    """Of a network that says the same everywhere, and whose statistics are the light of its images."""
    task = task_of(cellpose, **{"semi.weight": 0.8, "semi.ramp_steps": 100, "data.batch_size": 2})
    read = np.repeat(labels[None], 2, 0)
    own = {
        "image": np.zeros((*read.shape, 1), np.float32),
        "labels": read,
        "spacing": np.ones((2, 2), np.float32),
    }
    other = {**own, "image": own["image"] + 1, "labels": np.where(read % 2, read, -1)}
    keys = jax.random.split(jax.random.key(0), 2)

    def apply(image):
        return {"cells": jnp.ones((*image.shape[:-1], 3))}, {"light": image.mean(), "fixed": jnp.float32(0.1)}

    batch = own | {OTHER + key: x for key, x in other.items()}
    loss = jax.jit(lambda batch, step: task.loss(apply, batch, keys, step))
    value, stats, metrics = loss(batch, 49)
    base = jax.jit(lambda batch, keys: ImageTask.loss(task, apply, batch, keys, jnp.int32(0))[0])
    first = float(base(own, keys))
    weight = 0.8 * np.exp(-1.25)
    assert float(metrics[OTHER + "weight"]) == pytest.approx(weight)
    assert float(value) == pytest.approx(first + weight * float(metrics[OTHER + "loss"]), rel=1e-5)
    # Other images are augmented by keys of their own.
    assert float(metrics[OTHER + "loss"]) != pytest.approx(float(base(other, keys)), rel=1e-3)
    assert float(metrics[OTHER + "known"]) == pytest.approx((other["labels"] >= 0).mean())
    assert float(metrics[OTHER + "cell"]) == pytest.approx((other["labels"] > 0).mean())
    assert float(stats["light"]) == pytest.approx(0.5, abs=0.1)
    assert float(stats["fixed"]) == np.float32(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("base", [cellpose, mask_rcnn])
def test_a_run_learns_from_images_that_nobody_annotated(folder, tmp_path, base):
    """It goes to the end, is judged, and another teacher's word makes other weights."""
    found = []
    # So early a teacher of flows is sure of nothing, unless it takes for background what is not more likely a cell.
    early = {"semi.trust.sure": 0.5} if base is cellpose else {}
    for weight in (0.0, 0.5):
        config = config_of(base, folder, **{"semi.weight": weight, "semi.ramp_steps": 1} | early)
        config.train.steps = config.train.evaluate_every = config.train.save_every = 2
        config.train.log_every = 1
        task = tasks.build(config)
        assert isinstance(task, TaughtTask)
        workdir = tmp_path / str(weight)
        assert loop.train(task, config, workdir)
        found.append(checkpoint.restore_variables(workdir, "latest", FunctionalModel(task.model))[1].params)
    rows = [row for row in progress.read_history(workdir) if row["kind"] == "train"]
    assert [row[OTHER + "weight"] for row in rows] == [0.5, 0.5]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *found)
    assert max(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semi.labels": 0.0}, r"semi\.labels is 0\.0"),
        ({"semi.weight": -1.0}, r"semi\.weight -1\.0 .* must not be negative"),
        ({"semi.task": "dense"}, r"semi\.task is 'dense': one of images, mask_rcnn"),
        ({"semi.trust.sure": 1.0}, r"sure 1\.0 in \[0\.5, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        task_of(cellpose, **changes)


@pytest.mark.parametrize("task", [SemiImages, SemiMaskRCNN])
def test_nothing_of_the_network_s_task_is_replaced_by_chance(task):
    parts = (task, SemiSupervised)
    # What abstract classes keep of themselves each has anew.
    own = {name for part in parts for name in vars(part) if not name.startswith(("__", "_abc_"))}
    below = {name for part in SemiSupervised.__mro__[1:] + task.__mro__[2:] for name in vars(part)}
    assert own & below == {"batch_spec", "train_data", "_taught", "loss"}


@pytest.mark.parametrize("part", [FrameData, SemiSupervised])
def test_a_task_says_what_teaches_and_what_is_believed(part):
    with pytest.raises(TypeError, match="abstract"):
        part({})


def test_every_config_has_its_budget():
    for argument in semi.ARGUMENTS:
        config = semi.get_config(argument)
        assert f"_{100 * config.semi.labels:.0f}" in argument
        assert config.ema_decay == 0.999
