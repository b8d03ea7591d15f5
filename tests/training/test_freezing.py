"""Parts of a network that rules of learning rates freeze: not a bit of them changes, and they are applied as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.training import checkpoint, loop, progress, rules
from celltrack_jax.training.rules import parameter_name
from tests.training.toy_task import ToyTask, toy_config

ENCODER = "^down"


def frozen_config(**train):
    config = toy_config(4, log_every=1, evaluate_every=4, save_every=4, **train)
    config.optimizer.learning_rate_rules = ((ENCODER, 0.0), ("^heads", 0.5), (".*", 1.0))
    return config


def leaves(tree):
    return {parameter_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Variables before and after four steps from the weights of another run."""
    config = frozen_config(initial="runs/first", initial_rules=((".*", "taken"),))
    task = ToyTask(config, norm="batch")
    model = FunctionalModel(task.model)
    given = model.init(jax.random.key(7))
    # Statistics that no batch of noise has.
    given = Variables(given.params, jax.tree.map(lambda x: x + 0.25, given.stats))
    workdir = tmp_path_factory.mktemp("frozen") / "run"
    assert loop.train(task, config, workdir, initial=lambda: given)
    return given, checkpoint.restore_variables(workdir, "latest", model)[1], workdir


def test_not_a_bit_of_what_is_frozen_changes(run):
    before, after, _ = run
    for old, new in ((before.params, after.params), (before.stats, after.stats)):
        same = {name: bool((leaf == leaves(new)[name]).all()) for name, leaf in leaves(old).items()}
        assert same == {name: name.startswith("down") for name in same}
        assert set(same.values()) == {True, False}


def test_what_is_frozen_counts_in_no_gradient(run):
    """The norm that is clipped and logged is that of the rest."""
    given, _, workdir = run
    config = frozen_config()
    task = ToyTask(config, norm="batch")
    model = FunctionalModel(task.model, rules.freezing(config.optimizer.learning_rate_rules))
    batch = {key: jnp.asarray(x) for key, x in task.train_data((0, 1))[0].items()}
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(config.seed), n))(batch["sample"])

    def cost(params):
        return task.loss(
            lambda x: model.apply(Variables(params, given.stats), x, train=True), batch, keys, 0
        )[0]

    gradients = leaves(jax.jit(jax.grad(cost))(given.params))
    rest = [np.square(x).sum() for name, x in gradients.items() if not name.startswith("down")]
    everything = [np.square(x).sum() for x in gradients.values()]
    logged = next(row for row in progress.read_history(workdir) if row["kind"] == "train")["gradient_norm"]
    assert logged == pytest.approx(np.sqrt(sum(rest)), rel=1e-4)
    assert logged < 0.99 * np.sqrt(sum(everything))


def test_frozen_norms_are_applied_in_training_as_in_inference():
    task = ToyTask(toy_config(), norm="batch")
    every, encoder, none = (
        FunctionalModel(task.model, rules.freezing(((pattern, 0.0), (".*", 1.0))))
        for pattern in (".*", ENCODER, "kernel")
    )
    variables = every.init(jax.random.key(0))
    variables = Variables(variables.params, jax.tree.map(lambda x: x + 0.25, variables.stats))
    image = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    told = {}
    for name, model in (("every", every), ("encoder", encoder), ("none", none)):
        outputs, stats = jax.jit(lambda v, x, m=model: m.apply(v, x, train=True))(variables, image)
        told[name] = np.asarray(outputs["copy"])
        kept = {key: bool((x == leaves(stats)[key]).all()) for key, x in leaves(variables.stats).items()}
        assert kept == {
            key: name == "every" or (name == "encoder" and key.startswith("down")) for key in kept
        }
    inference = every.apply(variables, image)[0]["copy"]
    np.testing.assert_allclose(told["every"], inference, rtol=1e-5, atol=1e-6)
    assert np.abs(told["encoder"] - inference).max() > 1e-3
    assert np.abs(told["none"] - told["encoder"]).max() > 1e-3
