"""The flag --json: a command's numbers for other programs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from celltrack_jax.io import files

_JSON = flags.DEFINE_string("json", None, "file for the numbers")


def write(content: Mapping[str, Any]) -> None:
    """Writes the numbers to the file of --json, where one is named.

    Raises:
      InputError: the file cannot be written.
    """
    if _JSON.value:
        path = Path(_JSON.value)
        with files.explained(path, "or choose another --json"):
            path.write_text(json.dumps(content, indent=2) + "\n")
