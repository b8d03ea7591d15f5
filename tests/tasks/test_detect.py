"""The detection task on a small movie of points: what it learns from, and how it is judged."""

import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables
from configs.hela import centroids
from tests.data import point_movies
from tests.representations.arms import KERNEL, SPOTS, STAR

SHAPE = (80, 96)
FRAMES = range(1, 9)
UNPOINTED = 3
# By label: place in frame 1, movement per frame, first and last frame.
CELLS = {
    1: ((10, 12), (2, 3), 1, 8),
    2: ((20, 70), (1, -2), 1, 8),
    4: ((60, 20), (-1, 3), 1, 8),
    5: ((68, 66), (-2, 1), 1, 7),
    6: ((40, 40), (0, 1), 7, 8),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of one movie."""
    path = tmp_path_factory.mktemp("movie")
    point_movies.write(path, CELLS, FRAMES, SHAPE, unpointed=[UNPOINTED])
    return path


def config_of(folder, **changes):
    config = centroids.get_config("tiny")
    config.data.store = str(folder / "store")
    config.evaluation.holdout, config.evaluation.max_frames = 0.6, 4
    config.evaluation.decoders, config.evaluation.oracle, config.evaluation.calibrate = {}, False, 0
    config.representation.step_weight = 0.1
    config.tracking.division_distance, config.tracking.max_gap = 0.0, 0
    config.update_from_flattened_dict(changes)
    return config


def task_of(folder, **changes) -> Any:
    return tasks.build(config_of(folder, **changes))


@pytest.fixture
def task(folder) -> Any:
    return task_of(folder)


def scores_of(task: Any) -> dict[str, Any]:
    return task.evaluate(None, None, lambda: False)


def answers(maps):
    """Returns what stands in for the network's predictor: maps, in the order in which frames are asked for."""
    left = list(maps)
    return lambda model, variables: lambda image: jnp.asarray(left.pop(0))[None]


def true_maps(task):
    return [task._true_map(sequence, t) for sequence, frames in task._judged() for t in frames]


def nothing(task):
    return np.full((*SHAPE, task.representation.channels), -10.0, np.float32)


def test_the_truth_itself_scores_one(folder, monkeypatch):
    linkers = ("hungarian", "nearest", "steps")
    task = task_of(folder, **{"evaluation.linkers": linkers, "evaluation.helalab_cost": True})
    ((_, frames),) = task._judged()
    assert frames == [4, 5, 6, 7]
    monkeypatch.setattr(task, "predictor", answers(true_maps(task)))
    scores = scores_of(task)
    for radius in (3, 5, 8):
        assert scores[f"F1_{radius}"] == 1
    assert scores["score"] == 1
    for linker in ("", "nearest/", "steps/"):
        assert scores[f"{linker}DET"] == scores[f"{linker}TRA"] == scores[f"{linker}LNK"] == 1
        assert scores[f"{linker}AOGM"] == 0
    # The original's score counts the edges that it never predicts.
    assert 0 < scores["helalab_cost"] < 2


def test_star_convex_cells_learn_from_points_and_are_read_as_points(folder, monkeypatch):
    config = config_of(folder)
    changes = {"grid": (2, 2), "rays": 32, "radius": 5.0, "max_cells": config.data.max_cells}
    config.representation = ConfigDict({"name": "star", **STAR, **changes})
    task: Any = tasks.build(config)
    monkeypatch.setattr(task, "predictor", answers(true_maps(task)))
    scores = scores_of(task)
    assert scores["F1_3"] == scores["DET"] == scores["TRA"] == 1


def test_a_step_leads_a_linker_further_than_cells_lie_apart(tmp_path, monkeypatch):
    """Two rows of cells that move by more than their distance: only their steps tell them apart."""
    cells = {k: ((20 if k < 5 else 50, 8 + 12 * (k % 5)), (0, 10), 1, 4) for k in range(1, 9)}
    point_movies.write(tmp_path, cells, range(1, 5), SHAPE)
    changes = {"evaluation.linkers": ("nearest", "steps"), "evaluation.holdout": 1.0}
    task = task_of(tmp_path, **changes)
    monkeypatch.setattr(task, "predictor", answers(true_maps(task)))
    scores = scores_of(task)
    assert scores["steps/LNK"] == 1
    assert scores["nearest/LNK"] < 0.5


def test_an_empty_prediction_scores_zero(task, monkeypatch):
    monkeypatch.setattr(task, "predictor", answers([nothing(task)] * 4))
    scores = scores_of(task)
    assert scores["F1_5"] == scores["DET"] == scores["TRA"] == scores["score"] == 0
    # Of frames 5 to 8: three cells in each, cell 5 in three of them and cell 6 in two.
    assert scores["AOGM"] == 10 * 17 + 1.5 * (3 * 3 + 2 + 1)


def test_decoders_are_judged_side_by_side_and_on_the_true_map(folder, monkeypatch):
    changes = {"evaluation.oracle": True, "evaluation.max_frames": 1}
    config = config_of(folder, **changes)
    config.evaluation.decoders = {"log": {"decoder": "log", "threshold": 0.1}}
    task: Any = tasks.build(config)
    monkeypatch.setattr(task, "predictor", answers([nothing(task)]))
    scores = scores_of(task)
    found = {name: scores[f"{name}F1_5"] for name in ("", "log/", "oracle/", "log/oracle/")}
    assert found == {"": 0, "log/": 0, "oracle/": 1, "log/oracle/": 1}


def test_an_evaluation_stops_when_asked(task, monkeypatch):
    monkeypatch.setattr(task, "predictor", answers([]))
    assert task.evaluate(None, None, lambda: True) is None


def test_thresholds_are_chosen_on_training_frames_alone(folder, monkeypatch):
    """There false peaks are as high as 0.2 and cells 0.5; in held-out frames cells would be found at any threshold."""
    changes = {
        "evaluation.calibrate": 2,
        "evaluation.thresholds": (0.1, 0.3, 0.6),
        "representation.threshold": 0.6,
    }
    task = task_of(folder, **changes, **{"representation.loss_name": "mse"})
    asked = []
    predictions = task._predictions
    monkeypatch.setattr(
        task,
        "_predictions",
        lambda one, frames, *rest: asked.extend(frames) or predictions(one, frames, *rest),
    )
    noisy = []
    for t in (0, 3):
        noisy.append(0.5 * task._true_map(task._sequences[0], t))
        noisy[-1][2::20, 2::20, 0] = 0.2
    monkeypatch.setattr(task, "predictor", answers([*noisy, *true_maps(task)]))
    scores = scores_of(task)
    assert asked == [0, 3, 4, 5, 6, 7]
    assert scores["threshold"] == 0.3
    assert scores["F1_5"] == 1
    assert task.representation.threshold == 0.6


def test_a_fraction_of_the_frames_is_an_even_share(folder):
    # Of the eight frames the third is not pointed, and of the other seven the last three are held out.
    assert task_of(folder, **{"evaluation.holdout": 0.45})._taught() == [[0, 1, 3, 4]]
    half = task_of(folder, **{"evaluation.holdout": 0.45, "data.fraction": 0.5})
    assert half._taught() == [[0, 3]]
    least = task_of(folder, **{"evaluation.holdout": 0.45, "data.fraction": 0.01})
    assert least._taught() == [[0]]


def test_another_store_is_judged_whole_and_nothing_is_held_out_then(folder, tmp_path):
    copied = shutil.copytree(folder / "store", tmp_path / "store")
    task = task_of(folder, **{"evaluation.store": str(copied), "evaluation.max_frames": 9})
    ((_, frames),) = task._judged()
    assert task._taught() == [frames] == [[0, 1, 3, 4, 5, 6, 7]]


def test_batches_have_the_promised_shapes(task):
    batch = task.train_data((0, 1))[3]
    spec = task.batch_spec()
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        key: (value.shape, value.dtype) for key, value in spec.items()
    }


