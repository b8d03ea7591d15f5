"""Several configs as the arms of one experiment, and --config.key=value for all of them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from celltrack_jax.errors import InputError
from launch.sweeps import arms


def split(words: Sequence[str]) -> dict[str, str]:
    """Returns <file>[:argument] by name, of words in which several may stand between commas; arguments may have commas.

    Raises:
      flags.ValidationError: two have one name.
    """
    specs = [spec for word in words for spec in re.split(r",(?=[^,]*\.py(?:[:,]|$))", word) if spec]

    def name_of(spec: str) -> str:
        path, _, argument = spec.partition(":")
        return "_".join(filter(None, (Path(path).stem, re.sub(r"[^\w.+=-]", "+", argument))))

    return named(specs, name_of)


def load(specs: dict[str, str], common: Sequence[str]) -> list[arms.Arm]:
    """Returns the configs as arms, each with those overrides whose key it has.

    Args:
      specs: <file>[:argument] by name.
      common: words --config.key=value.

    Raises:
      InputError: a config is wrong, or no config has a key.
    """
    keys = {word: word.partition("=")[0].removeprefix("--config.") for word in common}
    plain = [arms.of_config(name, spec, ()) for name, spec in specs.items()]
    for word, key in keys.items():
        if not any(arms.has(arm.config, key) for arm in plain):
            raise InputError(f"{word}: none of the configs has {key!r}: correct the key")
    return [
        arms.of_config(arm.name, spec, [word for word, key in keys.items() if arms.has(arm.config, key)])
        for arm, spec in zip(plain, specs.values(), strict=True)
    ]


def named(specs: Sequence[str], name_of: Callable[[str], str]) -> dict[str, str]:
    """Returns <spec> by name, of words [<name>=]<spec>; a name has neither dot, colon nor slash.

    Args:
      specs: the words.
      name_of: names a <spec> that has no name.

    Raises:
      flags.ValidationError: two have one name.
    """
    found: dict[str, str] = {}
    for spec in specs:
        given = re.fullmatch(r"([\w+-]+)=(.+)", spec)
        name, rest = (given[1], given[2]) if given else (name_of(spec), spec)
        if name in found:
            raise flags.ValidationError(f"two are called {name!r}: give them names, <name>={rest},...")
        found[name] = rest
    return found
