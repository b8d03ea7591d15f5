"""Runs that start with the weights of another one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.training import checkpoint, loop, progress
from celltrack_jax.training.state import TrainState
from celltrack_jax.training.warm_start import warm_start
from tests.training.toy_task import ToyTask, toy_config


def leaf(value, *shape):
    return jnp.full(shape, float(value))


def fresh_state() -> TrainState:
    params = {
        "encoder": {"first": {"kernel": leaf(1, 3, 4), "bias": leaf(1, 4)}},
        "heads": {"new": {"kernel": leaf(1, 4, 2)}},
    }
    variables = Variables(params, {"encoder": {"mean": leaf(1, 4)}})
    return TrainState(jnp.int32(0), variables, jax.tree.map(jnp.copy, variables), {"momentum": leaf(7, 4)})


def given(**heads) -> Variables:
    params = {"encoder": {"first": {"kernel": leaf(2, 3, 4), "bias": leaf(2, 5)}}, "heads": heads}
    return Variables(params, {"encoder": {"mean": leaf(2, 4)}})


def test_what_has_the_same_name_and_shape_is_taken():
    state, said = fresh_state(), []
    other = given(old={"kernel": leaf(2, 4, 2)})
    warm = warm_start(state, other, "runs/other", [(".*", "fitting")], said.append)
    for variables in (warm.variables, warm.ema):
        assert jax.tree.map(lambda x: float(x.mean()), variables) == Variables(
            {"encoder": {"first": {"kernel": 2, "bias": 1}}, "heads": {"new": {"kernel": 1}}},
            {"encoder": {"mean": 2}},
        )
    assert jax.tree.map(jnp.shape, warm) == jax.tree.map(jnp.shape, state)
    assert warm.step == 0
    assert warm.optimizer is state.optimizer
    # The average is memory of its own: a step may give that of the variables away.
    kernels = [x.params["encoder"]["first"]["kernel"] for x in (warm.variables, warm.ema)]
    assert kernels[0].unsafe_buffer_pointer() != kernels[1].unsafe_buffer_pointer()
    (line,) = said
    assert line == (
        "1 of 3 parameters are those of runs/other; made anew: encoder/first, heads/new; "
        "not used: encoder/first, heads/old"
    )


def test_all_of_the_same_network_is_taken():
    state, said = fresh_state(), []
    other = jax.tree.map(lambda x: x + 3, state.variables)
    warm = warm_start(state, other, "runs/other", [(".*", "taken")], said.append)
    jax.tree.map(np.testing.assert_array_equal, warm.variables, other)
    jax.tree.map(np.testing.assert_array_equal, warm.ema, other)
    assert said == ["3 of 3 parameters are those of runs/other"]


def test_another_network_is_refused():
    other = Variables({"encoder": {"second": {"kernel": leaf(2, 3, 4)}}}, {})
    with pytest.raises(
        InputError, match=r"train\.initial: no parameter of runs/other has the name and shape"
    ):
        warm_start(fresh_state(), other, "runs/other", [(".*", "fitting")])


def test_heads_are_made_anew_though_they_fit():
    """As many other classes have the same shapes."""
    state, said = fresh_state(), []
    other = jax.tree.map(lambda x: x + 3, state.variables)
    how = [("^heads/", "anew"), (".*", "taken")]
    warm = warm_start(state, other, "runs/other", how, said.append)
    assert float(warm.variables.params["heads"]["new"]["kernel"].mean()) == 1
    assert float(warm.ema.params["heads"]["new"]["kernel"].mean()) == 1
    assert float(warm.variables.params["encoder"]["first"]["kernel"].mean()) == 4
    assert said == ["2 of 3 parameters are those of runs/other; made anew: heads/new; not used: heads/new"]
    # Statistics go by the same rules.
    warm = warm_start(state, other, "runs/other", [("^encoder/(first/b|mean)", "anew"), (".*", "taken")])
    assert float(warm.variables.stats["encoder"]["mean"].mean()) == 1
    assert float(warm.variables.params["heads"]["new"]["kernel"].mean()) == 4


def test_what_has_to_be_taken_and_does_not_fit_is_refused():
    how = [("^heads/", "anew"), (".*", "taken")]
    with pytest.raises(
        InputError,
        match=r"encoder/first/bias has shape \(4,\) in this network and is of shape \(5,\) in runs/other: ",
    ):
        warm_start(fresh_state(), given(), "runs/other", how)
    with pytest.raises(
        InputError, match=r"heads/new/kernel .* is absent in runs/other: .*\('heads/new', 'anew'\)"
    ):
        warm_start(fresh_state(), given(), "runs/other", [("bias", "fitting"), (".*", "taken")])
    stats = fresh_state().variables._replace(stats={})
    with pytest.raises(InputError, match=r"encoder/mean .* is absent"):
        warm_start(fresh_state(), stats, "runs/other", how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            [("heads", "new"), (".*", "taken")],
            r"train\.initial_rules: new: a rule says 'taken', 'fitting' or 'anew'",
        ),
        ([("hedas", "anew"), (".*", "taken")], r"rules \['hedas'\] match no parameter"),
        ([("heads", "anew")], r"no rule matches parameter encoder/first/bias"),
    ],
)
def test_rules_that_say_nothing_are_refused(how, message):
    with pytest.raises(InputError, match=message):
        warm_start(fresh_state(), given(), "runs/other", how)


def first_loss(workdir):
    return next(row["loss"] for row in progress.read_history(workdir) if row["kind"] == "train")


def test_a_second_run_starts_where_the_first_one_is_and_a_resumed_one_does_not_load_again(tmp_path, capsys):
    config = toy_config(8, log_every=1, evaluate_every=4, save_every=4)
    loop.train(ToyTask(config), config, tmp_path / "first")
    rows = [row for row in progress.read_history(tmp_path / "first") if row["kind"] == "train"]
    loads = []

    def initial():
        loads.append(1)
        model = FunctionalModel(ToyTask(config).model)
        return checkpoint.restore_variables(tmp_path / "first", "latest", model)[1]

    config = toy_config(4, log_every=1, evaluate_every=4, save_every=4, initial="runs/first")
    config.train.initial_rules = ((".*", "taken"),)
    loop.train(ToyTask(config), config, tmp_path / "second", initial=initial)
    assert loads == [1]
    said = capsys.readouterr().out
    assert "parameters are those of runs/first" in said
    # On the same first batch: that of a fresh network, and of the averaged weights of the trained one.
    assert first_loss(tmp_path / "second") < 0.7 * rows[0]["loss"]
    loop.train(ToyTask(config), config, tmp_path / "second", initial=initial)
    assert loads == [1]
    assert "parameters are those of" not in capsys.readouterr().out
