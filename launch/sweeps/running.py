"""The runs of a sweep under way: child processes or jobs, noted in the manifest as they start and end."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from launch import cli, local, on
from launch.slurm import jobs
from launch.sweeps import arms as sweep_arms
from launch.sweeps import manifest as manifests
from launch.sweeps.manifest import Manifest, Run


def write_configs(manifest: Manifest, arms: Sequence[sweep_arms.Arm], origin: str) -> None:
    """Writes the config of each run that is not done beside it, and the manifest.

    Args:
      manifest: of the runs.
      arms: all of them.
      origin: the config file that they come from.

    Raises:
      InputError: they cannot be written.
    """
    for arm in arms:
        for run in [run for run in manifest.runs.values() if run.arm == arm.name]:
            if run.status != manifests.DONE:
                text = sweep_arms.config_file(arm, run.seed, origin)
                files.replace_text(manifest.folder(run) / "arm.py", text, "then run the same command again")
    manifest.save()


class Watch:
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

    def run(self, at_once: int, slurm: dict[str, Any] | None, stop: Any) -> None:
        """Runs what is left, here or as jobs; `at_once` 0 is one here, and no limit on SLURM."""
        with self.bar:
            if slurm is None:
                self._run_here(at_once or 1, stop)
            else:
                self._run_on_slurm(slurm, at_once, stop)

    def _run_here(self, at_once: int, stop: Any) -> None:
        """Runs what is left as child processes."""

        def start(name: str) -> None:
            self.manifest.runs[name].start()
            self._save(name)

        commands = {run.name: self._command(run) for run in self.todo}
        local.run(commands, self._log, at_once, start, self._end, stop)

    def _run_on_slurm(self, slurm: dict[str, Any], at_once: int, stop: Any) -> None:
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


def refuse_jobs_elsewhere(manifest: Manifest, slurm: dict[str, Any] | None) -> None:
    """Refuses to run here what runs as a job.

    Raises:
      InputError: SLURM still has jobs of these runs, and `slurm` is None.
    """
    if slurm is None:
        alive = sorted(_alive(list(manifest.runs.values())))
        if alive:
            raise InputError(
                f"runs of {manifest.workdir} are jobs of SLURM ({alive[0]}, {len(alive)} in all): follow them with "
                "--on=slurm, or end them with scancel"
            )


def status(manifest: Manifest, *, stopped: bool) -> int:
    """Says what is left to do, if anything; the exit status.

    Args:
      manifest: after this call's runs.
      stopped: whether it was told to stop.
    """
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


def _alive(runs: Sequence[Run]) -> set[str]:
    """Returns the jobs of earlier calls that SLURM still has."""
    if not any(run.job for run in runs):
        return set()
    listed = jobs.states()
    if listed is None:
        raise InputError("squeue does not answer, and runs were its jobs: call it again where SLURM answers")
    return {run.job for run in runs if run.job in listed and run.job is not None}
