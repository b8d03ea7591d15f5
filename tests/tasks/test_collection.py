"""Collections of images as a task sees them: folds, categories, crops of one diameter."""

import shutil

import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from configs.ctc import segment
from tests.data import collections_on_disk as collection

SHAPE = (90, 110)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    images = {
        f"{kind[0]}{k}": (kind, collection.discs(SHAPE, radius, k))
        for kind, radius in (("astro", 8.0), ("cort", 5.0))
        for k in range(6)
    }
    return collection.write(tmp_path_factory.mktemp("collection"), images, ("cort_1",))


def task_of(folder, **changes):
    config = segment.get_config("tiny")
    config.data.store = str(folder)
    config.data.update({"categories": ("astro", "cort")} | changes.pop("data", {}))
    config.evaluation.update({"folds": 3, "fold": 1} | changes)
    return tasks.build(config)


def test_every_image_is_held_out_in_one_fold_and_taught_in_the_others(folder):
    held = []
    for fold in range(3):
        task = task_of(folder, fold=fold)
        taught, judged = task._taught(), task._held_out()
        assert [len(frames) for frames in taught] == [4, 4, 0]
        for (sequence, own), others in zip(judged, taught, strict=True):
            assert sorted([*own, *others]) == list(range(6 if sequence.category and others else 0))
            held += [(sequence.name, t) for t in own]
    assert sorted(held) == [(name, t) for name in ("astro", "cort") for t in range(6)]


def test_the_fold_does_not_depend_on_the_seed(folder):
    one, other = task_of(folder), task_of(folder)
    other.config.seed = 5
    assert one._taught() == other._taught()
    task = task_of(folder, folds=0)
    # No sequence is long enough for 15 %: of all images the last one is held out.
    assert task._taught() == [list(range(6)), list(range(5)), []]
    assert task_of(folder, folds=0, holdout=0.4)._taught()[0] == [0, 1, 2, 3]


def test_batches_are_what_the_task_announces(folder):
    task = task_of(folder, data={"diameter_px": 20.0})
    batch = task.train_data((0, 1))[0]
    spec = task.batch_spec()
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        key: (value.shape, value.dtype) for key, value in spec.items()
    }
    assert set(np.unique(batch["category"])) <= {0, 1}
    np.testing.assert_allclose(np.unique(np.round(batch["spacing"], 1)), [0.5, 0.8])
    assert "category" not in task_of(folder, data={"categories": ()}).batch_spec()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A store of another data set whose type is one of the first's, and whose sequence has the same name."""
    images = {f"x{k}": ("cort", collection.discs((90, 110), 6.0, 50 + k)) for k in range(4)}
    return collection.write(tmp_path_factory.mktemp("other"), images)


@pytest.mark.parametrize("folds", [3, 0])
def test_of_more_stores_all_is_taught_and_nothing_held_out(folder, other, tmp_path, folds):
    alone = task_of(folder, folds=folds, holdout=0.3)
    mixed = task_of(folder, folds=folds, holdout=0.3, data={"more": (str(other),)})
    held = [[(one.name, frames) for one, frames in task._held_out()] for task in (alone, mixed)]
    assert held[0] == held[1]
    assert any(frames for _, frames in held[0])
    assert mixed._taught() == [*alone._taught(), [0, 1, 2, 3]]
    assert [one.name for one in mixed._sequences][-1] == f"{other}/cort"
    # Another store to judge changes neither.
    unseen = shutil.copytree(other, tmp_path / "unseen")
    judged = task_of(folder, store=str(unseen), data={"more": (str(other),)})
    assert judged._taught()[-1] == [0, 1, 2, 3]
    assert [frames for _, frames in judged._held_out()] == [[0, 1, 2, 3]]


def test_images_of_more_stores_come_with_the_class_of_their_name(folder, other):
    """Each image once in a round: 8 of the first store's, 4 of the other's, which are of its second class."""
    data = {"more": (str(other),), "foreground_probability": 0.0, "batch_size": 12}
    task = task_of(folder, data=data)
    batch = task.train_data((0, 1))[0]
    taught = [len(frames) for frames in task._taught()]
    assert taught == [4, 4, 0, 4]
    assert np.bincount(batch["category"]).tolist() == [4, 8]


def test_a_store_that_is_named_twice_is_refused(folder, other):
    for more in ((str(folder),), (str(other), str(other))):
        with pytest.raises(InputError, match=r"data\.more .* names a store twice"):
            task_of(folder, data={"more": more})._taught()


def test_a_class_that_is_not_known_is_refused(folder, other):
    task = task_of(other, data={"more": (str(folder),), "categories": ("cort",)})
    with pytest.raises(InputError, match=rf"{folder}/astro is of the category 'astro', the config has cort"):
        task.train_data((0, 1))


def test_a_fold_that_does_not_exist_is_refused(folder):
    with pytest.raises(InputError, match=r"evaluation\.fold is 3 of 3"):
        task_of(folder, fold=3)._taught()
