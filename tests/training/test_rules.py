"""First match wins, and a rule that says nothing is an error."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.training import rules
from celltrack_jax.training.optimizer import learning_rate, make_optimizer
from tests.training.toy_task import toy_config

PARAMS = {"down": {0: {"kernel": jnp.ones(3), "bias": jnp.ones(2)}}, "head": {"kernel": jnp.ones(1)}}


def test_the_first_matching_rule_wins():
    values = rules.match([("^head", 0.1), ("kernel$", 0.2), (".*", 0.3)], PARAMS)
    assert values == {"down": {0: {"kernel": 0.2, "bias": 0.3}}, "head": {"kernel": 0.1}}


def test_a_parameter_without_a_rule_is_named():
    with pytest.raises(InputError, match="down/0/bias"):
        rules.match([("kernel", 1.0)], PARAMS)


def test_a_rule_without_a_parameter_is_named():
    with pytest.raises(InputError, match=r"\['encodr'\] match no parameter"):
        rules.match([("encodr", 1.0), (".*", 0.0)], PARAMS)


def test_a_learning_rate_factor_of_zero_freezes():
    config = toy_config().optimizer
    config.learning_rate_rules = (("^head", 0.0), (".*", 1.0))
    optimizer = make_optimizer(config, 10, PARAMS)
    state = optimizer.init(PARAMS)
    params: Any = PARAMS
    for _ in range(3):
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["head"]["kernel"], PARAMS["head"]["kernel"])
    assert max(params["down"][0]["kernel"].tolist()) < 1


def test_a_factor_multiplies_the_step_of_its_parameters():
    moved = {}
    for factor in (1.0, 0.25):
        config = toy_config().optimizer
        config.warmup_steps = 0
        config.learning_rate_rules = (("^head", factor), (".*", 1.0))
        config.weight_decay_rules = ((".*", 0.1),)
        optimizer = make_optimizer(config, 10, PARAMS)
        gradients = jax.tree.map(lambda x: 0.3 * x, PARAMS)
        moved[factor], _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    whole, part = moved[1.0], moved[0.25]
    np.testing.assert_allclose(part["head"]["kernel"], 0.25 * whole["head"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(part["down"][0]["kernel"], whole["down"][0]["kernel"])
    assert (whole["head"]["kernel"] < 0).all()


def test_without_rules_that_differ_it_is_adamw():
    config = toy_config().optimizer
    config.weight_decay_rules = ((".*", 0.01),)
    ours = make_optimizer(config, 10, PARAMS)
    reference = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(learning_rate(config, 10), b1=0.9, b2=0.999, weight_decay=0.01),
    )
    results = []
    for optimizer in (ours, reference):
        params, state = PARAMS, optimizer.init(PARAMS)
        for step in range(5):
            gradients = jax.tree.map(lambda x, step=step: jnp.sin(x + step), params)
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        results.append(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *results)


def test_the_schedule_rises_and_falls():
    config = toy_config().optimizer
    rates = [np.asarray(learning_rate(config, 10)(step)).item() for step in range(11)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(config.learning_rate)
    assert rates[10] == pytest.approx(config.learning_rate * config.final_fraction)
