"""Tiles of a frame that takes long are found again, whole and of this image, or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest

from celltrack_jax.inference import tile_folder
from celltrack_jax.inference.tile_folder import TileFolder

TILE = (3, 4)
PREDICTION = np.arange(24, dtype=np.float32).reshape(*TILE, 2) / 7


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(tile_folder, "KEEP_AFTER_S", 0)


def opened(folder: Path, changed_ns: int = 0) -> TileFolder:
    """A folder of frames whose images are so old."""
    return TileFolder(folder / "tiles", lambda frame: changed_ns)


def written(folder: Path) -> Path:
    """Keeps tile (0, 1) of frame 7 and returns its file."""
    tiles = opened(folder)
    tiles.keep(7, (0, 1), PREDICTION)
    tiles.close()
    (path,) = (folder / "tiles").rglob("*.*")
    return path


def test_a_tile_is_read_as_it_was_kept(tmp_path):
    written(tmp_path)
    tiles = opened(tmp_path)
    found = tiles.read(7, (0, 1), TILE)
    np.testing.assert_array_equal(found, PREDICTION, strict=True)
    assert tiles.read(7, (1, 0), TILE) is None
    assert tiles.read(8, (0, 1), TILE) is None


@pytest.mark.parametrize("size", [0, 3, 4, 50, 99])
def test_a_truncated_tile_is_none(tmp_path, size):
    path = written(tmp_path)
    assert path.stat().st_size == 100
    path.write_bytes(path.read_bytes()[:size])
    assert opened(tmp_path).read(7, (0, 1), TILE) is None


def test_a_tile_whose_bytes_changed_is_none(tmp_path):
    path = written(tmp_path)
    path.write_bytes(bytes(96) + path.read_bytes()[96:])
    assert opened(tmp_path).read(7, (0, 1), TILE) is None


def test_a_tile_older_than_its_image_is_none(tmp_path):
    changed = written(tmp_path).stat().st_mtime_ns
    assert opened(tmp_path, changed - 1).read(7, (0, 1), TILE) is not None
    assert opened(tmp_path, changed + 1).read(7, (0, 1), TILE) is None


def test_frames_that_are_done_quickly_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_folder, "KEEP_AFTER_S", 20)
    now = [100.0]
    monkeypatch.setattr(tile_folder.time, "monotonic", lambda: now[0])
    tiles = opened(tmp_path)
    for frame, at in ((1, 100), (2, 110), (1, 119), (2, 121), (1, 121)):
        now[0] = at
        tiles.keep(frame, (at,), PREDICTION)
    tiles.close()
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.f32")] == ["tiles/1/121.f32"]

    # A frame that was long before is long.
    tiles = opened(tmp_path)
    assert tiles.read(1, (121,), TILE) is not None
    tiles.keep(1, (122,), PREDICTION)
    tiles.close()
    assert len(list(tmp_path.rglob("*.f32"))) == 2


def test_the_tiles_of_a_finished_frame_are_removed(tmp_path):
    tiles = opened(tmp_path)
    for frame in (1, 2):
        tiles.keep(frame, (0,), PREDICTION)
    tiles.remove(1)
    tiles.close()
    assert [path.name for path in (tmp_path / "tiles").iterdir()] == ["2"]


def test_a_slow_disk_holds_up_nobody(tmp_path, monkeypatch):
    import threading

    go, replace = threading.Event(), os.replace

    def slow(*paths):
        assert go.wait(30)
        replace(*paths)

    monkeypatch.setattr(tile_folder.os, "replace", slow)
    tiles = opened(tmp_path)
    for number in range(50):
        tiles.keep(1, (number,), PREDICTION)
    go.set()
    tiles.close()
    assert 1 <= len(list(tmp_path.rglob("*.f32"))) < 10


def test_on_a_full_disk_prediction_goes_on(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, os.strerror(28))

    written(tmp_path)
    tiles = opened(tmp_path)
    assert tiles.read(7, (0, 1), TILE) is not None
    monkeypatch.setattr(tile_folder.os, "replace", full)
    for number in range(3):
        tiles.keep(7, (number,), PREDICTION)
    tiles.close()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "7/0.f32: No space left on device; prediction goes on without keeping tiles" in said
    assert list(tmp_path.rglob("*.*")) == []  # their room is for the masks
