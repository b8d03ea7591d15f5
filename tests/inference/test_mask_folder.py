"""A run that was stopped finds its masks, and only its own."""

import os
import threading

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.inference import mask_folder
from celltrack_jax.inference.mask_folder import MaskFolder
from celltrack_jax.io import files

LABELS = np.arange(12, dtype=np.int32).reshape(3, 4)
SETTINGS = {"weights": "ab", "symmetries": [[False, 0]]}


def test_masks_are_found_again_with_the_same_settings(tmp_path):
    folder = MaskFolder(tmp_path / "a", SETTINGS)
    assert not folder.has(3, 0)
    folder.write(3, LABELS)
    again = MaskFolder(tmp_path / "a", dict(reversed(SETTINGS.items())))
    assert again.has(3, 0)
    assert not again.has(4, 0)
    np.testing.assert_array_equal(again.read(3), LABELS)
    again.remove()
    assert not (tmp_path / "a").exists()


def test_masks_of_other_settings_are_made_anew(tmp_path):
    MaskFolder(tmp_path, SETTINGS).write(3, LABELS)
    assert not MaskFolder(tmp_path, SETTINGS | {"weights": "cd"}).has(3, 0)


def test_a_mask_older_than_its_image_is_made_anew(tmp_path):
    folder = MaskFolder(tmp_path, SETTINGS)
    folder.write(3, LABELS)
    written = folder.path(3).stat().st_mtime_ns
    assert folder.has(3, written - 1)
    assert not folder.has(3, written + 1)


def test_a_write_that_was_interrupted_leaves_no_mask(tmp_path, monkeypatch):
    folder = MaskFolder(tmp_path, SETTINGS)

    def full(path, image):
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(mask_folder.tif, "write_tif", full)
    with pytest.raises(
        InputError, match=r"cannot write .*mask003.tif: No space left .* run the same command"
    ):
        folder.write(3, LABELS)
    assert not folder.has(3, 0)
    assert [path.name for path in tmp_path.iterdir()] == [mask_folder.MANIFEST]


def test_more_cells_than_a_mask_can_number_are_refused(tmp_path):
    with pytest.raises(InputError, match="frame 2: 65536 cells"):
        MaskFolder(tmp_path, SETTINGS).write(2, LABELS + 65525)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "mask001.tif").write_bytes(b"precious")
    with pytest.raises(InputError, match="holds other files"):
        MaskFolder(tmp_path, SETTINGS)
    assert (tmp_path / "mask001.tif").read_bytes() == b"precious"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/a: Not a directory"):
        MaskFolder(tmp_path / "file" / "a", SETTINGS)


def test_tiles_of_other_settings_are_removed(tmp_path):
    (tmp_path / "a" / mask_folder.TILES / "3").mkdir(parents=True)
    (tmp_path / "a" / mask_folder.MANIFEST).write_text("{}")
    MaskFolder(tmp_path / "a", SETTINGS)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [mask_folder.MANIFEST]
    (tmp_path / "a" / mask_folder.TILES / "3").mkdir(parents=True)
    MaskFolder(tmp_path / "a", SETTINGS)
    assert (tmp_path / "a" / mask_folder.TILES / "3").is_dir()


def test_another_process_opens_the_folder_only_as_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "VISIBLE_S", 0.1)
    with pytest.raises(InputError, match=r"a is not here as another process made it.* all hosts share"):
        MaskFolder(tmp_path / "a", SETTINGS, made=True)
    assert not (tmp_path / "a").exists()
    MaskFolder(tmp_path / "a", SETTINGS).write(3, LABELS)
    assert MaskFolder(tmp_path / "a", SETTINGS, made=True).has(3, 0)
    with pytest.raises(InputError, match="give all processes the same flags"):
        MaskFolder(tmp_path / "a", SETTINGS | {"weights": "cd"}, made=True)


def test_masks_of_other_hosts_are_waited_for(tmp_path, monkeypatch):
    folder = MaskFolder(tmp_path, SETTINGS)
    late = threading.Timer(0.3, folder.write, (3, LABELS))
    late.start()
    folder.wait_for([3])
    monkeypatch.setattr(files, "VISIBLE_S", 0.1)
    with pytest.raises(InputError, match=r"mask004.tif, which another process wrote, is not here"):
        folder.wait_for([3, 4])
