"""The optimizer against the formulas of Adam and AdamW, step by step in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.training.optimizer import make_optimizer
from tests.training.toy_task import toy_config

RATE, DECAY, B1, B2 = 1e-2, 0.1, 0.9, 0.999


def config(decay):
    optimizer = toy_config().optimizer
    optimizer.update({"learning_rate": RATE, "warmup_steps": 0, "final_fraction": 1.0, "clip_norm": 1e9})
    optimizer.update({"weight_decay_rules": ((".*", DECAY),), "decay": decay, "b1": B1, "b2": B2})
    return optimizer


@pytest.mark.parametrize("decay", ["decoupled", "in_gradient"])
def test_decay_goes_beside_the_moments_or_through_them(decay):
    rng = np.random.default_rng(0)
    x = rng.normal(size=5)
    gradients = rng.normal(size=(4, 5))
    params = {"kernel": jnp.asarray(x, jnp.float32)}
    optimizer = make_optimizer(config(decay), 100, params)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    first, second = np.zeros(5), np.zeros(5)
    for step, gradient in enumerate(gradients, 1):
        inside, outside = (DECAY * x, 0) if decay == "in_gradient" else (0, DECAY * x)
        whole = gradient + inside
        first, second = B1 * first + (1 - B1) * whole, B2 * second + (1 - B2) * whole**2
        x = x - RATE * (first / (1 - B1**step) / (np.sqrt(second / (1 - B2**step)) + 1e-8) + outside)
        change, state = update({"kernel": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = jax.tree.map(jnp.add, params, change)
        np.testing.assert_allclose(params["kernel"], x, rtol=1e-5, atol=1e-7)


def test_another_decay_is_refused():
    with pytest.raises(InputError, match=r"optimizer.decay 'l2' is neither decoupled nor in_gradient"):
        make_optimizer(config("l2"), 10, {"kernel": jnp.zeros(2)})
