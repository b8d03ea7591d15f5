"""A run that several files of this folder predict with."""

from pathlib import Path

import pytest

from tests.inference.workdirs import untrained


@pytest.fixture(scope="session")
def flat(tmp_path_factory) -> Path:
    """A 2D work folder."""
    folder = tmp_path_factory.mktemp("flat")
    untrained(folder)
    return folder
