"""The words --config.<key>=<value> of commands whose configs are known only later: several of them, or that of a run."""

import re
from collections.abc import Mapping, Sequence

from absl import flags

_BEFORE = "config."
_WORD = re.compile(r"--?(config\.[\w.]+)(=.*)?", re.DOTALL)


def define(words: Sequence[str]) -> None:
    """Defines a flag for each --config.<key>=<value> among a command's words."""
    for word in words:
        found = _WORD.fullmatch(word)
        if found and found[1] not in flags.FLAGS:
            flags.DEFINE_string(found[1], None, "changes the configs that have this key")


def given() -> dict[str, str]:
    """Returns <value> by <key> of the words --config.<key>=<value> that this process was called with."""
    names = [name for name in flags.FLAGS if name.startswith(_BEFORE)]
    return {name.removeprefix(_BEFORE): str(flags.FLAGS[name].value) for name in names}


def words(settings: Mapping[str, object] | None = None) -> list[str]:
    """Returns settings by key as words --config.<key>=<value>; None stands for what is `given`."""
    return [f"--{_BEFORE}{key}={value}" for key, value in (given() if settings is None else settings).items()]
