"""Runs every arm of an experiment, and tables what came of them.

    python -m launch.sweep --config=configs/ctc/segment.py:sim --workdir=runs/sweep --config.data.store=stores/sim
    python -m launch.sweep --config=... --workdir=... --seeds=0,1,2 --on=slurm --slurm=partition=gpu,gpus_per_node=1

The arms are what `sweep(add)` of the config file adds, the first is the baseline; --config.key=value changes all of
them. Each arm and seed is a run of launch.train in <workdir>/runs/<arm>/seed<k>, one after another, --jobs at a time, or
as a SLURM job array; --arms=focal,dice runs some of them now. The same command starts again what failed or is missing,
and continues what was stopped.
<workdir>/manifest.json says what became of each run, sweep.csv and report.html compare the arms. The exit status is 1
when a run failed: the others go on.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from celltrack_jax.io import files
from celltrack_jax.report import sweep as report
from celltrack_jax.report import tables
from celltrack_jax.training import progress
from launch import cli, local, on
from launch.sweeps import arms as sweep_arms
from launch.sweeps import manifest as manifests
from launch.sweeps import running
from launch.sweeps.manifest import Manifest, Run

flags.adopt_module_key_flags(on)
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file with sweep(add), <file>[:argument of arms that give none]", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the sweep")
_SEEDS = flags.DEFINE_list("seeds", None, "seeds of every arm, 0,1,2; default: the one in its config")
_ARMS = flags.DEFINE_list("arms", None, "run these alone, by name; default: all")
_JOBS = flags.DEFINE_integer(
    "jobs", 0, "how many runs at a time; 0: one here, no limit on SLURM", lower_bound=0
)


def main(argv: Sequence[str]) -> int:
    """Runs the sweep."""
    del argv
    if flags.FLAGS["config"].value is None or not _WORKDIR.value:
        raise flags.ValidationError("--config=<file>[:argument] and --workdir=<folder> are needed")
    slurm, seeds = on.slurm_settings(), _seeds()
    # This process only builds: a run's accelerator is the run's.
    jax.config.update("jax_platforms", "cpu")
    spec = str(config_flags.get_config_filename(flags.FLAGS["config"]))
    if absent := cli.absent_config(spec):
        raise flags.ValidationError(absent)
    path, colon, argument = spec.partition(":")
    common = _common_overrides()
    arms = sweep_arms.load(Path(path).absolute(), argument if colon else None, common)
    chosen = _chosen(arms)
    sweep_arms.check(arms, Path(path))
    workdir = Path(_WORKDIR.value).absolute()
    with files.locked(workdir, "launch.sweep"), local.told_to_stop() as stop:
        manifest = manifests.plan(workdir, arms, seeds, chosen)
        running.refuse_jobs_elsewhere(manifest, slurm)
        running.write_configs(manifest, arms, str(path))
        running.Watch(manifest).run(int(_JOBS.value or 0), slurm, stop)
        metric = arms[0].config.train.best_metric
        _report(manifest, metric, spec)
        return running.status(manifest, stopped=stop())


def _seeds() -> list[int] | None:
    if _SEEDS.value is None:
        return None
    seeds = [int(word) for word in _SEEDS.value if word.strip().isdigit()]
    if len(seeds) != len(_SEEDS.value) or len(set(seeds)) < len(seeds) or not seeds:
        raise flags.ValidationError(f"--seeds={','.join(_SEEDS.value)}: give different whole numbers, 0,1,2")
    return seeds


def _chosen(arms: Sequence[sweep_arms.Arm]) -> list[str]:
    """The names of --arms; none for all."""
    names = [arm.name for arm in arms]
    unknown = [name for name in _ARMS.value or () if name not in names]
    if unknown:
        raise flags.ValidationError(
            f"the sweep has no arm {unknown[0]!r}: give some of {', '.join(names)} as --arms"
        )
    return _ARMS.value or []


def _common_overrides() -> dict[str, Any]:
    """Returns what --config.key=value sets; reading the config checks keys and types."""
    if not isinstance(_CONFIG.value, ConfigDict):
        return {}  # sweep_arms.load says what is wrong with the file
    return dict(config_flags.get_override_values(flags.FLAGS["config"]))


def _report(manifest: Manifest, metric: str, origin: str) -> None:
    """Writes and prints the table."""
    by_arm: dict[str, list[Run]] = {}
    for run in manifest.runs.values():
        by_arm.setdefault(run.arm, []).append(run)
    results: list[report.ArmResult] = []
    for arm, runs in by_arm.items():
        histories = {
            run.seed: progress.read_history(manifest.folder(run))
            for run in runs
            if run.status == manifests.DONE
        }
        best = {seed: report.best_row(history, metric) for seed, history in histories.items()}
        history = next(iter(histories.values()), [])
        results.append(report.ArmResult(arm, len(runs), best, history, manifest.problems(runs)))
    facts = {"Config": origin, "Baseline": results[0].name, "Runs": len(manifest.runs)}
    table, paths = report.write(manifest.workdir, results, metric, facts)
    _print_table(table, metric)
    print(" and ".join(map(str, paths)), flush=True)


def _print_table(table: tables.Table, metric: str) -> None:
    """Prints the measure that chooses checkpoints: a table on a terminal, plain lines in a log."""
    wanted = ("arm", "done", metric, f"{metric} difference", f"{metric} spread", "problem")
    at = [i for i, column in enumerate(table.columns) if column in wanted]
    texts = [[tables.shown(row[i]) for i in at] for row in table.rows]
    if not sys.stdout.isatty():
        for row in [[table.columns[i] for i in at], *texts]:
            print("  ".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(*(table.columns[i] for i in at))
    for row in texts:
        shown.add_row(*row)
    Console().print(shown)


if __name__ == "__main__":
    cli.run(main)
