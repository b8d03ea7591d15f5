"""launch.compile with the real TPU compiler at the smallest size, and what it says when something is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.training import ahead_of_time, cost
from celltrack_jax.training.hardware import CHIPS
from configs.ctc import segment
from launch import compile as main
from tests.conftest import ROOT

TINY = "configs/ctc/segment.py:tiny"


def call(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "launch.compile", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="session")
def tpu_compiler():
    """The TPU compiler, which `make tpu-compiler` installs; skips where it cannot."""
    if not (ROOT / main.COMPILER / "libtpu").is_dir():
        done = subprocess.run(
            ["make", "tpu-compiler"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode:
            pytest.skip(f"`make tpu-compiler` failed: {done.stderr[-300:]}")


@pytest.mark.slow
def test_a_step_compiles_for_four_chips_that_are_not_there(tpu_compiler, tmp_path):
    done = call(
        f"--config={TINY}",
        "--topology=v5e:2x2",
        "--batch_per_device=2",
        "--nosearch",
        f"--json={tmp_path / 'report.json'}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["device"], report["devices"], report["dtype"]) == ("TPU v5 lite", 4, "bfloat16")
    assert report["batch"] == {"per_device": 2, "global": 8}
    assert 0 < report["memory"]["needed"] < report["memory"]["available"] == CHIPS["v5e"].memory
    # Every parameter's gradient is summed over the chips, in bfloat16 or wider.
    summed = sum(row["bytes"] for row in report["collectives"] if row["kind"] == "all-reduce")
    parameters = 5_000
    assert 2 * parameters < summed < 10 * parameters
    assert report["flops"]["network"] == pytest.approx(report["flops"]["compiler"], rel=0.5)
    assert report["bytes"]["memory"] < report["bytes"]["accessed"]
    bounds = report["roofline"]
    assert bounds["step_s"] >= max(bounds[key] for key in ("compute_s", "memory_s", "cores_s"))
    assert bounds["cores_s"] > 0
    assert 0 < bounds["mfu"] < 1
    for word in ("2 per device, 8 in all", "of 15.75 GiB", "all-reduce", "bound by"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (("--topology=v5e:2x2",), 2, "--config"),
        ((f"--config={TINY}",), 2, "--topology"),
        ((f"--config={TINY}", "--topology=local", "--batch_per_device=0"), 2, "batch_per_device"),
    ],
)
def test_missing_flags_are_named(flags, status, said):
    done = call(*flags)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_an_absent_compiler_is_one_line_with_the_cure(tmp_path):
    done = call(f"--config={ROOT / 'configs/ctc/segment.py'}:tiny", "--topology=v5e:2x2", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make tpu-compiler" in done.stderr


@pytest.mark.parametrize("topology", ["v5e", "v9:2x2", "v5e:2x2x2", "v5e:32x32", "v5e:", "a100:2x2"])
def test_a_slice_that_does_not_exist_is_bad_input(topology):
    with pytest.raises(InputError, match="topology"):
        ahead_of_time.find_target(topology)


class FakeProgram:
    """A compiled program of so many bytes."""

    def __init__(self, size):
        self.size = size

    def memory_analysis(self):
        parts = dict.fromkeys(("argument", "output", "alias", "temp"), 0)
        values = {f"{part}_size_in_bytes": size for part, size in parts.items()}
        return type("Memory", (), {**values, "generated_code_size_in_bytes": self.size})()


@pytest.fixture
def chip(monkeypatch):
    """A chip on which a batch b needs 1 GiB and b times so many; returns a report's search."""

    def search(batch: int, per_sample_gib: float) -> dict:
        def compiled(config, target, batch):
            needed = (1 + per_sample_gib * batch) * 2**30
            fits = needed <= CHIPS["v5e"].memory
            return ahead_of_time.Compiled(batch, FakeProgram(needed) if fits else None, needed, 0.0)

        monkeypatch.setattr(ahead_of_time, "_compile", compiled)
        monkeypatch.setattr(ahead_of_time, "_costs", lambda *_: {"roofline": {}})
        device = type("Device", (), {"device_kind": "TPU v5 lite", "platform": "tpu"})()
        target = ahead_of_time.Target("v5e:2x2", [device] * 4, CHIPS["v5e"], (2, 2))
        return ahead_of_time.report(segment.get_config("tiny"), target, batch, search=True)

    return search


def test_the_largest_batch_is_found_from_below_and_from_above(chip):
    below = chip(2, 1.0)
    assert below["fits"]
    assert (below["search"]["largest_batch"], below["search"]["batch_per_device"]) == (14, 4)
    above = chip(40, 1.0)
    assert not above["fits"]
    assert above["memory"] == {"needed": 41 * 2**30, "available": CHIPS["v5e"].memory}
    assert above["search"]["largest_batch"] == 14
    assert "DOES NOT FIT" in main.table({"config": "x", **above})
    assert "about 14 per device" in main.table({"config": "x", **above})


def test_one_sample_that_does_not_fit_is_bad_input_with_the_numbers(chip):
    with pytest.raises(
        InputError, match=r"one sample at a time per device needs 21\.00 GiB, v5e:2x2 has 15\.75 GiB: set"
    ):
        chip(4, 20.0)


def test_a_batch_that_adds_nothing_has_no_largest(chip):
    assert chip(2, 0.0)["search"]["largest_batch"] >= 4
    assert cost.BatchModel(1.0, 0.0).largest(2.0) is None
