"""The scaling model against hand-made numbers and limits, and the page that it writes."""

import json
import math

import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.training import scaling
from celltrack_jax.training.hardware import CHIPS
from celltrack_jax.training.scaling import Job, Reading, Step
from configs.ctc import segment
from launch import scaling as main

V5E = CHIPS["v5e"]
JOB = Job(points=((4, 0.010), (8, 0.012)), gradient_bytes=2e6, sums=3, rounds=10)
INSTANT = Reading(((0.0, 0.0), (1.0, 0.0)), threads=2, prefetch=4)


def steady(seconds: float, threads: int = 2, prefetch: int = 4) -> Reading:
    return Reading(((0.0, seconds), (1.0, seconds)), threads, prefetch)


def test_one_chip_is_the_compile_report_and_nothing_else():
    assert scaling.predict(JOB, V5E, 1, 4, INSTANT) == pytest.approx((0.010, 0.0, 0.0, 0.0, 0.0))
    assert scaling.alone_s(JOB, 6) == pytest.approx(0.011)
    assert scaling.alone_s(JOB, 16) == pytest.approx(0.024)
    assert scaling.alone_s(JOB, 1) == 0.010  # small batches leave lanes empty


def test_slices_are_as_square_as_powers_of_two_allow():
    shapes = {n: scaling.slice_shape(n, V5E) for n in (1, 2, 8, 256, 1024)}
    assert shapes == {1: ((1, 1), 1), 2: ((1, 2), 1), 8: ((2, 4), 1), 256: ((16, 16), 1), 1024: ((16, 16), 4)}
    assert scaling.slice_shape(64, CHIPS["v5p"]) == ((4, 4, 4), 1)


def test_communication_is_the_ring_model_by_hand():
    ici, network, rounds = scaling.communication(JOB, 16, V5E)
    small = 2 * 6e-6  # 2 x 3 hops on a 4x4 mesh, there and back; the payload of 4 bytes is nothing
    assert ici == pytest.approx(2 * 2e6 * 15 / 16 / 100e9 + 3 * small, rel=1e-4)
    assert network == 0
    assert rounds == pytest.approx(10 * small, rel=1e-4)
    ici, network, rounds = scaling.communication(JOB, 1024, V5E)
    small = 2 * 16e-6  # closed rings of 16
    assert ici == pytest.approx(2 * 2e6 * 255 / 256 / 200e9 + 3 * small, rel=1e-4)
    assert network == pytest.approx(2 * (2e6 / 256) * 3 / 4 / 3.125e9 + 3 * 2 * 3 * 50e-6)
    assert rounds == pytest.approx(10 * (small + 2 * 3 * 50e-6), rel=1e-4)


@pytest.mark.parametrize("hosts", [1, 7])
def test_input_that_is_fast_enough_costs_nothing(hosts):
    assert scaling.simulate(INSTANT, 4, hosts, 0.01) == pytest.approx(0.01)
    # Two threads deliver a batch each 4 ms.
    assert scaling.simulate(steady(0.002), 4, hosts, 0.0041) == pytest.approx(0.0041)


def test_slow_input_bounds_the_step():
    period = scaling.simulate(steady(0.05, threads=2), 4, 3, 0.001)
    assert period == pytest.approx(4 * 0.05 / 2, rel=0.03)
    assert scaling.simulate(steady(0.05, threads=4), 4, 3, 0.001) == pytest.approx(period / 2, rel=0.05)
    # A buffer of one batch leaves all threads but one idle: reading and the step take turns.
    assert scaling.simulate(steady(0.05, threads=4, prefetch=1), 4, 3, 0.001) == pytest.approx(0.2, rel=0.03)
    assert scaling.predict(JOB, V5E, 16, 4, steady(1e3)).limit == "input"


def test_more_hosts_wait_longer_for_the_slowest_and_draws_repeat():
    uneven = Reading(((0.0, 0.001), (0.9, 0.002), (1.0, 0.1)), threads=2, prefetch=2)
    periods = [scaling.simulate(uneven, 2, hosts, 0.005) for hosts in (1, 8, 64)]
    assert periods == sorted(periods)
    assert periods[2] > 1.2 * periods[0]
    assert scaling.simulate(uneven, 2, 8, 0.005) == periods[1]


