"""Predicts how training scales to a thousand chips, from compile reports and measured reading times, as a page.

python -m launch.scaling --reports=docs/compile --page=docs/scaling.md
python -m launch.scaling --reports=docs/compile --measure      # reading times of this machine, first

Reports are those of `launch.compile --json`: one chip (v5e:1x1) says what a step does alone, a slice what chips say to
each other. Nothing here runs on a TPU.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.training import scaling
from celltrack_jax.training.hardware import CHIPS
from configs.ctc import segment
from launch import cli

_REPORTS = flags.DEFINE_string("reports", "docs/compile", "folder of launch.compile's reports")
_PAGE = flags.DEFINE_string("page", "docs/scaling.md", "page to write")
_MEASURE = flags.DEFINE_boolean(
    "measure", False, "measure reading times into <reports>/input.json; write no page"
)

INPUT_FILE = "input.json"
CHIP = "v5e"
SIZES = tuple(4**power for power in range(6))
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


class Plan(NamedTuple):
    """What is predicted of one config."""

    title: str
    config: str
    weak: int
    """Samples of each chip."""
    strong: int
    """Samples of all chips together."""


PLANS = (
    Plan("2D U-Net", "configs/ctc/segment.py:sim", 32, 4096),
    Plan("3D U-Net", "configs/ctc/segment.py:demo3d", 4, 1024),
)


def main(argv: Sequence[str]) -> None:
    """Writes the page, or measures."""
    del argv
    folder = Path(_REPORTS.value or "")
    if _MEASURE.value:
        text = json.dumps(measure(), indent=2) + "\n"
        files.replace_text(folder / INPUT_FILE, text, "or choose another --reports")
        return
    text = page(read_reports(folder), _read_json(folder / INPUT_FILE))
    files.replace_text(Path(_PAGE.value or ""), text, "or choose another --page")


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """Reads all compile reports of a folder.

    Raises:
      InputError: there are none.
    """
    found = [_read_json(path) for path in sorted(folder.glob("*.json")) if path.name != INPUT_FILE]
    if not found:
        raise InputError(
            f"no compile reports in {folder}: write some by launch.compile --json={folder}/<name>.json"
        )
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: `python -m launch.scaling --measure` writes it") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): write it again") from None


def measure(reads: int = 300) -> dict[str, Any]:
    """Times how long one thread takes to read one crop of a synthetic movie, for the 2D and the 3D config.

    Returns:
      {config: {"pixels": of a crop, "reads": count, "cores" and "load" of the machine meanwhile, "quantiles":
      [[share, seconds], ...]}}.
    """
    from launch.benches import input as bench

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        sequences = bench.prepare_movie(Path(folder))
        for plan in PLANS:
            config = segment.get_config(plan.config.split(":")[1])
            data: Any = config.data
            flat = len(data.crop) == 2
            with data.unlocked():
                data.batch_size = 1
                # The movie is flat: a volume is read as the images that hold as many pixels.
                pixels = math.prod(n + 2 * m for n, m in zip(data.crop, data.margin, strict=True))
                side = round(math.sqrt(pixels))
                data.crop, data.margin = (data.crop, data.margin) if flat else ((side, side), (0, 0))
            batches = bench.make_batches(sequences, "full", data)
            times = []
            for index in range(reads):
                start = time.perf_counter()
                batches[index]
                times.append(time.perf_counter() - start)
            quantiles = [[share, float(np.quantile(times, share))] for share in SHARES]
            machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
            found[plan.config] = {"pixels": pixels, "reads": reads, **machine, "quantiles": quantiles}
    return found


def make_job(reports: Sequence[dict[str, Any]], config: ConfigDict, name: str) -> scaling.Job:
    """Reads a config's step and its sums off its reports.

    Args:
      reports: of `read_reports`.
      config: the experiment, whose representation says how long its loops are.
      name: of the config in the reports.

    Raises:
      InputError: there is no report of one chip, or none of several.
    """
    mine = [report for report in reports if report["config"] == name and report["fits"]]
    points: dict[int, float] = {}
    for report in mine:
        if report["devices"] == 1:
            points[report["batch"]["per_device"]] = report["roofline"]["step_s"]
            if search := report.get("search", {}).get("roofline"):
                points[report["search"]["batch_per_device"]] = search["step_s"]
    together = [report for report in mine if report["devices"] > 1]
    if not points or not together:
        raise InputError(f"{name}: reports of {CHIP}:1x1 and of a slice such as {CHIP}:4x4 are needed")
    said = together[0]["collectives"]
    closed = [row for row in said if not row["open_loop"]]
    loops = sum(row["count"] for row in said if row["open_loop"])
    # Offsets up to the largest distance, and the test that ends the loop.
    rounds = math.ceil(config.representation.max_distance) + 1
    return scaling.Job(
        points=tuple(sorted(points.items())),
        gradient_bytes=sum(row["bytes"] for row in closed),
        sums=sum(row["runs"] for row in closed),
        rounds=loops * rounds,
    )


def largest_batch(reports: Sequence[dict[str, Any]], name: str) -> int:
    """Returns the largest batch of a chip that a config's reports say fits."""
    mine = [report for report in reports if report["config"] == name and report["fits"]]
    compiled = [report["batch"]["per_device"] for report in mine]
    return max(compiled + [report["search"]["largest_batch"] for report in mine if "search" in report])


