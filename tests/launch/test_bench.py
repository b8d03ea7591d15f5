"""The dispatcher of benchmarks, its timing in turns, and the benchmark of the measures at a small size."""

import importlib
import json
from types import SimpleNamespace

import pytest

from celltrack_jax.errors import InputError
from launch import bench, json_file
from launch.benches import convlstm, metrics, timing, unet3d
from tests import mains


def call(*arguments: str) -> tuple[int, str]:
    """Calls the main; returns its exit status and stderr."""
    done = mains.call("bench", *arguments)
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [(), ("sorting",), ("metrics", "unet")])
def test_a_benchmark_that_does_not_exist_is_a_wrong_flag(arguments):
    status, stderr = call(*arguments)
    assert status == 2
    assert stderr.count("\n") == 1
    assert "give one of " in stderr
    assert "metrics" in stderr
    assert "timing" not in stderr


def test_an_unknown_peer_is_bad_input():
    assert call("metrics", "--against=abacus") == (
        1,
        "error: bench metrics: no peer 'abacus'; give --against=py-ctcmetrics or leave it out\n",
    )


def test_every_benchmark_says_what_it_measures_and_runs():
    for name in bench.bench_names():
        module = importlib.import_module(f"launch.benches.{name}")
        assert module.__doc__
        assert callable(module.run)


def test_turns_alternate_and_ratios_are_taken_per_turn(monkeypatch, capsys):
    calls, clock = [], iter([0, 1, 1, 3, 3, 7, 7, 10])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    times = timing.interleaved(lambda: calls.append("ours"), lambda: calls.append("peer"), 2, warmup=1)
    assert calls == ["ours", "peer", "ours", "peer", "peer", "ours"]
    assert times == timing.Timing(ours_s=(1, 3), peer_s=(2, 4))
    assert capsys.readouterr().out.splitlines() == [
        "running ours, to warm up",
        "running the peer's, to warm up",
        "running ours and the peer's in turns, 2 times",
    ]
    row = times.row("x")
    assert (row["ratio"], row["ratio_min"], row["ratio_max"]) == (0.625, 0.5, 0.75)
    assert (row["ours_s"], row["peer_s"], row["repeats"]) == (2, 3, 2)


def test_the_table_and_the_json_hold_the_rows(tmp_path, capsys, monkeypatch):
    rows = [
        timing.Timing((1.0, 3.0), (2.0, 4.0)).row("pair"),
        timing.alone_row("lone", (1.5,)) | {"crops": 7},
    ]
    bench.print_rows(rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["pair", "2", "s", "3", "s", "0.625", "(0.5-0.75),", "2", "times"]
    assert [line.split() for line in lines[2:]] == [["lone", "1.5", "s"], ["crops", "7"]]
    monkeypatch.setattr(json_file, "_JSON", SimpleNamespace(value=tmp_path / "rows.json"))
    json_file.write({"rows": rows})
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == rows
    json_file._JSON.value = tmp_path / "rows.json" / "more.json"
    with pytest.raises(InputError, match="choose another --json"):
        json_file.write({"rows": rows})


def test_the_benchmark_of_the_measures_makes_a_result_that_can_be_scored(monkeypatch, tmp_path):
    for name, value in {"FRAMES": 8, "CELLS": 12, "REPEATS": 1, "MISSED": 0.1, "LOST": 0.1}.items():
        monkeypatch.setattr(metrics, name, value)
    assert metrics.run(None)["ours_s"] > 0
    scores = metrics.ours(*metrics.write_movie(tmp_path))
    assert 0.5 < scores["TRA"] < scores["DET"] < 1
    assert 0.5 < scores["SEG"] < 1
    assert scores["BC0"] is not None


@pytest.mark.slow
def test_the_benchmark_of_clips_says_the_memory_with_and_without_remat(monkeypatch):
    for name, value in {"SIZE": (1, 4, 64, 64), "WIDTHS": (8,), "REPEATS": 1}.items():
        monkeypatch.setattr(convlstm, name, value)
    plain, again = convlstm.run(None)
    assert again["name"] == f"{plain['name']}, remat" == "convlstm step, 1x4x64x64, remat"
    assert 0 < again["MB per frame"] < plain["MB per frame"]
    with pytest.raises(InputError, match="no peer 'keras'"):
        convlstm.run("keras")


@pytest.mark.slow
def test_the_benchmark_of_unet3d_takes_steps(monkeypatch):
    for name, value in {"SIZES": ((1, 4, 8, 8),), "WIDTHS": (8, 16), "REPEATS": 1}.items():
        monkeypatch.setattr(unet3d, name, value)
    (row,) = unet3d.run(None)
    assert row["name"] == "UNet3D step, 1x4x8x8"
    assert row["ours_s"] > 0
    with pytest.raises(InputError, match="no peer 'monai'"):
        unet3d.run("monai")


def test_what_a_row_says_beside_the_columns_keeps_its_order(capsys):
    extras = {f"number {i}": float(i) for i in range(12)}
    bench.print_rows([timing.alone_row("lone", (1.5,)) | extras])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]] == list(map(str, range(12)))
