"""Learning to link: what windows teach, what a perfect network would choose, and a run from end to end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

from celltrack_jax import tasks
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.tasks import LinkingTask
from celltrack_jax.tracking import graph, learned
from celltrack_jax.tracking.learned import EVENTS
from celltrack_jax.training import loop, progress
from configs.ctc import link
from tests import tiny_store


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    config = link.get_config("tiny")
    config.data.store = str(tiny_store.make(tmp_path_factory.mktemp("movie")))
    return tasks.build(config)


def oracle(batch):
    """Logits of a network that knows the answers."""
    found = {"edge": 20 * batch["edge/label"] - 10}
    return found | {name: 20 * batch["node/events"][..., i] - 10 for i, name in enumerate(EVENTS)}


def test_batches_have_the_promised_shapes_and_do_not_depend_on_processes(task):
    (spec,) = task.batch_specs()
    whole = task.train_data((0, 1))[3]
    assert {key: (x.shape, x.dtype) for key, x in whole.items()} == {
        key: (x.shape, x.dtype) for key, x in spec.items()
    }
    parts = [task.train_data((place, 2))[3] for place in range(2)]
    for key, values in whole.items():
        np.testing.assert_array_equal(np.stack([part[key][0] for part in parts]), values)
    assert whole["edge/label"].sum() > 0
    assert not (whole["edge/label"].astype(bool) & ~whole["edge_mask"]).any()


@pytest.mark.parametrize(("sign", "low", "high"), [(1, 0, 0.01), (-1, 5, 1000)])
def test_right_answers_cost_nothing_and_wrong_ones_much(task, sign, low, high):
    batch = {key: jnp.asarray(values[:1]) for key, values in task.train_data((0, 1))[0].items()}
    answers = {name: sign * values[0] for name, values in oracle(batch).items()}
    keys = jax.random.split(jax.random.key(0), 1)
    loss, _, metrics = task.loss(lambda window, key: (answers, {}), batch, keys, jnp.zeros(()))
    assert low <= loss < high
    assert metrics["edge_accuracy"] == (sign > 0)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_links_of_perfect_logits_are_the_true_ones(task, share):
    (truth,) = task._truths
    _, cells, parents, real, ends = task._imperfect(truth, share)
    whole, edges = learned.movie_graph(cells, task.graph)
    label = graph.edge_labels(edges, parents)
    assert graph.reachable(edges, parents) > 0.95

    def apply(batch):
        # A window's edges and nodes are found again by their features.
        rows = {row.tobytes(): i for i, row in enumerate(whole.edges["features"])}
        at = [rows.get(row.tobytes()) for row in batch["edge/features"][0]]
        edge = np.array([20.0 * label[i] - 10 if i is not None else 0 for i in at])
        nodes = {row.tobytes(): i for i, row in enumerate(whole.nodes["features"])}
        found = {"edge": edge[None]}
        children = np.bincount(edges.source[label], minlength=len(real))
        answers = {
            "divide": children > 1,
            "appear": (parents < 0) & real,
            "disappear": (children == 0) & real,
            "false": ~real,
        }
        for name, answer in answers.items():
            at = [nodes.get(row.tobytes()) for row in batch["node/features"][0]]
            found[name] = np.array([20.0 * answer[i] - 10 if i is not None else 0 for i in at])[None]
        return found

    links = task.link(cells, apply, ends)
    reachable = np.zeros(len(parents), bool)
    reachable[edges.target[label]] = True
    np.testing.assert_array_equal(links.parent, np.where(reachable, parents, -1))
    np.testing.assert_array_equal(links.kept, real)


def test_evaluation_tells_how_many_links_are_right(task):
    model = FunctionalModel(task.model)
    variables = model.init(jax.random.key(0))
    assert isinstance(task, LinkingTask)
    scores = task.evaluate(model, variables, lambda: False)
    assert scores is not None
    assert set(scores) >= {"links", "divisions", "imperfect_0.05/links", "score"}
    assert scores["score"] is not None
    assert 0 <= scores["score"] <= 1
    assert task.evaluate(model, variables, lambda: True) is None


def test_a_network_learns_to_link(task):
    """Twenty steps from random weights: most of the loss goes."""
    model = FunctionalModel(task.model)
    params, stats = model.init(jax.random.key(0))
    data = task.train_data((0, 1))

    @jax.jit
    def step(params, batch):
        def loss(params):
            keys = jax.vmap(jax.random.key)(batch["sample"])
            apply = lambda *inputs: model.apply(Variables(params, stats), *inputs, train=True)  # noqa: E731
            return task.loss(apply, batch, keys, jnp.zeros((), jnp.int32))[0]

        value, gradients = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda x, g: x - 0.1 * g, params, gradients)

    losses = []
    for number in range(20):
        value, params = step(params, data[number])
        losses.append(float(value))
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:2])


def test_errors_name_the_cure(task):
    config = link.get_config("tiny")
    with pytest.raises(InputError, match=r"give --config.data.store"):
        tasks.build(config).train_data((0, 1))
    config.inference.stride = 4
    with pytest.raises(InputError, match=r"make the stride at most window - graph.max_gap - 1"):
        tasks.build(config)
    config = link.get_config("tiny")
    config.data.store, config.data.buckets = task.config.data.store, ((8, 16),)
    with pytest.raises(InputError, match=r"frames 0 to 3 hold \d+ cells .* add a larger one"):
        tasks.build(config).train_data((0, 1))


def test_a_run_compiles_one_program_per_bucket(task, tmp_path):
    """After half of its steps and evaluations a run compiles nothing any more."""
    compiled, counts = [], []
    least, *_, most = sorted(window.size[1] for window in task._training_windows)
    assert least < most < 512

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration_secs)

    config = link.get_config("tiny")
    config.data.store, config.data.buckets = task.config.data.store, ((64, least), (64, 512))
    config.train.steps, config.train.log_every = 12, 1
    config.train.evaluate_every = config.train.save_every = 3
    trained: Any = tasks.build(config)
    evaluate = trained.evaluate

    def evaluated(*arguments):
        scores = evaluate(*arguments)
        counts.append(len(compiled))
        return scores

    trained.evaluate = evaluated
    monitoring.register_event_duration_secs_listener(listen)
    try:
        assert loop.train(trained, config, tmp_path)
    finally:
        monitoring.unregister_event_duration_listener(listen)
    first, second = (
        {trained.train_data((0, 1))[i]["senders"].shape[1] for i in half} for half in (range(6), range(6, 12))
    )
    assert first == second == {least, 512}
    assert len(counts) == 4
    assert counts[1] == counts[3] > 0
    rows = progress.read_history(tmp_path)
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [3, 6, 9, 12]
