"""launch.simulate: data sets that launch.prepare reads, and never over other files."""

import subprocess

import pytest

from celltrack_jax.data import sources
from tests import mains


def launch(*flags: str) -> subprocess.CompletedProcess:
    return mains.call("simulate", *flags)


@pytest.mark.parametrize(
    ("kind", "layout", "splits", "more"),
    [
        ("nuclei", "ctc", {".": 3}, []),
        ("bursts", "bursts", {"train": 2, "test": 1}, []),
        ("bright_field", "ctc", {".": 3}, ["--shape=96,100"]),
        ("livecell", "livecell", {".": 3}, ["--shape=96,100"]),
    ],
)
def test_what_is_simulated_can_be_prepared(kind, layout, splits, more, tmp_path):
    folder = tmp_path / "set"
    done = launch(f"--kind={kind}", f"--output={folder}", "--frames=2", "--sequences=3", "--seed=7", *more)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert f"{folder}: 3 sequences of 2 frames, seed 7" in done.stdout
    for split, count in splits.items():
        found = sources.open_sources(folder / split, layout, None)
        assert [len(source.files) for source in found] == [2] * count


def test_other_files_stay(tmp_path):
    (tmp_path / "thesis.tex").touch()
    for output in (tmp_path, tmp_path / "thesis.tex"):
        done = launch("--kind=bursts", f"--output={output}")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "is there and not empty: give a new or an empty folder as --output" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.tex"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--kind=cats"],
        ["--kind=nuclei", "--frames=0"],
        ["--kind=nuclei", "--shape=90,90"],
        ["--kind=bright_field", "--shape=90"],
        ["--kind=bright_field", "--shape=90,8"],
        ["--kind=sartorius", "--sequences=4"],
        [],
    ],
)
def test_wrong_flags_are_refused(flags, tmp_path):
    done = launch(*flags, f"--output={tmp_path / 'set'}")
    assert (done.returncode, done.stderr.startswith("error: ")) == (2, True)
    assert not (tmp_path / "set").exists()
