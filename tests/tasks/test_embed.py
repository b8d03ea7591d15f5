"""Learning to tell cells apart: what is learned from, what is held out, and a run from end to end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.data import cell_crops, store
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tasks import embed as embedding
from celltrack_jax.training import loop, progress
from configs.ctc import embed
from tests import tiny_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_store.make(tmp_path_factory.mktemp("movie"))


def task_of(folder, **changes):
    config = embed.get_config("tiny")
    config.data.store = str(folder)
    config.update_from_flattened_dict(changes)
    return tasks.build(config)


@pytest.fixture(scope="module")
def task(folder):
    return task_of(folder)


def test_batches_have_the_promised_shapes_and_do_not_depend_on_processes(task):
    spec = task.batch_spec()
    whole = task.train_data((0, 1))[3]
    assert {key: (x.shape, x.dtype) for key, x in whole.items()} == {
        key: (x.shape, x.dtype) for key, x in spec.items()
    }
    parts = [task.train_data((place, 2))[3] for place in range(2)]
    for key, values in whole.items():
        np.testing.assert_array_equal(np.stack([p[key] for p in parts], 1).reshape(values.shape), values)
    assert [len(set(group)) for group in whole["track"].reshape(3, 2)] == [1, 1, 1]
    assert len(set(whole["track"])) == 3


def test_held_out_tracks_and_the_end_of_the_movie_are_not_learned_from(task):
    gallery, training, held = task._gallery, task._training, task._held_out
    assert len(held.track) > 0
    assert not set(training.track) & set(held.track)
    assert not training.late.any()
    assert held.late.any()
    (movie,) = store.open_store(task.config.data.store)
    last = [np.unique(store.read_frame(movie, "markers", t)[1])[1:] for t in (8, 9)]
    assert gallery.late.sum() == sum(map(len, last))
    # All else is learned from.
    early = gallery.track[~gallery.late]
    assert sorted(training.track) == sorted(early[~np.isin(early, held.track) & ~task._is_held(early)])
    assert 0.1 < task._is_held(np.arange(gallery.track.max() + 1)).mean() < 0.3


@pytest.mark.parametrize("kind", ["markers", "segmentation"])
def test_a_crop_shows_its_cell(folder, kind):
    task = task_of(folder, **{"data.labels": kind})
    (movie,) = store.open_store(folder)
    gallery, row = task._gallery, 0
    begins = np.lexsort((movie.lineage.label, movie.lineage.begin))
    names = movie.lineage.label[begins]
    for t in np.flatnonzero(movie.labelled[kind]).tolist():
        _, labels, image = store.read_frame(movie, kind, t)
        markers = store.read_frame(movie, "markers", t)[1]
        for label in np.unique(labels)[1:]:
            mask = labels == label
            assert (
                int(gallery.inside[row].sum()) == min(mask.sum(), 32 * 32)
                or max(np.ptp(np.nonzero(mask), 1)) >= 32
            )
            values = np.sort(gallery.values[row][gallery.inside[row]].astype(np.float32))
            low, high = movie.percentiles[t][0, [0, 2]]
            if len(values) == mask.sum():
                np.testing.assert_allclose(values, np.sort((image[mask] - low) / (high - low)), atol=2e-3)
            (owner,) = set(markers[mask].tolist()) - {0}
            assert names[gallery.track[row]] == owner
            row += 1
    assert row == len(gallery.track)


def test_alike_crops_cost_little_and_different_ones_much(task):
    batch = {key: jnp.asarray(values) for key, values in task.train_data((0, 1))[0].items()}
    keys = jax.random.split(jax.random.key(0), 6)
    names = np.unique(batch["track"])
    right = jax.nn.one_hot(jnp.searchsorted(names, batch["track"]), 8)
    for answers, low, high in ((right, 0, 0.5), (jnp.ones((6, 8)) / 8**0.5, 0.5, 100)):
        step = jax.jit(lambda batch, answers: task.loss(lambda _: (answers, {}), batch, keys, jnp.zeros(())))
        loss, _, metrics = step(batch, answers)
        assert low <= loss < high
        assert metrics["similarity_same"] == pytest.approx(1, abs=1e-5)


def test_moves_are_the_same_for_a_track_and_looks_are_not(folder):
    def apply(image):
        return jnp.ones((len(image), 8)), image

    task = task_of(folder, **{"augment.noise_probability": 1.0})
    batch = {key: jnp.asarray(values) for key, values in task.train_data((0, 1))[0].items()}
    batch = {**batch, **{key: jnp.repeat(batch[key][:1], 6, 0) for key in ("image", "labels")}}
    keys = jax.random.split(jax.random.key(0), 6)
    _, seen, _ = jax.jit(lambda batch: task.loss(apply, batch, keys, jnp.zeros(())))(batch)
    seen = np.asarray(seen)
    mask = seen != 0
    for first, second in mask.reshape(3, 2, -1):
        np.testing.assert_array_equal(first, second)
    assert len({image.tobytes() for image in mask}) > 1
    assert len({image.tobytes() for image in seen}) == 6


def test_the_order_of_a_batch_changes_nothing(task):
    def apply(image):
        return jnp.ones((len(image), 8)), image

    batch = {key: jnp.asarray(values) for key, values in task.train_data((0, 1))[0].items()}
    keys = jax.random.split(jax.random.key(0), 6)
    step = jax.jit(lambda batch, keys: task.loss(apply, batch, keys, jnp.zeros(()))[1])
    seen = step(batch, keys)
    # Two processes hold every other sample; the second sample of the second track then is before its first.
    order = np.array([0, 2, 4, 1, 3, 5])[::-1]
    other = step({key: values[order] for key, values in batch.items()}, keys[order])
    np.testing.assert_array_equal(other, seen[order])


def test_evaluation_finds_what_a_perfect_network_tells_apart(folder, monkeypatch):
    task = task_of(folder)
    model = FunctionalModel(task.model)
    variables = model.init(jax.random.key(0))
    scores = task.evaluate(model, variables, lambda: False)
    values = [scores[key] or 0 for key in ("map_at_r", "precision_at_1")] if scores else []
    assert 0 < values[0] <= values[1] <= 1
    assert task.evaluate(model, variables, lambda: True) is None
    # The only thing that is left to see is the track.
    held = task._held_out
    marked = np.ones_like(held.values) * np.searchsorted(np.unique(held.track), held.track)[:, None, None]
    task._held_out = held._replace(values=marked, inside=np.ones_like(held.inside))
    monkeypatch.setattr(
        embedding.EmbedTask,
        "_predict",
        staticmethod(lambda model, variables, x: jax.nn.one_hot(x[:, 0, 0, 0].astype(int), 8)),
    )
    assert task.evaluate(model, variables, lambda: False) == pytest.approx(
        {"map_at_r": 1.0, "precision_at_1": 1.0, "score": 1.0}
    )


def test_frames_are_embedded_as_the_gallery_is(task, folder):
    model = FunctionalModel(task.model)
    variables = model.init(jax.random.key(0))
    (movie,) = store.open_store(folder)
    cells = embedding.measure_cells(
        (store.read_frame(movie, "markers", t) for t in range(2)), np.ones(3), task.embedder(model, variables)
    )
    found = task._gallery.select(np.arange(len(cells.low)))
    shown = cell_crops.shown(cell_crops.crops.Crops(found.values.astype(np.float32), found.inside))
    expected = model.apply(variables, shown)[0]
    np.testing.assert_allclose(cells.embedding, expected, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(cells.embedding, axis=1), 1, rtol=1e-5)


def test_a_network_learns_to_tell_cells_apart(task):
    """Fifteen steps on one batch: cells of a track become more alike than those of others."""
    model = FunctionalModel(task.model)
    params, stats = model.init(jax.random.key(0))
    batch = task.train_data((0, 1))[0]

    @jax.jit
    def step(params):
        def loss(params):
            keys = jax.vmap(jax.random.key)(batch["sample"])
            apply = lambda *inputs: model.apply(Variables(params, stats), *inputs, train=True)  # noqa: E731
            value, _, metrics = task.loss(apply, batch, keys, jnp.zeros((), jnp.int32))
            return value, metrics["similarity_same"] - metrics["similarity_other"]

        (value, apart), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return value, apart, jax.tree.map(lambda x, g: x - 0.02 * g, params, gradients)

    found = []
    for _ in range(15):
        value, apart, params = step(params)
        found.append((float(value), float(apart)))
    (first, apart_before), (last, apart_after) = found[0], found[-1]
    assert last < 0.7 * first
    assert apart_after > apart_before + 0.1


@pytest.mark.slow
def test_a_run_from_end_to_end(folder, tmp_path):
    config = embed.get_config("tiny")
    config.data.store, config.train.steps = str(folder), 4
    config.train.evaluate_every = config.train.save_every = config.train.log_every = 2
    assert loop.train(tasks.build(config), config, tmp_path)
    rows = progress.read_history(tmp_path)
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [2, 4]
    assert all("kept" in row for row in rows if row["kind"] == "train")


def test_errors_name_the_cure(folder):
    for changes, message in (
        ({"data.store": ""}, r"give --config.data.store"),
        ({"data.classes": 40, "data.batch_size": 80}, r"too few tracks .* lower --config.data.classes"),
        ({"data.batch_size": 5}, r"batch_size 5 has to be data.classes 3 times data.per_class 2"),
        ({"train.accumulate": 2}, r"train.accumulate 2 divides batches .* set it to 1"),
        ({"data.labels": "silver"}, r"no tracks or no silver"),
        ({"data.labels": "gold"}, r"choose one of markers, segmentation, silver"),
        ({"crops.size": (8, 8, 8)}, r"has 1 planes and config.crops.size 3 axes"),
        ({"loss.name": "contrastive"}, r"choose one of multi_similarity, circle, triplet"),
        ({"loss.name": "circle"}, r"config.loss has alpha, .* circle takes gamma, margin"),
    ):
        with pytest.raises(InputError, match=message):
            task_of(folder, **changes).train_data((0, 1))
