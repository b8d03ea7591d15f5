import errno
import os

import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.io import files


def fail(error):
    with files.explained("store", "run it again"):
        raise error


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_from_a_refusal(code):
    with pytest.raises(InputError, match=r"cannot write store: .*; free some space, run it again"):
        fail(OSError(code, os.strerror(code)))
    with pytest.raises(InputError, match="check the path and its permissions, run it again"):
        fail(OSError(errno.EACCES, os.strerror(errno.EACCES)))


def test_a_full_disk_that_a_library_only_quotes_is_seen():
    with pytest.raises(InputError, match="No space left on device; free some space"):
        fail(ValueError("RESOURCE_EXHAUSTED: Failed to write [OS error 28: ENOSPC No space left on device]"))


def test_a_full_disk_behind_another_error_is_seen():
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as cause:
        error = RuntimeError("the save failed")
        error.__cause__ = cause
    with pytest.raises(InputError, match="No space left"):
        fail(error)


def test_other_errors_pass():
    with pytest.raises(ValueError, match="a bug"):
        fail(ValueError("a bug"))


def test_text_is_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "new" / "config.json"
    files.replace_text(path, "one µ", "again")
    assert path.read_text(encoding="utf-8") == "one µ"

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        InputError, match=r"cannot write .*config.json: No space left on device; free some space, again"
    ):
        files.replace_text(path, "two", "again")
    assert path.read_text(encoding="utf-8") == "one µ"
    assert [each.name for each in path.parent.iterdir()] == ["config.json"]
