"""From LIVECell's eight types to Sartorius' three: heads are made anew and all else is taken, by rules."""

import jax
import jax.numpy as jnp
import pytest

from celltrack_jax import tasks
from celltrack_jax.data.synthetic import cultures
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.training import rules
from celltrack_jax.training.state import TrainState
from celltrack_jax.training.warm_start import warm_start
from configs.sartorius import transfer


def variables_of(config, value):
    """Variables that all have one value."""
    model = FunctionalModel(tasks.build(config).model)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), shapes)


def tuned(network, how=None, origin="livecell"):
    """Parameters, by name, of a network of 0s that starts from one of 1s, and what was said of it."""
    config = transfer.get_config(f"{network}_tuned_small")
    fresh = variables_of(config, 0)
    given = variables_of(transfer.get_config(f"{network}_{origin}_small"), 1)
    state, said = TrainState(jnp.int32(0), fresh, jax.tree.map(jnp.copy, fresh), {}), []
    how = config.train.initial_rules if how is None else how
    warm = warm_start(state, given, "runs/first", how, said.append)
    leaves = jax.tree_util.tree_leaves_with_path(warm.variables)
    return {rules.parameter_name(path): float(x.mean()) for path, x in leaves}, said[0]


def test_heads_of_eight_classes_give_way_to_those_of_three():
    values, said = tuned("mask_rcnn")
    fresh = {name for name, value in values.items() if value == 0}
    assert fresh == {
        f"params/{head}/{part}" for head in ("logits", "box_deltas", "masks") for part in ("kernel", "bias")
    }
    assert set(values.values()) == {0, 1}
    assert any(name.startswith("stats/") for name in values)
    assert said.endswith("made anew: box_deltas, logits, masks; not used: box_deltas, logits, masks")
    # Other three classes, which would fit.
    values, _ = tuned("mask_rcnn", origin="none")
    assert fresh == {name for name, value in values.items() if value == 0}


def test_flows_are_those_of_any_type():
    values, said = tuned("cellpose")
    assert set(values.values()) == {1}
    assert said.count(":") == 0


def test_heads_that_nobody_expects_to_differ_are_an_error():
    with pytest.raises(
        InputError, match=r"box_deltas/bias has shape \(12,\) .* of shape \(32,\) .*'box_deltas', 'anew'"
    ):
        tuned("mask_rcnn", how=((".*", "taken"),))


def test_what_is_new_learns_faster_than_what_is_tuned():
    config = transfer.get_config("mask_rcnn_tuned")
    params = jax.eval_shape(FunctionalModel(tasks.build(config).model).init, jax.random.key(0)).params
    factors = rules.match(config.optimizer.learning_rate_rules, params)
    assert (factors["logits"]["kernel"], factors["mask_convs"][0]["kernel"]) == (1.0, 0.25)


def test_types_of_livecell_are_those_of_its_reader():
    assert sorted(kind.lower() for kind in cultures.LIVECELL) == list(transfer.LIVECELL)
    assert set(cultures.SARTORIUS) & set(transfer.LIVECELL) == {"shsy5y"}
