"""Draws measures of a sweep over one setting, a line for each value of another: an SVG.

    python -m launch.plot --sweep=runs/sigma --x=representation.sigma --by=representation.loss_name \
        --measures=F1_5,original/F1_20 --output=docs/sigma.svg

Measures are those of each run's best checkpoint; a chart per measure, means over seeds with their range.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.report import sweep, sweep_plot
from launch import cli
from launch.sweeps import manifest

SWEEP = flags.DEFINE_string("sweep", None, "folder of a launch.sweep")
X = flags.DEFINE_string("x", None, "key of the config whose numbers are the horizontal axis")
BY = flags.DEFINE_string("by", None, "key of the config whose values tell lines apart")
MEASURES = flags.DEFINE_list("measures", None, "measures, as in sweep.csv; <measure>=<title> names a chart")
OUTPUT = flags.DEFINE_string("output", "sweep.svg", "picture to write")
flags.mark_flags_as_required(["sweep", "x", "by", "measures"])


def main(_: Sequence[str]) -> int:
    """Draws the picture; the exit status."""
    workdir, output = Path(str(SWEEP.value)), Path(str(OUTPUT.value))
    runs = read_runs(workdir)
    charts = {}
    for text in MEASURES.value or []:
        measure, _, title = text.partition("=")
        charts[title or measure] = sweep_plot.lines(runs, measure, str(X.value), str(BY.value))
    files.replace_text(output, sweep_plot.svg(charts, str(X.value)), "give another --output")
    print(f"{output}: {len(charts)} charts of {len(runs)} runs")
    return 0


def read_runs(workdir: Path) -> list[sweep_plot.Run]:
    """Reads the runs of a sweep that are done.

    Raises:
      InputError: there is no sweep, or none of its runs is done.
    """
    path = workdir / manifest.FILE
    try:
        rows = json.loads(path.read_text())["runs"]
        done = [workdir / row["folder"] for row in rows if row["status"] == manifest.DONE]
        runs = []
        for folder in done:
            config = json.loads((folder / "config.json").read_text())
            history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            runs.append(sweep_plot.Run(config, sweep.best_row(history, config["train"]["best_metric"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read the sweep {workdir} ({error}): give the --workdir of a launch.sweep"
        ) from error
    if not runs:
        raise InputError(f"no run of the sweep {workdir} is done: run launch.sweep again")
    return runs


if __name__ == "__main__":
    cli.run(main)