def test_at_the_frames_own_edge_cells_are_learned(folder):
    """A crop in the frame's upper left corner, as it is: its other two edges cut cells."""
    settings = centroids.get_config("tiny").augment.to_dict()
    calm = {f"augment.{name}": 0.0 for name in settings if name.endswith("_probability")}
    task = task_of(folder, **calm)
    read, margin = task.batch_spec()["labels"].shape[1:], task.config.data.margin[0]
    labels = np.full(read, -1, np.int32)
    labels[margin:, margin:] = 0
    points = np.full((32, 2), np.nan, np.float32)
    points[0] = margin + 20, margin + 30
    image = np.random.default_rng(0).random((*read, 1)).astype(np.float32)
    sample = {
        "image": image,
        "labels": labels,
        "points": points,
        "steps": points,
        "spacing": np.ones(2, np.float32),
    }
    made, target = task.prepared(sample, jax.random.key(0))
    size = task.crop[0]
    np.testing.assert_array_equal(made, image[margin : margin + size, margin : margin + size])
    assert np.unravel_index(np.argmax(target.value[..., 0]), task.crop) == (20, 30)
    known = np.zeros(task.crop)
    known[:-12, :-12] = 1
    np.testing.assert_array_equal(target.weight[..., 0] > 0, known)


def test_points_and_pixels_move_together(folder):
    """Whatever turns a crop, its brightest pixel stays where the target's heat is."""
    settings = centroids.get_config("tiny").augment.to_dict()
    kinds = {f"augment.{name}": 0.0 for name in settings if name.endswith("_probability")}
    task = task_of(
        folder, **kinds | {f"augment.{kind}_probability": 1.0 for kind in ("flip", "rot90", "affine")}
    )
    read = task.batch_spec()["labels"].shape[1:]
    place = np.array([60, 52])
    away = (np.indices(read).transpose(1, 2, 0) - place).astype(np.float32)
    points = np.full((32, 2), np.nan, np.float32)
    points[0] = place
    sample = {
        "image": np.exp(-(away**2).sum(-1, keepdims=True) / 8),
        "labels": np.zeros(read, np.int32),
        "points": points,
        "steps": points,
        "spacing": np.ones(2, np.float32),
    }
    makes = jax.jit(task.prepared)
    for key in jax.random.split(jax.random.key(0), 8):
        made, target = makes(sample, key)
        brightest, hottest = (
            np.array(np.unravel_index(np.argmax(x[..., 0]), task.crop)) for x in (made, target.value)
        )
        assert np.abs(brightest - hottest).max() <= 1


