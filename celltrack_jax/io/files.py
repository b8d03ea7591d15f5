"""Files that are whole or absent, and what to say where they cannot be written."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from celltrack_jax.errors import InputError

LOCK = ".lock"
"""Stays when nobody holds it: who removed it would let two others lock a file of this name each."""
VISIBLE_S = 90.0
"""For what another host wrote to appear here: NFS looks again after 60 s."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST),
    *(errno.EIO, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTEMPTY, errno.ESTALE),
)


@contextlib.contextmanager
def explained(what: Path | str, kept: str) -> Iterator[None]:
    """Turns a failure to write into one line with a cure; every other error passes through.

    Args:
      what: is written.
      kept: what the user finds and can do after the cure, such as "run the same command again to continue".

    Raises:
      InputError: the disk is full, or the file system refuses.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        cure = (
            "free some space"
            if "space" in reason or "quota" in reason
            else "check the path and its permissions"
        )
        raise InputError(f"cannot write {what}: {reason}; {cure}, {kept}") from error


@contextlib.contextmanager
def replacing(path: Path, kept: str) -> Iterator[Path]:
    """Yields a path to write to; what is there afterwards takes the place of a file, which else is as it was before.

    Args:
      path: is replaced; its folder is made.
      kept: as of `explained`.

    Raises:
      InputError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    with explained(path, kept):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str, kept: str) -> None:
    """Writes a file in UTF-8 that is there whole or as it was before; arguments and errors as of `replacing`."""
    with replacing(path, kept) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Keeps a second process from writing to a folder; the system drops the lock of a process that dies.

    Args:
      folder: is made; gets a file `.lock` that names its holder.
      command: that writes it, which the message names.

    Raises:
      InputError: another process holds the lock, or the file system cannot lock.
    """
    with explained(folder, "or give another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            lock.seek(0)
            holder = f" ({lock.read().strip() or 'unknown'})"
            raise InputError(
                f"another {command} is writing {folder}{holder}: wait for it to end, or give another folder"
            ) from None
        except OSError as error:
            raise InputError(
                f"the file system of {folder} cannot lock files ({error.strerror}): use a folder on another disk"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def wait_until(visible: Callable[[], bool]) -> bool:
    """Waits for what another host wrote to appear here; returns whether it did."""
    deadline = time.monotonic() + VISIBLE_S
    while not (seen := visible()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return seen


def _reason(error: BaseException | None) -> str | None:
    """Says why the file system refused; None where the error is about something else.

    tensorstore, and orbax through it, report a full disk as a ValueError that only quotes the system.
    """
    while error is not None:
        code = error.errno if isinstance(error, OSError) else None
        if code in _FULL + _REFUSED:
            return os.strerror(code)
        quoted = [
            os.strerror(code)
            for code in (*_FULL, errno.EROFS, errno.EACCES)
            if os.strerror(code) in str(error)
        ]
        if quoted:
            return quoted[0]
        error = error.__cause__ or error.__context__
    return None
