"""The dense task on a small synthetic movie: what it learns from, and how it is judged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from celltrack_jax import tasks
from celltrack_jax.data import normalise
from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Lineage
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tasks import dense, frames
from celltrack_jax.training import loop, progress
from configs.ctc import segment
from configs.hela import centroids
from configs.sartorius import mask_rcnn
from tests import tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store.make(tmp_path_factory.mktemp("movie"))


@pytest.fixture
def task(store):
    config = segment.get_config("tiny")
    config.data.store = str(store)
    config.evaluation.holdout, config.evaluation.max_frames = 0.3, 3
    return tasks.build(config)


class TrueMasks(FunctionalModel):
    """Stands in for a network that predicts the target exactly, by knowing the order of the frames."""

    def __init__(self, task, sequence, frames):
        self.answers = []
        for t in frames:
            labels = jnp.asarray(
                np.asarray(sequence.labels["segmentation"][t, 0, 0].read().result()), jnp.int32
            )
            target = task.representation.target(jnp.where(labels > 0, labels % 60 + 1, 0), jnp.ones(2))
            self.answers.append(task.representation.perfect(target))

    def answer(self, _):
        return self.answers.pop(0)[None]


def nothing(image):
    """The raw output of a network that sees no cell."""
    return jnp.full((*image.shape[:3], 2), -10.0)


def test_the_truth_itself_scores_one(task, monkeypatch):
    task.config.evaluation.contrasts = (1.0,)
    task.config.tracking.max_gap = 0  # a cell that leaves where another one comes would be drawn in between
    (sequence,) = task._sequences
    oracle = TrueMasks(task, sequence, (7, 8, 9))
    monkeypatch.setattr(task, "predictor", lambda model, variables: oracle.answer)
    scores = task.evaluate(oracle, Variables({}, {}), lambda: False)
    assert scores["SEG"] > 0.97
    assert scores["DET"] == pytest.approx(1.0)
    assert scores["TRA"] > 0.98
    assert scores["AP50"] == pytest.approx(1.0)


def test_an_empty_prediction_scores_zero(task, monkeypatch):
    monkeypatch.setattr(task, "predictor", lambda model, variables: nothing)
    scores = task.evaluate(None, None, lambda: False)
    assert scores["SEG"] == scores["TRA"] == scores["AP50"] == 0
    assert scores["score"] == 0


def stack_of_two_cells():
    """Returns labels (1, 1, 12, 20, 40) of two cells in a single frame, and the result that repeats them."""
    labels = np.zeros((1, 1, 12, 20, 40), np.uint32)
    labels[..., 5:15, 5:15], labels[..., 5:15, 25:35] = 1, 2
    return labels, {0: labels[0, 0].astype(np.int32)}


def measured(task, labels, result, *, planes, window=slice(0, 12), **labelled):
    (sequence,) = task._sequences
    kinds = {"segmentation": labels.copy(), "markers": labels}
    if planes is not None:
        kinds["segmentation"][:, :, [z for z in range(12) if z not in planes]] = 0
    sequence = sequence._replace(
        frames=np.array([0]),
        labels={kind: ts.array(values) for kind, values in kinds.items()},
        labelled={kind: np.array([labelled.get(kind, True)]) for kind in kinds},
        planes={} if planes is None else {0: planes},
        annotation=["sparse"],
        lineage=Lineage.from_rows([(1, 0, 0, 0), (2, 0, 0, 0)]),
    )
    lineage = Lineage.from_rows([(1, 0, 0, 0), (2, 0, 0, 0)])
    where = (window, slice(0, 20), slice(0, 40))
    cut = {t: values[window] for t, values in result.items()}
    return dense._measures(sequence, [0], [], cut, lineage, where, silver=False).measures


def test_where_only_planes_are_outlined_only_they_are_judged(task):
    labels, result = stack_of_two_cells()
    assert measured(task, labels, result, planes=(7,))["SEG"] == pytest.approx(1)
    # Of the window 4..9 plane 7 is the fourth; where it lies outside, nothing is outlined.
    assert measured(task, labels, result, planes=(7,), window=slice(4, 10))["SEG"] == pytest.approx(1)
    assert measured(task, labels, result, planes=(7,), window=slice(0, 6))["SEG"] is None
    result[0][7, :, :20] = 0
    assert measured(task, labels, result, planes=(7,))["SEG"] == pytest.approx(0.5)


def test_a_frame_without_markers_is_not_a_frame_without_cells(task):
    labels, result = stack_of_two_cells()
    scores = measured(task, labels, result, planes=None, markers=False)
    assert scores["TRA"] is None
    assert scores["DET"] is None
    assert scores["SEG"] == pytest.approx(1)


def test_evaluation_sees_frames_scaled_as_training_does(task):
    """By the percentiles of the whole frame, also where a part of it is judged."""
    (sequence,) = task._sequences
    window = (slice(0, 1), slice(10, 40), slice(20, 60))
    image = np.asarray(sequence.image[3].read().result())
    expected = normalise.normalise(image, sequence.percentiles[3])[(slice(None), *window)]
    np.testing.assert_array_equal(frames.normalised(sequence, 3, window, 1.0), expected)
    dim = frames.less_contrast(image, 0.25, seed=3)
    expected = normalise.normalise(dim, normalise.percentiles(dim))[(slice(None), *window)]
    np.testing.assert_array_equal(frames.normalised(sequence, 3, window, 0.25), expected)


def test_a_cell_is_as_wide_as_the_outlined_ones(task):
    (sequence,) = task._sequences
    rows = np.zeros((3, 7), np.int32)
    rows[:, 5] = 4 * 314
    disc = sequence._replace(foreground=rows, spacing_um=(1.0, 0.5, 0.5))
    task.__dict__.update(_own=[disc], _sequences=[disc])
    assert task._diameter_um() == pytest.approx(20, rel=1e-3)
    rows[:, 5] = 4189 // 4
    ball = disc._replace(shape=(1, 1, 9, 40, 40), spacing_um=(4.0, 1.0, 1.0))
    task.__dict__.update(_own=[ball], _sequences=[ball])
    assert task._diameter_um() == pytest.approx(20, rel=1e-3)


def test_markers_alone_do_not_tell_how_wide_a_cell_is(task):
    (sequence,) = task._sequences
    markers = sequence._replace(foreground=np.array([[0, 0, 5, 5, 1, 9, 1]]), annotation=["markers"] * 10)
    task.__dict__.update(_own=[markers], _sequences=[markers])
    with pytest.raises(InputError, match=r"give --config.data.diameter_um="):
        task.train_data((0, 1))
    task.config.data.diameter_um = 12.0
    task.train_data((0, 1))


def test_room_for_cells_is_one_knob():
    config = segment.get_config("tiny")
    config.data.max_cells = 500
    assert tasks.build(config).representation.max_cells == 500
    config.representation = {**config.representation.to_dict(), "max_cells": 400}
    with pytest.raises(InputError, match=r"set data.max_cells alone"):
        tasks.build(config)


def test_an_evaluation_stops_when_asked(task, monkeypatch):
    monkeypatch.setattr(task, "predictor", lambda model, variables: nothing)
    assert task.evaluate(None, None, lambda: True) is None


def test_held_out_frames_are_never_trained_on(task):
    (sequence,) = task._sequences
    trained, held_out = task._split(sequence)
    assert trained == list(range(7))
    assert held_out == [7, 8, 9]


def test_another_store_is_judged_whole_and_the_own_one_taught_whole(task, store, tmp_path):
    assert task._taught() == [list(range(7))]
    task.config.evaluation.store = str(shutil.copytree(store, tmp_path / "other"))
    assert task._taught() == [list(range(10))]
    ((other, frames),) = task._held_out()
    assert frames == list(range(10))
    assert task._judged_frames(other, frames)[0] == frames[: task.config.evaluation.max_frames]


@pytest.mark.parametrize("more", [False, True])
def test_a_store_that_is_trained_on_is_not_judged(more, task, store, tmp_path):
    (tmp_path / "linked").symlink_to(store)
    task.config.evaluation.store = str(tmp_path / "linked")
    if more:
        task.config.data.update(store=str(shutil.copytree(store, tmp_path / "other")), more=(str(store),))
    for use in (lambda: task.train_data((0, 1)), lambda: task.evaluate(None, None, lambda: False)):
        with pytest.raises(InputError, match=r"linked, which is trained on: .* give a copy of the store"):
            use()


def test_of_a_movie_with_outlines_in_its_middle_some_of_these_are_held_out(task):
    (sequence,) = task._sequences
    outlined = np.isin(np.arange(10), (2, 3, 4, 5))
    middle = sequence._replace(labelled={**sequence.labelled, "segmentation": outlined})
    task.__dict__.update(_own=[middle], _sequences=[middle])
    assert task._split(middle) == ([0, 1, 2, 3, 4, 6], [5, 7, 8, 9])


def test_of_single_images_the_last_ones_are_held_out(task):
    (sequence,) = task._sequences
    single = [sequence._replace(name=f"{i:03d}", annotation=["full"]) for i in range(10)]
    task.__dict__.update(dict.fromkeys(("_own", "_sequences"), single))
    task.config.evaluation.holdout = 0.2
    assert [task._split(one) for one in single] == [([0], [])] * 8 + [([], [0])] * 2


def test_batches_have_the_promised_shapes(task):
    batch = task.train_data((0, 1))[3]
    spec = task.batch_spec()
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        key: (value.shape, value.dtype) for key, value in spec.items()
    }


def test_dropout_gets_a_key_per_sample_apart_from_those_of_augmentation(task):
    keys = jax.random.split(jax.random.key(1), task.config.data.batch_size)
    given = []

    def apply(*inputs):
        given.append(inputs[1:])
        return {dense.HEAD: jnp.zeros((*inputs[0].shape[:-1], task.representation.channels))}, None

    batch = {key: jnp.zeros(spec.shape, spec.dtype) for key, spec in task.batch_spec().items()}
    for rate in (0.0, 0.3):
        task.config.model.dropout = rate
        jax.eval_shape(lambda: task.loss(apply, batch, keys, jnp.int32(0))[0])
    assert given[0] == ()
    assert given[1][0].shape == keys.shape


@pytest.mark.slow
def test_a_step_of_the_loss_is_finite_and_has_gradients(task):
    model = FunctionalModel(task.model)
    variables = model.init(jax.random.key(0))
    batch = {key: jnp.asarray(value) for key, value in task.train_data((0, 1))[0].items()}
    keys = jax.random.split(jax.random.key(1), len(batch["sample"]))

    def loss(params):
        def apply(inputs):
            return model.apply(Variables(params, variables.stats), inputs, train=True)

        return task.loss(apply, batch, keys, jnp.int32(0))[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(variables.params)
    assert np.isfinite(value)
    norms = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients)]
    assert np.isfinite(norms).all()
    assert min(norms) > 0


def test_less_contrast_keeps_the_background_noise():
    rng = np.random.default_rng(0)
    image = rng.normal(100, 5, (1, 1, 200, 200)).astype(np.float32)
    image[..., 60:90, 60:90] += 80
    dim = frames.less_contrast(image, 0.25, seed=1)
    assert dim[..., :50, :50].std() == pytest.approx(5, rel=0.05)
    assert dim[..., 60:90, 60:90].mean() - dim[..., :50, :50].mean() == pytest.approx(20, rel=0.05)
    np.testing.assert_array_equal(frames.less_contrast(image, 1.0, seed=1), image)
    coarse = frames.less_contrast(
        np.full((1, 1, 9, 9), 3, np.uint8) + (np.arange(9) > 4).astype(np.uint8), 0.25, seed=1
    )
    assert set(np.unique(coarse)) == {3.0}, "a quarter of a grey value is lost in 8 bits"


def test_lengths_do_not_depend_on_the_unit_of_the_spacing(task):
    np.testing.assert_allclose(task.lengths([2.0, 0.5, 0.5]), [4, 1, 1])
    np.testing.assert_allclose(task.lengths([0.125, 0.125]), [1, 1])


def test_steps_that_masks_do_not_teach_are_refused():
    config = segment.get_config("tiny")
    points = centroids.get_config("direction").representation.to_dict()
    config.representation = points | {"max_cells": config.data.max_cells}
    with pytest.raises(InputError, match=r"representation.step_weight is 0.1, but masks .*set it to 0"):
        tasks.build(config)


def test_errors_name_the_cure(store):
    config = segment.get_config("tiny")
    with pytest.raises(InputError, match=r"give --config.data.store"):
        tasks.build(config).train_data((0, 1))
    config.data.store, config.data.channels = str(store), 2
    with pytest.raises(InputError, match=r"set --config.data.channels=1"):
        tasks.build(config).train_data((0, 1))
    config.data.crop = (63, 64)
    with pytest.raises(InputError, match=r"not a multiple of the model's stride"):
        tasks.build(config)
    config.data.crop, config.data.channels = (64, 64), 1
    config.model.colour = "green"
    with pytest.raises(InputError, match=r"config of models/unet: .*colour"):
        tasks.build(config)
    config.task = "dnse"
    with pytest.raises(InputError, match=r"no 'dnse' in tasks: celltrack_jax/tasks/dnse.py does not exist"):
        tasks.build(config)


@pytest.mark.parametrize(("argument", "space", "least"), [("tiny", 3, 12), ("demo3d", 8, 32)])
def test_a_crop_whose_coarse_levels_split_unevenly_is_refused(argument, space, least):
    """XLA's gradients were wrong there, by half a percent of the largest, at the same loss (run_space.py)."""
    config = segment.get_config(argument)
    config.mesh.space = space
    size = config.data.crop[1:]
    config.data.crop = (least + least // space, *size)
    with pytest.raises(InputError, match=rf"over mesh.space={space}: .* multiple of {least},"):
        tasks.build(config)
    config.data.crop = (least, *size)
    tasks.build(config)


def test_cells_without_room_are_counted_for_the_log(task):
    assert task.input_counts() == {}
    task.config.data.max_cells = 3
    labels = task.train_data((0, 1))[0]["labels"]
    assert labels.max() == 2
    assert task.input_counts()["cells_left_out"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("configured", [segment, mask_rcnn], ids=["dense", "mask_rcnn"])
def test_crops_of_more_cells_than_there_is_room_for_are_trained_on(configured, store, tmp_path, capsys):
    config = configured.get_config("tiny")
    config.data.update({"store": str(store), "max_cells": 3, "categories": ()})
    config.train.steps = config.train.evaluate_every = config.train.save_every = 2
    config.train.log_every = 1
    assert loop.train(tasks.build(config), config, tmp_path)
    said = capsys.readouterr().out
    assert said.count("data.max_cells = 3 has room for 2") == 1
    rows = [row for row in progress.read_history(tmp_path) if row["kind"] == "train"]
    assert rows[-1]["cells_left_out"] > 0
    assert np.isfinite(rows[-1]["loss"])
