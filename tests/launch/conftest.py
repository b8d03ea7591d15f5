"""A run that several files of this folder predict with, and a data set that several prepare."""

from pathlib import Path

import pytest

from tests.data import datasets
from tests.inference.workdirs import untrained


@pytest.fixture(scope="session")
def flat(tmp_path_factory) -> Path:
    """A 2D work folder."""
    folder = tmp_path_factory.mktemp("flat")
    untrained(folder)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two movies of seven frames together, of the CTC's layout."""
    folder = datasets.write_movie(tmp_path / "set", "01", seed=1)
    return datasets.write_movie(folder, "02", frames=range(5, 8), shape=(30, 70), seed=2)