@pytest.mark.slow
def test_a_step_of_the_loss_is_finite_and_has_gradients(task):
    model = FunctionalModel(task.model)
    variables = jax.jit(model.init)(jax.random.key(0))
    batch = {key: jnp.asarray(value) for key, value in task.train_data((0, 1))[0].items()}
    keys = jax.random.split(jax.random.key(1), len(batch["sample"]))

    def loss(params):
        def apply(inputs):
            return model.apply(Variables(params, variables.stats), inputs, train=True)

        value, _, metrics = task.loss(apply, batch, keys, jnp.int32(0))
        return value, metrics

    (value, metrics), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)
    assert np.isfinite(value)
    assert set(metrics) == {"focal", "step"}
    norms = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients)]
    assert np.isfinite(norms).all()
    assert min(norms) > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"representation.axes": 3}, r'as "heatmap" does, with axes=2'),
        ({"data.unit": "ell"}, r"data.unit is 'ell': one of"),
        ({"data.cut_px": 32}, r"data.cut_px is 32: .* less than half of data.crop \(64, 64\), or to 0"),
        ({"data.margin": (0, 24)}, r"data.cut_px 12 asks what lies beyond a crop, .*set that to 1 or more"),
        ({"data.fraction": 0.0}, r"data.fraction is 0.0: .* in \(0, 1\]"),
        ({"evaluation.radius": 4.0}, r"evaluation.radius 4.0 is none of .*add it there"),
        ({"evaluation.density_edges": (2.0, 1.0)}, r"density_edges \(2.0, 1.0\): .* that ascend, or \(\)"),
        ({"evaluation.original_rules": True}, r"original_rules are of stacks: set it to False"),
        ({"evaluation.sisters": {"alone": 1.0}}, r"sisters are in µm: set data.unit to 'um'"),
        (
            {"evaluation.sisters": {"alone": 1.0}, "data.unit": "um"},
            r"config.evaluation.sisters: missing \['gate_um'",
        ),
        ({"evaluation.linkers": ("hungarian", "magic")}, r"evaluation.linkers \['magic'\]: take them of"),
        (
            {"evaluation.linkers": ("steps",), "representation.step_weight": 0.0},
            r"set representation.step_weight",
        ),
    ],
)
def test_wrong_settings_name_the_cure(folder, changes, said):
    with pytest.raises(InputError, match=said):
        task_of(folder, **changes)


