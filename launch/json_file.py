"""The flag --json: a command's numbers for other programs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from celltrack_jax.io import files

_JSON = flags.DEFINE_string("json", None, "file for the numbers")


def wanted() -> bool:
    """Returns whether a file is named."""
    return bool(_JSON.value)


def write(content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes the numbers to the file of --json, where one is named.

    Raises:
      InputError: the file cannot be written.
    """
    if _JSON.value:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        files.replace_text(Path(_JSON.value), text, "or choose another --json")
