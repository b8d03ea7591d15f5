"""The words --config.<key>=<value> of commands whose configs are known only later: several of them, or that of a run."""

import re
from collections.abc import Sequence

from absl import flags

_WORD = re.compile(r"--?(config\.[\w.]+)(=.*)?", re.DOTALL)


def define(words: Sequence[str]) -> None:
    """Defines a flag for each --config.<key>=<value> among a command's words."""
    for word in words:
        found = _WORD.fullmatch(word)
        if found and found[1] not in flags.FLAGS:
            flags.DEFINE_string(found[1], None, "changes the configs that have this key")


def words() -> list[str]:
    """Returns the words --config.<key>=<value> that this process was called with."""
    return [f"--{name}={flags.FLAGS[name].value}" for name in flags.FLAGS if name.startswith("config.")]
