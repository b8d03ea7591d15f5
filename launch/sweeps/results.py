"""What the runs of a sweep came to."""

import json
from pathlib import Path

from celltrack_jax.errors import InputError
from celltrack_jax.report import sweep, sweep_plot
from launch.sweeps import manifest


def read_runs(workdir: Path) -> list[sweep_plot.Run]:
    """Reads the runs of a sweep that are done.

    Raises:
      InputError: there is no sweep, or none of its runs is done.
    """
    path = workdir / manifest.FILE
    try:
        rows = json.loads(path.read_text())["runs"]
        done = [(row["arm"], workdir / row["folder"]) for row in rows if row["status"] == manifest.DONE]
        runs = []
        for arm, folder in done:
            config = json.loads((folder / "config.json").read_text())
            history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            best = sweep.best_row(history, config["train"]["best_metric"])
            runs.append(sweep_plot.Run(config, best, arm))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read the sweep {workdir} ({error}): give the --workdir of a launch.sweep"
        ) from error
    if not runs:
        raise InputError(f"no run of the sweep {workdir} is done: run launch.sweep again")
    return runs
