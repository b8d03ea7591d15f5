"""The faithful tracker: its windows against the words of docs/originals.md, 5, and a run through the mains."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.data import store
from celltrack_jax.tracking import learned
from configs.ctc import ben_haim2022
from tests import mains, tiny_store
from tests.ctc_validators import validate_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds ctc/ and store/."""
    return tiny_store.make(tmp_path_factory.mktemp("movie")).parent


def build(folder, scale):
    config = ben_haim2022.get_config("tiny")
    config.data.store, config.graph.scale = str(folder / "store"), scale
    return tasks.build(config)


def rows(folder, frames):
    """What 5.1 lists about each object: frame, id, and the 13 columns."""
    (movie,) = store.open_store(folder / "store")
    found = []
    for t in frames:
        labels = np.asarray(movie.labels["markers"][t, 0, 0].read().result())
        image = np.asarray(movie.image[t, 0, 0].read().result())
        for name in np.unique(labels[labels > 0]):
            y, x = np.nonzero(labels == name)
            light = image[y, x].astype(float)
            variances = np.linalg.eigvalsh(np.cov(np.stack([y, x]), bias=True))
            box = y.min(), x.min(), y.max() + 1, x.max() + 1
            centre = np.rint(y.mean()), np.rint(x.mean())
            axes = 4 * np.sqrt(variances[::-1])
            found.append(
                (t, int(name), [t, len(y), *box, *centre, *axes, light.max(), light.mean(), light.min()])
            )
    return found


@pytest.mark.parametrize("scale", [2.0, 0.1])
def test_windows_are_what_the_words_say(folder, scale):
    task = build(folder, scale)
    windows = [window.read() for window in task._training_windows]
    every = rows(folder, range(6))
    boxes = np.array([row[2:6] for _, _, row in every])
    reach = scale * (boxes[:, 2:] - boxes[:, :2]).max(0)
    # Of ten frames, four are held out: one window of four frames from each of the first three on.
    assert len(windows) == 3
    beyond = divided = 0
    for start, window in enumerate(windows):
        objects = [each for each in every if start <= each[0] < start + 4]
        raw = np.array([row for _, _, row in objects])
        extent = raw.max(0) - raw.min(0)
        expected = (raw - raw.min(0)) / np.where(extent > 0, extent, 1)
        np.testing.assert_allclose(window.nodes["features"], expected, atol=2e-3)
        found = {
            (source, target): label
            for source, target, label in zip(
                window.source.tolist(), window.target.tolist(), window.edges["label"].tolist(), strict=True
            )
        }
        assert len(found) == window.size[1]
        wanted = {}
        for i, (t, name, one) in enumerate(objects):
            for j, (u, other, two) in enumerate(objects):
                near = (np.abs(np.array(one[6:8]) - two[6:8]) <= reach).all()
                if u == t + 1 and (near or name == other):
                    wanted[i, j] = float(name == other)
                    beyond += not near
        assert found == wanted
        parents = task._truths[0].parents
        names = [name for _, name, _ in objects]
        divided += sum(names[i] != names[j] and parents[j] == i for i, j in found) if start == 0 else 0
    assert (beyond > 0) == (scale < 1)
    assert divided or scale < 1, "no division is among the candidates, so nothing shows that it is no link"


def test_a_movie_is_one_graph_with_features_from_0_to_1(folder):
    task = build(folder, 2.0)
    (truth,) = task._truths
    batches = []

    def apply(batch):
        batches.append(batch)
        return {"edge": np.where(batch["edge_mask"], 1.0, 0.0)}

    links = task.link(truth.cells, apply, truth.ends)
    (batch,) = batches
    nodes = batch["node/features"][0][batch["node_mask"][0]]
    assert len(nodes) == len(truth.parents)
    np.testing.assert_allclose(nodes.min(0), 0, atol=1e-6)
    np.testing.assert_allclose(nodes.max(0), 1, atol=1e-6)
    # Where every candidate is active the nearest is taken, and tracks end nowhere but with the movie.
    assert links.kept.all()
    assert (links.parent >= 0).sum() > 0
    whole, _ = learned.movie_graph(truth.cells, task.graph)
    assert batch["edge_mask"].sum() == whole.size[1]


def test_the_loss_weighs_links_as_much_as_others(folder):
    """5.6: mean binary cross-entropy, links weighted by the number of others per link."""
    task = build(folder, 2.0)
    batch = {key: jnp.asarray(value) for key, value in task.train_data((0, 1))[0].items()}
    logits = jnp.asarray(np.random.default_rng(0).normal(size=batch["senders"].shape), jnp.float32)
    ours, _, metrics = task.loss(
        lambda window, key: ({"edge": logits[0]}, {}),
        {key: value[:1] for key, value in batch.items()},
        jnp.zeros((1, 2), jnp.uint32),
        jnp.zeros(()),
    )
    inside = np.asarray(batch["edge_mask"][0])
    label = np.asarray(batch["edge/label"][0])[inside]
    p = 1 / (1 + np.exp(-np.asarray(logits[0], np.float64)[inside]))
    weight = (label == 0).sum() / (label == 1).sum()
    expected = -(weight * label * np.log(p) + (1 - label) * np.log(1 - p)).mean()
    assert float(ours) == pytest.approx(expected, rel=1e-5)
    assert set(metrics) == {"edge_loss", "edge_accuracy"}


def run(main, *flags):
    done = mains.call(main, *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_trains_and_tracks_through_the_mains(folder, tmp_path):
    workdir, output = tmp_path / "run", tmp_path / "01_RES"
    out = run(
        "train",
        "--config=configs/ctc/ben_haim2022.py:tiny",
        f"--workdir={workdir}",
        f"--config.data.store={folder / 'store'}",
    )
    assert "eval 12/12  links 0." in out or "eval 12/12  links 1" in out
    masks = folder / "ctc" / "01_GT" / "TRA"
    out = run(
        "track",
        f"--linker={workdir}",
        f"--masks={masks}",
        f"--images={folder / 'ctc' / '01'}",
        f"--output={output}",
    )
    assert "10 frames" in out.splitlines()[-1]
    (movie,) = store.open_store(folder / "store")
    shown = {t: np.asarray(movie.labels["markers"][t, 0, 0].read().result()) for t in range(10)}
    assert validate_result(output, shown, shown[0].shape) == []
    failed = mains.call("track", f"--linker={workdir}", f"--masks={masks}", f"--output={output}")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert (
        "the movie has no images and this linker was trained with images alone: give --images"
        in failed.stderr
    )
