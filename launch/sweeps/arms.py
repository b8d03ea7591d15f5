"""The arms of a sweep, from `sweep(add)` of a config file; each is built and checked before anything starts."""

import ast
import importlib.util
import json
import pprint
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from celltrack_jax import tasks
from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from launch import cli, embedders

Add = Callable[..., None]


class Arm(NamedTuple):
    """One variant of an experiment."""

    name: str
    argument: str | None
    """That `get_config` is called with; None for its default."""
    overrides: dict[str, Any]
    """Value by dotted key."""
    config: Config

    def of_seed(self, seed: int) -> Config:
        """Returns the config of one run."""
        config = self.config.copy_and_resolve_references()
        config.seed = seed
        return config


def load(path: Path, argument: str | None, common: Mapping[str, Any]) -> list[Arm]:
    """Returns the arms of a config file in their order; the first is the baseline.

    Args:
      path: Python file with `get_config` and `sweep(add)`. `add(name, argument=None, overrides={})` adds an arm:
        `argument` is that of `get_config`, `overrides` are values by dotted key, where a dict replaces a whole part.
      argument: of arms that give none.
      common: overrides of all arms, after their own.

    Raises:
      InputError: the file or one of its arms is wrong; the message names it.
    """
    module = _module(path)
    for name in ("get_config", "sweep"):
        if not callable(getattr(module, name, None)):
            raise InputError(
                f"{path} has no {name}: write a function of that name, see configs/ctc/segment.py"
            )
    arms: dict[str, Arm] = {}

    def add(name: str, argument: str | None = argument, overrides: Mapping[str, Any] | None = None) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+=-]*", name):
            raise InputError(
                f"{path}: {name!r} names no arm: use letters, digits and .+=-_, it becomes a folder"
            )
        if name in arms:
            raise InputError(f"{path}: two arms are called {name!r}: rename one")
        arms[name] = _arm(path, module, name, argument, {**(overrides or {})}, common)

    _called(path, "sweep", module.sweep, add)
    if not arms:
        raise InputError(f"{path}: sweep adds no arm: call add(name, ...) in it")
    return list(arms.values())


def of_config(name: str, spec: str, common: Sequence[str]) -> Arm:
    """Returns an arm that is a config of its own.

    Args:
      name: of the arm.
      spec: <file>[:argument].
      common: words --config.key=value, of keys that it has.

    Raises:
      InputError: the file is wrong, or a value is.
    """
    path, _, argument = spec.partition(":")
    values = flags.FlagValues()
    words = ["launch", f"--config={spec}", *common]
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=words)
    try:
        values(words)
        overrides = dict(config_flags.get_override_values(values["config"]))
        config = values["config"].value
    except Exception as error:
        said = cli.reason(error, words)
        raise InputError(f"{spec}: {said}: correct the config, or what is set in it") from error
    if not isinstance(config, ConfigDict) or not isinstance(config.get("seed"), int):
        raise InputError(f"{path}: it is no config with a whole number `seed`: give <file>[:argument]")
    return Arm(name, argument or None, overrides, config)


def has(config: Config, key: str) -> bool:
    """Returns whether a config has a dotted key."""
    part: Any = config
    for name in key.split("."):
        if not isinstance(part, ConfigDict) or name not in part:
            return False
        part = part[name]
    return True


def check(arms: list[Arm], path: Path) -> None:
    """Builds the task of every arm, and opens the data that they name.

    Raises:
      InputError: an arm cannot be built, or its data are absent.
    """
    opened = set()
    for arm in arms:
        try:
            task = tasks.build(arm.config)
            data = json.dumps(as_json(arm.config).get("data"), sort_keys=True)
            if data not in opened:
                embedders.attach(task, None)
                task.train_data((0, 1))
                opened.add(data)
        except (InputError, TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
            raise InputError(f"{path}: arm {arm.name!r}: {_line(error)}") from error


def config_file(arm: Arm, seed: int, origin: str) -> str:
    """Returns the text of a config file with everything that a run is started with.

    A job may wait in a queue for days: it runs what was checked, not what the sweep's file has become since.

    Raises:
      InputError: the config holds something other than plain values.
    """
    values = arm.of_seed(seed).to_dict()
    text = pprint.pformat(values, width=100, sort_dicts=False)
    try:
        same = ast.literal_eval(text) == values
    except (ValueError, SyntaxError):
        same = False
    if not same:
        raise InputError(
            f"{origin}: arm {arm.name!r} holds values that are no plain numbers, texts and tuples"
        )
    return (
        f'"""Arm {arm.name}, seed {seed} of {origin}, as it was started. Written by launch.sweep."""\n\n'
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config() -> ConfigDict:\n    return ConfigDict(_VALUES)\n\n\n_VALUES = {text}\n"
    )


def as_json(config: Config) -> dict[str, Any]:
    """Returns a config as a run's config.json has it."""
    return json.loads(config.to_json_best_effort())


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sweep_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"--config={path} is no Python file: give the path of a config file")
    module = importlib.util.module_from_spec(spec)
    _called(path, "the file", spec.loader.exec_module, module)
    return module


def _arm(
    path: Path,
    module: ModuleType,
    name: str,
    argument: str | None,
    overrides: dict[str, Any],
    common: Mapping[str, Any],
) -> Arm:
    arguments = () if argument is None else (argument,)
    config = _called(path, f"arm {name!r}: get_config", module.get_config, *arguments)
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config returns {type(config).__name__}, not a ConfigDict")
    config.lock()
    for key, value in {**overrides, **common}.items():
        _set(config, key, value, f"{path}: arm {name!r}")
    if not isinstance(config.get("seed"), int):
        raise InputError(f"{path}: arm {name!r}: its config has no whole number `seed`: add one")
    return Arm(name, argument, overrides, config)


def _set(config: Config, key: str, value: Any, where: str) -> None:
    *parents, last = str(key).split(".")
    part = config
    for parent in parents:
        part = part.get(parent) if isinstance(part, ConfigDict) else None
    if not isinstance(part, ConfigDict) or last not in part:
        there = f" ({', '.join(part)})" if isinstance(part, ConfigDict) else ""
        raise InputError(f"{where}: the config has no {key!r}{there}: correct the key")
    try:
        part[last] = ConfigDict(value) if isinstance(value, Mapping) else value
    except (TypeError, ValueError) as error:
        kinds = f"{type(part[last]).__name__}, not {type(value).__name__}"
        raise InputError(f"{where}: {key} is a {kinds} ({value!r}): correct its value") from error


def _called(path: Path, what: str, function: Callable, *arguments: Any) -> Any:
    """Calls code of the file; what it raises becomes one line with the line of the file."""
    try:
        return function(*arguments)
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(
            f"{error.filename or path}, line {error.lineno}: {error.msg}: correct the file"
        ) from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == path
        ]
        at = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{path}{at}: {what}: {_line(error)}: correct it") from error


def _line(error: BaseException) -> str:
    """An error on one line; only our own say all without their type."""
    said = " ".join(str(error).split())[:300]
    return said if isinstance(error, InputError) else f"{type(error).__name__}: {said}"