def enough_threads(plan: Plan, job: scaling.Job, reading: scaling.Reading) -> int:
    """Returns the fewest threads of a host, a power of two, with which the largest run waits less than 1 % of a step.

    Loops do not count: time that they lose would hide the wait.
    """
    threads = 1
    while threads < 1024:
        more = reading._replace(threads=threads, prefetch=2 * threads)
        step = scaling.predict(job._replace(rounds=0), CHIPS[CHIP], SIZES[-1], plan.weak, more)
        if step.input_s < 0.01 * step.total_s:
            break
        threads *= 2
    return threads


# ---------------------------------------------------------------------------------------------------------- page


def page(reports: Sequence[dict[str, Any]], measured: dict[str, Any]) -> str:
    """Returns docs/scaling.md."""
    lines = [*_HEAD, *_compile_table(reports), ""]
    for plan in PLANS:
        config: Any = segment.get_config(plan.config.split(":")[1])
        job = make_job(reports, config, plan.config)
        largest = largest_batch(reports, plan.config)
        quantiles = tuple(map(tuple, measured[plan.config]["quantiles"]))
        reading = scaling.Reading(quantiles, config.data.threads, config.data.prefetch)
        lines += _plan(plan, job, largest, reading, measured[plan.config])
    return "\n".join(lines) + "\n"


_HEAD = f"""# Scaling to a thousand chips

Generated by `python -m launch.scaling`; nothing on this page was run on a TPU.

- **Compiled**: memory, FLOPs, traffic and collectives of the very step, by the TPU compiler (`launch.compile`).
- **Measured**: how long one thread takes to read one crop of a synthetic store on the machine that made this page.
- **Predicted**: everything else. A chip alone takes the largest of FLOPs / peak, HBM bytes / bandwidth and the compiler's
  own estimate of its cores' cycles. Sums over chips follow a ring model of the torus ({CHIP}: 4 links of 50 GB/s, 1 µs a
  hop) and, beyond {CHIPS[CHIP].slice} chips, of the data-centre network (3.1 GB/s a chip, 50 µs a message).
  Communication and compute do not overlap. Hosts of {CHIPS[CHIP].per_host} chips read with the config's threads and
  prefetch, threads do not slow each other, and each step waits for the slowest host (simulated). Real steps will be
  slower than the first and may hide part of the second.

## Compiled steps

""".splitlines()


def _header(names: str) -> Iterator[str]:
    cells = names.split(", ")
    yield f"| {' | '.join(cells)} |"
    yield "|---" * len(cells) + "|"