def test_efficiency_is_at_most_one():
    sizes = [1, 4, 16, 64, 256, 1024]
    weak = [scaling.predict(JOB, V5E, n, 8, INSTANT) for n in sizes]
    shares = scaling.efficiencies(weak, [8 * n for n in sizes], sizes)
    assert shares[0] == 1
    assert all(0 < share <= 1 for share in shares)
    assert shares[-1] == pytest.approx(0.012 / (0.012 + sum(scaling.communication(JOB, 1024, V5E))))
    strong = [scaling.predict(JOB, V5E, n, 1024 // n, INSTANT) for n in sizes]
    assert all(0 < share <= 1 for share in scaling.efficiencies(strong, [1024] * 6, sizes))


def test_the_limit_is_what_costs_the_most_beside_compute():
    assert Step(0.95, 0.02, 0.0, 0.03, 0.0).limit == "the chip"
    assert Step(0.5, 0.02, 0.0, 0.1, 0.0).limit == "loop rounds"
    assert Step(0.5, 0.0, 0.3, 0.03, 0.1).limit == "network"


def report(config: str, devices: int, **extra) -> dict:
    said = [
        {
            "kind": "all-reduce",
            "count": 3,
            "runs": 3,
            "bytes": 2_000_000,
            "open_loop": False,
            "seconds": 1e-5,
        },
        {"kind": "all-reduce", "count": 2, "runs": 2, "bytes": 8, "open_loop": True, "seconds": 1e-5},
    ]
    bounds = {"compute_s": 1e-3, "memory_s": 2e-3, "cores_s": 1e-2, "communication_s": 0.0, "step_s": 1e-2}
    return {
        "config": config, "topology": f"v5e:{devices}", "devices": devices, "fits": True,
        "batch": {"per_device": 2}, "memory": {"needed": 2**30, "available": 2**34}, "flops": {"network": 5e10},
        "collectives": said if devices > 1 else [], "roofline": bounds | {"bound": "cores", "mfu": 0.02}, **extra,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    search = {"batch_per_device": 32, "largest_batch": 40, "roofline": {"step_s": 0.1}}
    for name in ("sim", "demo3d"):
        config = f"configs/ctc/segment.py:{name}"
        (tmp_path / f"{name}_1.json").write_text(json.dumps(report(config, 1, search=search)))
        (tmp_path / f"{name}_16.json").write_text(json.dumps(report(config, 16)))
    quantiles = {
        "pixels": 1,
        "reads": 3,
        "cores": 2,
        "load": 1.0,
        "quantiles": [[0.0, 0.001], [0.5, 0.002], [1.0, 0.003]],
    }
    (tmp_path / main.INPUT_FILE).write_text(json.dumps({plan.config: quantiles for plan in main.PLANS}))
    return tmp_path


def test_a_job_is_read_off_its_reports(folder):
    config = segment.get_config("sim")
    job = main.make_job(main.read_reports(folder), config, "configs/ctc/segment.py:sim")
    assert main.largest_batch(main.read_reports(folder), "configs/ctc/segment.py:sim") == 40
    # 40 offsets and the test that ends the loop, along two axes.
    assert job == Job(((2, 1e-2), (32, 0.1)), 2_000_000, 3, 2 * 41)
    assert main.largest_batch([report("x", 16)], "x") == 2
    with pytest.raises(InputError, match="v5e:1x1 and of a slice"):
        main.make_job([report("x", 16)], config, "x")


def test_the_page_is_short_and_says_what_is_measured_and_what_is_predicted(folder):
    text = main.page(main.read_reports(folder), main._read_json(folder / main.INPUT_FILE))
    assert len(text.splitlines()) <= 120
    for said in (
        "**Measured**",
        "**Predicted**",
        "nothing on this page was run on a TPU",
        "| 1024 | 8 |",
        "2D U-Net",
    ):
        assert said in text
    assert max(map(len, text.splitlines())) < 600


def test_threads_are_added_until_nobody_waits():
    plan = main.Plan("", "", 4, 1024)
    # A host's 16 crops take 0.16 s; a step 0.01 s and what is said.
    threads = main.enough_threads(plan, JOB, steady(0.01))
    said = 0.010 + sum(scaling.communication(JOB, 1024, V5E)[:2])  # no loop rounds
    assert threads == 2 ** math.ceil(math.log2(0.16 / said))


def test_missing_and_broken_reports_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no compile reports"):
        main.read_reports(tmp_path)
    with pytest.raises(InputError, match="--measure"):
        main._read_json(tmp_path / "input.json")
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        main.read_reports(tmp_path)


def test_reading_is_measured_as_rising_quantiles(monkeypatch):
    import dataclasses

    from launch.benches import input as bench

    movie = dataclasses.replace(bench.MOVIE, frames=2, shape=(740, 740), cells=8)
    monkeypatch.setattr(bench, "MOVIE", movie)
    found = main.measure(reads=4)
    assert found.keys() == {plan.config for plan in main.PLANS}
    for each in found.values():
        seconds = [value for _, value in each["quantiles"]]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
