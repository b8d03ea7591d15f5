"""The optimizer of a config: Adam or AdamW with a warm-up cosine, clipping, and (regex, value) rules."""

from typing import Any

import jax
import optax

from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.training import rules


def learning_rate(config: Config, steps: int) -> optax.Schedule:
    """Returns the schedule: linear warm-up over `warmup_steps`, then a cosine to `final_fraction` of the peak.

    Args:
      config: with learning_rate, warmup_steps, final_fraction.
      steps: of the whole run.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup_steps, max(steps - 1, 1)),
        decay_steps=max(steps, 2),
        end_value=config.learning_rate * config.final_fraction,
    )


def make_optimizer(config: Config, steps: int, params: Any) -> optax.GradientTransformation:
    """Builds the optimizer.

    Args:
      config: with learning_rate, warmup_steps, final_fraction, b1, b2, clip_norm (global gradient norm),
        weight_decay_rules and learning_rate_rules: [(regex, value)], first match wins; a learning-rate factor of 0
        freezes, running statistics of batch norm that it names too (`FunctionalModel`). decay is "decoupled" (AdamW,
        Loshchilov & Hutter 2019, arXiv:1711.05101), or "in_gradient", which passes through the moments as PyTorch's
        Adam has it.
      steps: of the whole run.
      params: a pytree of the parameters' shapes.

    Returns:
      An optax transformation.

    Raises:
      InputError: there is no such decay.
    """
    if config.decay not in ("decoupled", "in_gradient"):
        raise InputError(f"optimizer.decay {config.decay!r} is neither decoupled nor in_gradient")
    decay = rules.match(config.weight_decay_rules, params)
    factor = rules.match(config.learning_rate_rules, params)

    def add_decay(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda update, param, rate: update + rate * param, updates, params, decay)

    def scale(updates: Any) -> Any:
        return jax.tree.map(lambda update, by: update * by, updates, factor)

    moments = [optax.scale_by_adam(b1=config.b1, b2=config.b2), optax.stateless(add_decay)]
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        *(moments if config.decay == "decoupled" else reversed(moments)),
        optax.stateless(lambda updates, params: scale(updates)),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )
