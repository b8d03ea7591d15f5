"""What became of a sweep's runs: <workdir>/manifest.json, written whole at every change."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from celltrack_jax.config import differing
from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from launch import cli
from launch.slurm.jobs import Outcome
from launch.sweeps import arms
from launch.sweeps.arms import Arm

FILE = "manifest.json"
MISSING, RUNNING, STOPPED, FAILED, DONE = "missing", "running", "stopped", "failed", "done"
_STOPS = (cli.STOPPED, -15, 128 + 15)
"""Statuses of a run that was told to stop, in its loop or before it."""


@dataclass
class Run:
    """One arm with one seed."""

    arm: str
    seed: int
    argument: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    status: str = MISSING
    exit: int | None = None
    error: str | None = None
    seconds: int = 0
    """Of the last attempt."""
    attempts: int = 0
    job: str | None = None
    """Of SLURM, while it runs there."""

    @property
    def name(self) -> str:
        """Names the run, and its folder below <workdir>/runs."""
        return f"{self.arm}/seed{self.seed}"

    def start(self, job: str | None = None) -> None:
        """Notes that it was started."""
        self.status, self.exit, self.error, self.job = RUNNING, None, None, job
        self.attempts += 1

    def end(self, outcome: Outcome) -> None:
        """Notes how it ended."""
        self.exit, self.seconds, self.job = outcome.status, outcome.seconds, None
        if outcome.status == 0:
            self.status, self.error = DONE, None
        elif outcome.status in _STOPS:
            self.status, self.error = STOPPED, None
        else:
            self.status, self.error = FAILED, outcome.error or f"exit status {outcome.status}"


class Manifest:
    """The runs of a sweep, by name and in order: arm by arm, seed by seed."""

    def __init__(self, workdir: Path, runs: Sequence[Run], chosen: Collection[str] = ()):
        """Takes the runs, and the arms that this call runs, () for all; nothing is written."""
        self.workdir, self.runs = workdir, {run.name: run for run in runs}
        self.chosen = set(chosen) or {run.arm for run in runs}

    def save(self) -> None:
        """Writes the file.

        Raises:
          InputError: it cannot be written.
        """
        rows = [asdict(run) | {"folder": f"runs/{run.name}"} for run in self.runs.values()]
        text = json.dumps({"baseline": next(iter(self.runs.values())).arm, "runs": rows}, indent=1)
        files.replace_text(self.workdir / FILE, text + "\n", "then run the same command to continue")

    def folder(self, run: Run) -> Path:
        """Returns the run's own folder."""
        return self.workdir / "runs" / run.name

    def unfinished(self) -> list[Run]:
        """Returns the runs that a call has to start, or to follow."""
        return [run for run in self.runs.values() if run.status != DONE and run.arm in self.chosen]

    def problems(self, runs: Sequence[Run]) -> list[str]:
        """Returns a line for each run that is not done; what was not begun is no problem where it was not asked for."""
        return [
            f"seed {run.seed} {run.status}" + (f": {run.error}" if run.error else "")
            for run in runs
            if run.status != DONE and (run.status != MISSING or run.arm in self.chosen)
        ]


def plan(
    workdir: Path, wanted: Sequence[Arm], seeds: Sequence[int] | None, chosen: Collection[str] = ()
) -> Manifest:
    """Lists the runs of a sweep, with what is known of them.

    Args:
      workdir: of the sweep.
      wanted: its arms.
      seeds: of every arm; None for the one in each arm's config.
      chosen: names of the arms that this call runs; () for all.

    Raises:
      InputError: a run is done that had other settings; the manifest cannot be read.
    """
    known = _read(workdir)
    runs = []
    for arm in wanted:
        for seed in [arm.config.seed] if seeds is None else seeds:
            run = Run(arm.name, seed, arm.argument, arm.overrides)
            old = known.get(run.name)
            config = workdir / "runs" / run.name / "config.json"
            if old is not None and (old.status != DONE or config.is_file()):
                run.status, run.exit, run.error = old.status, old.exit, old.error
                run.seconds, run.attempts, run.job = old.seconds, old.attempts, old.job
                if run.status == RUNNING and run.job is None:
                    run.status = STOPPED  # whoever watched it died
            if run.status == DONE:
                _refuse_changed(arm, seed, config)
            runs.append(run)
    return Manifest(workdir, runs, chosen)


def _refuse_changed(arm: Arm, seed: int, path: Path) -> None:
    try:
        old = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {path} ({error}): delete {path.parent} to run the arm again"
        ) from error
    changed = differing(old, arms.as_json(arm.of_seed(seed)))
    if changed:
        raise InputError(
            f"arm {arm.name!r} is done with other settings ({', '.join(changed[:4])} differ): give it another name "
            f"or the sweep another --workdir, or delete {path.parent.parent} to run it again"
        )


def _read(workdir: Path) -> dict[str, Run]:
    path = workdir / FILE
    try:
        rows = json.loads(path.read_text())["runs"]
        names = {each.name for each in fields(Run)}
        runs = [Run(**{key: value for key, value in row.items() if key in names}) for row in rows]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read {path} ({error}): move it away; runs that are done end at once"
        ) from error
    return {run.name: run for run in runs}