def _compile_table(reports: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from _header("config, topology, batch per chip, HBM GiB, largest batch, network GFLOP, cores ms, HBM ms, "
                       "FLOPs ms, sums, MFU at best")  # fmt: skip
    for each in reports:
        memory, search = each["memory"], each.get("search")
        available = f"{memory['available'] / 2**30:.2f}" if memory["available"] else "unknown"
        cells = [
            each["config"].split("/")[-1],
            each["topology"],
            each["batch"]["per_device"],
            f"{memory['needed'] / 2**30:.2f} of {available}",
            f"about {search['largest_batch']}" if search else "",
            *(_costs(each) if "roofline" in each else [""] * 6),
        ]
        yield f"| {' | '.join(map(str, cells))} |"


def _costs(report: dict[str, Any]) -> list[str]:
    roofline = report["roofline"]
    sums = sum(row["bytes"] for row in report["collectives"]) / 1e6
    return [
        f"{report['flops']['network'] / 1e9:.1f}",
        *(f"{roofline[key] * 1e3:.2f}" for key in ("cores_s", "memory_s", "compute_s")),
        f"{sums:.2f} MB, {roofline['communication_s'] * 1e3:.2f} ms" if report["devices"] > 1 else "",
        f"{roofline['mfu']:.1%}",
    ]


def _plan(
    plan: Plan, job: scaling.Job, largest: int, reading: scaling.Reading, measured: dict[str, Any]
) -> Iterator[str]:
    median = dict(map(tuple, measured["quantiles"]))[0.5]
    rounds = f" and up to {job.rounds} rounds of loops" if job.rounds else ""
    yield f"## {plan.title} (`{plan.config}`)"
    yield ""
    yield (
        f"{job.gradient_bytes / 1e6:.2f} MB in {job.sums} sums{rounds} a step; "
        f"a crop is read in {median * 1e3:.1f} ms (median of {measured['reads']} on {measured['cores']} cores at load "
        f"{measured['load']:.0f})."
    )
    weak = [(n, plan.weak) for n in SIZES]
    strong = [(n, plan.strong // n) for n in SIZES if plan.strong // n <= largest]
    for title, sizes in (
        (f"Weak: {plan.weak} samples a chip", weak),
        (f"Strong: {plan.strong} samples in all", strong),
    ):
        steps = [scaling.predict(job, CHIPS[CHIP], n, batch, reading) for n, batch in sizes]
        share = scaling.efficiencies(steps, [n * batch for n, batch in sizes], [n for n, _ in sizes])
        yield from ("", f"### {title}", "")
        yield from _header("chips, batch per chip, step ms, alone, ICI, network, loop rounds, input wait, samples/s, "
                           "efficiency, limit")  # fmt: skip
        for (n, batch), step, efficiency in zip(sizes, steps, share, strict=True):
            cells = [f"{part * 1e3:.2f}" for part in (step.total_s, *step)]
            cells += [f"{n * batch / step.total_s:,.0f}", f"{efficiency:.0%}", step.limit]
            yield f"| {n} | {batch} | {' | '.join(cells)} |"
    yield from ("", *_advice(plan, job, reading), "")


def _advice(plan: Plan, job: scaling.Job, reading: scaling.Reading) -> Iterator[str]:
    """Where what limits, and what to change there."""
    chip, most = CHIPS[CHIP], SIZES[-1]
    waits = {n: scaling.predict(job, chip, n, plan.weak, reading).input_s for n in SIZES}
    worst = max(SIZES, key=lambda n: waits[n])
    crop_s = float(np.interp(np.linspace(0, 1, 10001), *np.array(reading.quantiles).T).mean())
    threads = enough_threads(plan, job, reading)
    ready = reading._replace(threads=threads, prefetch=2 * threads)
    now = scaling.predict(job, chip, most, plan.weak, ready)
    needed = plan.weak * chip.per_host / scaling.alone_s(job, plan.weak)
    lost = waits[worst] / scaling.alone_s(job, plan.weak)
    yield (
        f"- Input: a host's {reading.threads} threads read {reading.threads / crop_s:,.0f} crops/s at most, its "
        f"{chip.per_host} chips use up to {needed:,.0f}; "
        + (
            f"the longest wait is {waits[worst] * 1e3:.1f} ms a step, on {worst} chips. Change: "
            f"data.threads={threads} and data.prefetch={2 * threads} keep it below 1 %."
            if lost > 0.01
            else "no step waits for it."
        )
    )
    without = scaling.predict(job._replace(rounds=0), chip, most, plan.weak, ready)
    if job.rounds:
        yield (
            "- Loop rounds: a loop of the targets ends when all chips agree, after each offset. With that input, "
            f"{most} chips spend {now.rounds_s * 1e3:.1f} of {now.total_s * 1e3:.1f} ms on it; without it a step takes "
            f"{without.total_s * 1e3:.1f} ms. Change: a loop whose length does not depend on data, or one of its "
            "own on each chip (shard_map)."
        )
    yield (
        f"- Sums: {job.gradient_bytes / 1e6:.1f} MB are {now.ici_s * 1e3:.2f} ms in a slice and "
        f"{now.network_s * 1e3:.2f} ms over slices, mostly latency. Change: fewer, larger sums (group instead of batch "
        "statistics), more samples a chip; accumulate gradients where several slices are used."
    )
    share = scaling.alone_s(job, plan.weak) / without.total_s
    yield f"- With input and loops changed, {most} chips work at {share:.0%} of one chip's rate each."


if __name__ == "__main__":
    cli.run(main)