def test_decoders_take_only_settings_that_there_are(folder):
    config = config_of(folder)
    config.evaluation.decoders = {"mine": {"colour": "green"}}
    with pytest.raises(InputError, match=r"config.evaluation.decoders.mine: .*unknown \['colour'\]"):
        tasks.build(config)


def test_thresholds_are_not_chosen_on_no_frame(folder):
    with pytest.raises(InputError, match=r"evaluation.calibrate is 2, but .* has no frame to train on"):
        scores_of(task_of(folder, **{"evaluation.holdout": 1.0, "evaluation.calibrate": 2}))


def test_another_representation_is_refused(folder):
    from configs.ctc import segment

    config = config_of(folder)
    other = segment.get_config("tiny").representation.to_dict()
    config.representation = other | {"max_cells": config.data.max_cells}
    with pytest.raises(InputError, match='one that learns from points, as "heatmap" does, with axes=2'):
        tasks.build(config)


def test_a_store_without_points_is_refused(tmp_path, folder):
    point_movies.write(tmp_path, CELLS, FRAMES, SHAPE, unpointed=FRAMES)
    with pytest.raises(InputError, match=r"store: of no frame is every cell known as a point.*prepare"):
        tasks.build(config_of(tmp_path)).train_data((0, 1))
    task = task_of(folder, **{"evaluation.store": str(tmp_path / "store")})
    with pytest.raises(InputError, match="of no frame is every cell known as a point"):
        scores_of(task)


def test_frames_and_points_around_reach_the_step(folder):
    """Three frames are seen, and the points of all three are to be told, each in a channel."""
    config = config_of(folder, **{"data.inputs": ((0, -1), (0, 0), (0, 1)), "evaluation.oracle": True})
    changes = {"around": (-1, 1), "shape": "voxel", "max_cells": config.data.max_cells, "threshold": 0.1}
    config.representation = ConfigDict({"name": "spots", **SPOTS, **changes})
    task: Any = tasks.build(config)
    spec, batch = task.batch_spec(), task.train_data((0, 1))[0]
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        key: (value.shape, value.dtype) for key, value in spec.items()
    }
    assert spec["image"].shape[-1] == 3
    assert spec["around"].shape == (config.data.batch_size, 2, config.data.max_cells, 2)
    image, target = jax.eval_shape(
        task.prepared,
        {key: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for key, x in spec.items() if key != "sample"},
        jax.random.key(0),
    )
    assert image.shape == target.value.shape == (*task.crop, 3)
    # The map that a perfect network answers has the points of these frames too.
    sequence = task._sequences[0]
    value = task._true_map(sequence, 4)
    for channel, frame in enumerate((5, 4, 6)):
        there = {tuple(place.tolist()) for place in point_movies.places(CELLS, frame).values()}
        assert {tuple(place.tolist()) for place in np.argwhere(value[..., channel] > 0)} == there


def test_lengths_in_um_need_a_store_that_knows_them(tmp_path, folder):
    point_movies.write(tmp_path, CELLS, FRAMES, SHAPE, spacing=None)
    task = task_of(tmp_path, **{"data.unit": "um"})
    with pytest.raises(InputError, match=r"the size of a voxel of 01 is not known.*--spacing=z,y,x"):
        task.train_data((0, 1))
    known = task_of(folder, **{"data.unit": "um"})
    assert known.needs_spacing
    assert known.lengths(np.array([0.3, 0.13])).tolist() == [0.3, 0.13]
    assert task_of(folder).lengths(np.array([0.26, 0.13])).tolist() == [2, 1]
    with pytest.raises(InputError, match=r"data\.unit is 'mile'"):
        task_of(folder, **{"data.unit": "mile"})


def test_a_kernel_of_other_voxels_than_the_stores_is_refused(folder):
    config = config_of(folder)
    changes = {"kernel": KERNEL | {"spacing": (0.3, 0.13)}, "max_cells": config.data.max_cells}
    config.representation = ConfigDict({"name": "spots", **SPOTS, **changes})
    task = tasks.build(config)
    with pytest.raises(
        InputError, match=r"voxels of 01 are 1,1 large, but representation\.kernel\.spacing is 0\.3,0\.13"
    ):
        task.train_data((0, 1))
