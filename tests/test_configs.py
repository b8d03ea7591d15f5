"""Every config compiles in principle: the shapes of init and of a step, without data and without a compiler."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from celltrack_jax import tasks
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.training.optimizer import make_optimizer
from celltrack_jax.training.state import init_state, make_step
from launch.sweeps import arms

ROOT = Path(__file__).parents[1]
FILES = [path for path in sorted((ROOT / "configs").rglob("*.py")) if path.name != "__init__.py"]
CASES = [
    (path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."), argument)
    for path in FILES
    for argument in importlib.import_module(
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    ).ARGUMENTS
]
TWINS = re.compile(r"_small$|^(l1|decode_orig|decode_log|eval_curve)$")
"""Arguments that change another one's sizes, or what does not reach its shapes."""
WHOLE = re.compile(
    r"points:(modern_t6|van_rmse|u3d_gdgeom|res_dice|t3_tdist_gd51|regvec_t6|mh_published|tiny)$"
    r"|instances:(sd_grid|ctr_offset|ctr_embedseg|ctr_ball|harm_phase)$|pretrain:(ae_l2|blocks)$"
)
"""Of the kinetochores' many arms those whose whole step is traced; of the others the targets and the loss are."""


def _case(name: str, argument: str):
    parts = name.startswith("configs.kinetochores") and not WHOLE.search(f"{name}:{argument}")
    slow = parts or (TWINS.search(argument) and not name.startswith("configs.ctc"))
    return pytest.param(name, argument, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(
    ("name", "argument"),
    [case for case in CASES if "kinetochores" in case[0] and not WHOLE.search(f"{case[0]}:{case[1]}")],
)
def test_targets_and_loss_have_shapes(name, argument):
    config = importlib.import_module(name).get_config(argument)
    task = tasks.build(config)
    spec = {key: value for key, value in task.batch_spec().items() if key != "sample"}
    shape = (config.data.batch_size, *config.data.crop)
    if config.task == "reconstruct":
        image = jax.ShapeDtypeStruct((*shape, len(task.inputs)), jnp.float32)
        hidden = jax.ShapeDtypeStruct((*shape, 1), jnp.float32)
        assert jax.eval_shape(task.representation.loss, image, image, hidden)[0].shape == ()
        return
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), shape[0]))
    image, target = jax.eval_shape(jax.vmap(task.prepared), spec, keys)
    assert image.shape == (*shape, len(task.inputs))
    told = jax.ShapeDtypeStruct((*shape, task.representation.channels), jnp.float32)
    assert jax.eval_shape(task.representation.loss, told, target, 0)[0].shape == ()


@pytest.mark.parametrize(("name", "argument"), [_case(*case) for case in CASES])
def test_init_and_step_have_shapes(name, argument):
    config = importlib.import_module(name).get_config(argument)
    task = tasks.build(config)
    model = FunctionalModel(task.model)
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    optimizer = make_optimizer(config.optimizer, config.train.steps, params)
    state = jax.eval_shape(lambda key: init_state(model, optimizer, key), jax.random.key(0))
    step = make_step(task, model, optimizer, config.seed, config.ema_decay)
    after, metrics = jax.eval_shape(step, state, task.batch_spec())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize(
    "path", [path for path in FILES if "def sweep(" in path.read_text()], ids=lambda p: p.stem
)
def test_every_arm_of_a_sweep_has_a_network(path):
    for arm in arms.load(path, None, {}):
        assert FunctionalModel(tasks.build(arm.config).model), arm.name


def test_an_unknown_argument_is_refused():
    with pytest.raises(ValueError, match="not 'sims'"):
        importlib.import_module("configs.ctc.segment").get_config("sims")
