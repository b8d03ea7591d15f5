"""launch.prepare, stopped, killed, on a full disk or twice at a time: the next run makes the store of one alone."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from celltrack_jax.data import prepare, store
from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from tests.conftest import ROOT
from tests.launch.test_prepare import hashes, run


def test_an_interrupted_sequence_is_finished_and_whole_ones_stay(dataset, tmp_path, monkeypatch):
    run(dataset, tmp_path / "whole")
    monkeypatch.setattr(prepare, "_write_tracks", fails_at(2, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "store")
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"02.*half-written: run launch.prepare again"):
        store.open_store(tmp_path / "store")
    kept = (tmp_path / "store" / "01.ome.zarr" / "zarr.json").stat().st_mtime_ns
    assert run(dataset, tmp_path / "store") == 1
    assert (tmp_path / "store" / "01.ome.zarr" / "zarr.json").stat().st_mtime_ns == kept
    assert hashes(tmp_path / "store") == hashes(tmp_path / "whole")


def fails_at(call: int, error: type[BaseException] | BaseException):
    """Returns a stand-in for `_write_tracks` that fails in the given call."""
    calls, real = [], prepare._write_tracks

    def stand_in(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise error
        return real(*arguments)

    return stand_in


KILL = """
import os, signal, sys
from pathlib import Path
from celltrack_jax.data import prepare, sources
from celltrack_jax.io import ome_zarr

dataset, folder, function, call = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
module = {"write_group": ome_zarr, "write_table": ome_zarr}.get(function, prepare)
real, calls = getattr(module, function), []
def dies(*arguments, **options):
    calls.append(1)
    if len(calls) == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
setattr(module, function, dies)
found = sources.open_sources(dataset, "ctc", None)
prepare.prepare(folder, found, layout="ctc", origin=dataset.name, spacing_um=(1.0, 0.5, 0.25), advance=lambda *_: None)
"""


@pytest.mark.parametrize("file", ["zarr.json", "0/zarr.json", "celltrack/foreground/c/0/0"])
def test_a_file_cut_short_makes_the_sequence_half_written(file, dataset, tmp_path):
    """What a power failure or a copy that stopped leaves."""
    run(dataset, tmp_path / "store")
    before = hashes(tmp_path / "store")
    path = tmp_path / "store" / "02.ome.zarr" / file
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match=r"02.*half-written"):
        store.open_store(tmp_path / "store")
    assert run(dataset, tmp_path / "store") == 1
    assert hashes(tmp_path / "store") == before


@pytest.mark.parametrize(("function", "call"), [("_measure", 3), ("write_group", 4), ("_claim", 1)])
def test_a_killed_run_is_finished_by_the_next(function, call, dataset, tmp_path):
    script = [sys.executable, "-c", KILL, str(dataset), str(tmp_path / "store"), function, str(call)]
    killed = subprocess.run(script, cwd=ROOT, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match=r"launch\.prepare"):
        store.open_store(tmp_path / "store")
    run(dataset, tmp_path / "store")
    run(dataset, tmp_path / "whole")
    assert hashes(tmp_path / "store") == hashes(tmp_path / "whole")


def test_a_store_that_lacks_a_file_is_not_whole_and_is_rebuilt(dataset, tmp_path):
    run(dataset, tmp_path / "store")
    before = hashes(tmp_path / "store")
    shard = next(path for path in before if path.startswith("01.ome.zarr/labels/markers/0/c/"))
    (tmp_path / "store" / shard).unlink()
    with pytest.raises(InputError, match="half-written"):
        store.open_store(tmp_path / "store")
    assert run(dataset, tmp_path / "store") == 1
    assert hashes(tmp_path / "store") == before


def test_a_full_disk_is_an_error_with_a_cure(dataset, tmp_path, monkeypatch):
    # tensorstore reports it as a ValueError with the system's words in it.
    tensorstore = ValueError("RESOURCE_EXHAUSTED: Failed to write 2117764 bytes: No space left on device")
    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), tensorstore):
        monkeypatch.setattr(prepare, "_write_tracks", fails_at(1, error))
        with pytest.raises(
            InputError, match=r"cannot write .*store: No space left on device; free some space"
        ):
            run(dataset, tmp_path / "store")
        monkeypatch.undo()
    assert run(dataset, tmp_path / "store") == 2


def test_two_processes_do_not_write_one_store(dataset, tmp_path):
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(60)"
    )
    folder = tmp_path / "store"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(folder / files.LOCK)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(InputError, match=r"another launch\.prepare"):
            run(dataset, folder)
        process.kill()
    assert run(dataset, folder) == 2


def test_the_lock_stays_so_that_nobody_locks_a_file_that_is_gone(dataset, tmp_path):
    """Were it removed, one process could hold the removed file and another a new one, and both would write."""
    folder = tmp_path / "store"
    folder.mkdir()
    with files.locked(folder, "launch.prepare"):
        before = (folder / files.LOCK).stat().st_ino
    assert (folder / files.LOCK).stat().st_ino == before
    assert run(dataset, folder) == 2
    assert (folder / files.LOCK).stat().st_ino == before
    assert (folder / files.LOCK).read_bytes() == b""


def test_a_file_system_without_locks_is_named(dataset, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "lockf", refuse)
    with pytest.raises(InputError, match="cannot lock files"):
        run(dataset, tmp_path / "store")
