"""Linkers that look at cells through an embedder: trained, moved and applied."""

import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.data import store
from celltrack_jax.errors import InputError
from celltrack_jax.inference import track
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.training import loop
from configs.ctc import ben_haim2022, embed, link
from launch import embedders, linkers
from tests import tiny_store
from tests.inference.workdirs import save_untrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store, and beside it the run of an embedder that nobody trained."""
    path = tmp_path_factory.mktemp("movie")
    tiny_store.make(path)
    save_untrained(path / "embed", embed.get_config("tiny"))
    return path


def config_of(folder, module: Any = link, **changes: Any):
    config = module.get_config("tiny")
    config.data.store, config.embedder = str(folder / "store"), str(folder / "embed")
    config.model.embedding = 8
    config.update_from_flattened_dict(changes)
    return config


def masks_of(folder, images=True):
    (movie,) = store.open_store(folder / "store")
    number = {int(frame): t for t, frame in enumerate(movie.frames)}
    return track.Masks(
        list(number),
        lambda frame: store.read_frame(movie, "markers", number[frame])[1],
        np.ones(3),
        False,
        3,
        (lambda frame: np.asarray(store.read_frame(movie, "markers", number[frame])[2])) if images else None,
    )


@pytest.mark.parametrize("module", [link, pytest.param(ben_haim2022, marks=pytest.mark.slow)])
def test_the_network_sees_embeddings(folder, module):
    task = tasks.build(config_of(folder, module))
    embedders.attach(task, None)
    batch = task.train_data((0, 1))[0]
    assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {
        key: (x.shape, x.dtype) for key, x in task.batch_spec().items()
    }
    norms = np.linalg.norm(batch["node/embedding"], axis=-1)
    true = batch["node_mask"] & (batch["node/events"][..., 3] == 0)
    np.testing.assert_allclose(norms[true], 1, rtol=1e-4)
    model = FunctionalModel(task.model)
    params, stats = jax.jit(model.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(0), len(norms))

    @jax.jit
    def loss(batch):
        def apply(*inputs):
            return model.apply(Variables(params, stats), *inputs, train=False)

        return task.loss(apply, batch, keys, jnp.zeros((), jnp.int32))[0]

    batch = {key: jnp.asarray(values) for key, values in batch.items()}
    # Large, because the networks are not trained and hardly look at anything.
    others = 100 * jax.random.normal(keys[0], batch["node/embedding"].shape)
    assert abs(loss(batch) - loss({**batch, "node/embedding": others})) > 1e-4


def test_a_run_takes_its_embedder_along(folder, tmp_path):
    moved, workdir = tmp_path / "before", tmp_path / "link"
    shutil.copytree(folder / "embed", moved)
    config = config_of(folder, embedder=str(moved))
    config.train.steps = config.train.evaluate_every = config.train.save_every = 2
    task = tasks.build(config)
    embedders.attach(task, workdir)
    assert loop.train(task, config, workdir)
    shutil.rmtree(moved)
    shutil.move(workdir, tmp_path / "elsewhere")
    linker = linkers.restore(tmp_path / "elsewhere")
    (movie,) = store.open_store(folder / "store")
    _, labels, image = store.read_frame(movie, "markers", 0)
    ids = np.unique(labels)[1:]
    ends = [np.array([np.argwhere(labels[None] == i).min(0) for i in ids]) for _ in range(2)]
    ends[1] = np.array([np.argwhere(labels[None] == i).max(0) + 1 for i in ids])
    assert linker.embed is not None
    np.testing.assert_allclose(
        linker.embed(labels, image, ids, *ends), task.embed(labels, image, ids, *ends), rtol=1e-5, atol=1e-6
    )
    # A resumed run finds it too, and other masks are linked with it.
    resumed = tasks.build(config)
    embedders.attach(resumed, tmp_path / "elsewhere")
    assert resumed.embed.outputs == 8
    drawing = track.Drawing(fill_gaps=True, min_length=1)
    output = tmp_path / "01_RES"
    lineage = track.track_movie(masks_of(folder), linker, drawing, output, None, lambda _, frames: frames)
    assert len(lineage.label) > 0
    with pytest.raises(InputError, match=r"there are no images, .* give --images"):
        track.track_movie(
            masks_of(folder, images=False), linker, drawing, output, None, lambda _, frames: frames
        )
    shutil.rmtree(tmp_path / "elsewhere" / "embedder")
    with pytest.raises(InputError, match=r"neither .*elsewhere/embedder nor .*before holds the embedder"):
        linkers.restore(tmp_path / "elsewhere")


def test_the_range_of_a_movie_is_measured_where_the_original_scale_needs_it(folder, tmp_path):
    config = embed.get_config("tiny")
    config.crops.scale = "movie"
    save_untrained(tmp_path / "embed", config)
    task = tasks.build(config_of(folder, embedder=str(tmp_path / "embed")))
    embedders.attach(task, tmp_path / "link")
    assert task.embed.needs_range
    (truth,) = task._truths
    np.testing.assert_allclose(np.linalg.norm(truth.cells.embedding, axis=1), 1, rtol=1e-4)


def test_what_does_not_fit_names_the_cure(folder, tmp_path):
    with pytest.raises(InputError, match=r"there is no embedder: give --config.embedder"):
        tasks.build(config_of(folder, embedder=""))
    for changes, message in (
        ({"model.embedding": 16}, r"has 8 outputs and the network takes 16: give --config.model.embedding=8"),
        ({"model.embedding": 0}, r"has 8 outputs and the network takes 0"),
        ({"embedder": str(tmp_path / "none")}, r"none .* holds no run: give the --workdir"),
    ):
        with pytest.raises(InputError, match=message):
            embedders.attach(tasks.build(config_of(folder, **changes)), tmp_path / "link")
    save_untrained(tmp_path / "linker", link.get_config("tiny"))
    with pytest.raises(InputError, match=r"is a run of task 'link', which does not embed"):
        embedders.attach(tasks.build(config_of(folder, embedder=str(tmp_path / "linker"))), tmp_path / "link")
    with pytest.raises(ValueError, match="call `use` first"):
        tasks.build(config_of(folder)).train_data((0, 1))
