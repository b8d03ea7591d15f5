"""Every config compiles in principle: the shapes of init and of a step, without data and without a compiler."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from celltrack_jax import models, tasks
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


def _parts(name: str, argument: str) -> tuple[str, ...]:
    """What a step is made of."""
    config = importlib.import_module(name).get_config(argument)
    return config.task, *(
        config[part].get("name", "") for part in ("model", "representation") if part in config
    )


def _first_of_their_parts() -> set[tuple[str, str]]:
    """Cases whose whole step is traced in every run; of the others, which change sizes or loss, the slow tests do.

    The semi-supervised step applies the networks of other cases, which are traced there in full size, up to six times:
    here the small ones.
    """
    first = {}
    for case in sorted(CASES, key=lambda case: case[0].endswith(".semi") and not case[1].endswith("_small")):
        first.setdefault(_parts(*case), case)
    return set(first.values())


WHOLE = _first_of_their_parts()
OTHERS = [case for case in CASES if case not in WHOLE]


def _case(name: str, argument: str):
    return pytest.param(name, argument, marks=() if (name, argument) in WHOLE else pytest.mark.slow)


@pytest.mark.parametrize(("name", "argument"), [case for case in OTHERS if "kinetochores" not in case[0]])
def test_every_other_argument_has_a_network(name, argument, monkeypatch):
    check_network(importlib.import_module(name).get_config(argument), monkeypatch)


def check_network(config, monkeypatch):
    """Most tasks build their network themselves, to know its stride; that of the others is built here."""
    built, build = [], models.build

    def building(name, *arguments, **settings):
        network = build(name, *arguments, **settings)
        built.append(name)
        return network

    with monkeypatch.context() as patch:
        patch.setattr(models, "build", building)
        task = tasks.build(config)
        if not built:
            FunctionalModel(task.model)
    assert built == [config.model.name]


@pytest.mark.parametrize(("name", "argument"), [case for case in OTHERS if "kinetochores" in case[0]])
def test_targets_and_loss_have_shapes(name, argument):
    check_targets_and_loss(importlib.import_module(name).get_config(argument))


def check_targets_and_loss(config):
    task = tasks.build(config)
    spec = {key: value for key, value in task.batch_spec().items() if key != "sample"}
    shape = (config.data.batch_size, *config.data.crop)
    if config.task == "reconstruct":
        image = jax.ShapeDtypeStruct((*shape, len(task.inputs)), jnp.float32)
        hidden = jax.ShapeDtypeStruct((*shape, 1), jnp.float32)
        assert jax.eval_shape(task.representation.loss, image, image, hidden, hidden)[0].shape == ()
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
def test_every_arm_of_a_sweep_has_a_network(path, monkeypatch):
    for arm in arms.load(path, None, {}):
        check_network(arm.config, monkeypatch)


@pytest.mark.parametrize(
    "argument", ["modern_dice", "tiny_res", "reg_dice", "mh_ball2", "focal_dil1", "dice_published"]
)
def test_a_word_that_changes_nothing_is_refused(argument):
    with pytest.raises(ValueError, match="changes nothing"):
        importlib.import_module("configs.kinetochores.points").get_config(argument)


def test_an_unknown_argument_is_refused():
    with pytest.raises(ValueError, match="not 'sims'"):
        importlib.import_module("configs.ctc.segment").get_config("sims")
