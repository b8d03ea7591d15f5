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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.report import sweep as report
from celltrack_jax.report import tables
from celltrack_jax.training import progress
from launch import cli, local, on
from launch.slurm import jobs
from launch.sweeps import arms as sweep_arms
from launch.sweeps import manifest as manifests
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
    path, colon, argument = str(config_flags.get_config_filename(flags.FLAGS["config"])).partition(":")
    common = _common_overrides()
    arms = sweep_arms.load(Path(path).absolute(), argument if colon else None, common)
    sweep_arms.check(arms, Path(path))
    workdir = Path(_WORKDIR.value).absolute()
    with files.locked(workdir, "launch.sweep"), local.told_to_stop() as stop:
        manifest = manifests.plan(workdir, arms, seeds, _ARMS.value or ())
        _refuse_jobs_elsewhere(manifest, slurm)
        for arm in arms:
            for run in [
                run for run in manifest.runs.values() if run.arm == arm.name and run.status != manifests.DONE
            ]:
                text = sweep_arms.config_file(arm, run.seed, path)
                files.replace_text(manifest.folder(run) / "arm.py", text, "then run the same command again")
        manifest.save()
        watch = _Watch(manifest)
        with watch.bar:
            if slurm is None:
                watch.run_here(int(_JOBS.value or 1), stop)
            else:
                watch.run_on_slurm(slurm, int(_JOBS.value or 0), stop)
        metric = arms[0].config.train.best_metric
        _report(manifest, metric, f"{path}{colon}{argument}")
        return _status(manifest, stopped=stop())


class _Watch:
    """Starts the runs and notes what becomes of them."""

    def __init__(self, manifest: Manifest):
        self.manifest, self.todo = manifest, manifest.unfinished()
        self.ended = 0
        columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, disable=not sys.stdout.isatty())
        self.task = self.bar.add_task("runs", total=len(self.todo))
        done = sum(run.status == manifests.DONE for run in manifest.runs.values())
        if done:
            print(f"{done} of {len(manifest.runs)} runs are done already", flush=True)

    def run_here(self, at_once: int, stop: Any) -> None:
        """Runs what is left as child processes."""

        def start(name: str) -> None:
            self.manifest.runs[name].start()
            self._save(name)

        commands = {run.name: self._command(run) for run in self.todo}
        local.run(commands, self._log, at_once, start, self._end, stop)

    def run_on_slurm(self, slurm: dict[str, Any], at_once: int, stop: Any) -> None:
        """Runs what is left as jobs of one array; jobs of an earlier call are followed on."""
        folder = self.manifest.workdir / "slurm"
        alive = _alive(self.todo)
        new = [run for run in self.todo if run.job is None or run.job not in alive]
        new = [run for run in new if not self._ended_unseen(folder, run)]
        if new:
            ids = jobs.submit([self._command(run) for run in new], folder, "sweep", slurm, at_once)
            for run, job in zip(new, ids, strict=True):
                run.start(job)
            self.manifest.save()
            print(f"{len(ids)} jobs {ids[0]} to {ids[-1]}, logs in {folder}", flush=True)
        name_of = {run.job: run.name for run in self.todo if run.job is not None}
        if not on.WAIT.value:
            print("they are not waited for; the same command without --wait=false follows them", flush=True)
            return

        def end(job: str, outcome: jobs.Outcome) -> None:
            self._end(name_of.pop(job), outcome)

        on.follow(folder, list(name_of), lambda job, state: None, end, stop)
        if name_of:
            jobs.cancel(list(name_of))  # SLURM gives them time to save
            for name in name_of.values():
                self._end(name, jobs.Outcome(cli.STOPPED, 0, None))

    def _ended_unseen(self, folder: Path, run: Run) -> bool:
        """Notes how a job ended since the last call."""
        outcome = None if run.job is None else jobs.outcome(folder, run.job)
        if outcome is None or outcome.status:
            return False
        self._end(run.name, outcome)
        return True

    def _end(self, name: str, outcome: jobs.Outcome) -> None:
        self.manifest.runs[name].end(outcome)
        self.ended += 1
        self._save(name)

    def _save(self, name: str) -> None:
        self.manifest.save()
        run = self.manifest.runs[name]
        said = f"[{self.ended}/{len(self.todo)}] {name} {run.status}"
        if run.status != manifests.RUNNING:
            said += f" after {run.seconds} s"
        said = f"{said}: {run.error}" if run.error else said
        if self.bar.disable:
            print(said, flush=True)
        elif run.status != manifests.RUNNING:
            self.bar.console.print(said, highlight=False, markup=False)
            self.bar.update(self.task, completed=self.ended)

    def _command(self, run: Run) -> list[str]:
        folder = self.manifest.folder(run)
        return ["-m", "launch.train", f"--config={folder / 'arm.py'}", f"--workdir={folder}"]

    def _log(self, name: str) -> Path:
        return self.manifest.folder(self.manifest.runs[name]) / "train.log"


def _seeds() -> list[int] | None:
    if _SEEDS.value is None:
        return None
    seeds = [int(word) for word in _SEEDS.value if word.strip().isdigit()]
    if len(seeds) != len(_SEEDS.value) or len(set(seeds)) < len(seeds) or not seeds:
        raise flags.ValidationError(f"--seeds={','.join(_SEEDS.value)}: give different whole numbers, 0,1,2")
    return seeds


def _common_overrides() -> dict[str, Any]:
    """Returns what --config.key=value sets; reading the config checks keys and types."""
    if not isinstance(_CONFIG.value, ConfigDict):
        return {}  # sweep_arms.load says what is wrong with the file
    return dict(config_flags.get_override_values(flags.FLAGS["config"]))


def _alive(runs: Sequence[Run]) -> set[str]:
    """Returns the jobs of earlier calls that SLURM still has."""
    if not any(run.job for run in runs):
        return set()
    listed = jobs.states()
    if listed is None:
        raise InputError("squeue does not answer, and runs were its jobs: call it again where SLURM answers")
    return {run.job for run in runs if run.job in listed and run.job is not None}


def _refuse_jobs_elsewhere(manifest: Manifest, slurm: dict[str, Any] | None) -> None:
    if slurm is None:
        alive = sorted(_alive(list(manifest.runs.values())))
        if alive:
            raise InputError(
                f"runs of {manifest.workdir} are jobs of SLURM ({alive[0]}, {len(alive)} in all): follow them with "
                "--on=slurm, or end them with scancel"
            )


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
        problems = [
            f"seed {run.seed} {run.status}" + (f": {run.error}" if run.error else "")
            for run in runs
            if run.status != manifests.DONE
        ]
        results.append(report.ArmResult(arm, len(runs), best, next(iter(histories.values()), []), problems))
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


def _status(manifest: Manifest, *, stopped: bool) -> int:
    left = manifest.unfinished()
    if stopped and left:
        print(f"stopped with {len(left)} of {len(manifest.runs)} runs to go; the same command continues")
        return cli.STOPPED
    failed = [run.name for run in left if run.status == manifests.FAILED]
    if failed:
        cure = f"see train.log in {manifest.workdir / 'runs' / failed[0]}, or the logs in {manifest.workdir / 'slurm'}"
        print(
            f"error: {len(failed)} of {len(manifest.runs)} runs failed ({failed[0]}, ...): {cure}",
            file=sys.stderr,
        )
        return 1
    return cli.STOPPED if any(run.status == manifests.STOPPED for run in left) else 0


if __name__ == "__main__":
    cli.run(main)
