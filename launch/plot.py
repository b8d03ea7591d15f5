"""Draws measures of a sweep's arms, or over one setting, a line for each value of another: an SVG.

    python -m launch.plot --sweep=runs/losses --measures=F1_0.5 --output=docs/losses.svg
    python -m launch.plot --sweep=runs/sigma --x=representation.sigma --by=representation.loss_name \
        --measures=F1_5,original/F1_20 --output=docs/sigma.svg

Measures are those of each run's best checkpoint; a chart per measure, means over seeds with their range.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.report import arm_plot, sweep_plot
from launch import cli
from launch.sweeps.results import read_runs

SWEEP = flags.DEFINE_string("sweep", None, "folder of a launch.sweep")
X = flags.DEFINE_string(
    "x", None, "key of the config whose numbers are the horizontal axis; without it arms are rows"
)
BY = flags.DEFINE_string("by", None, "key of the config whose values tell lines apart")
MEASURES = flags.DEFINE_list("measures", None, "measures, as in sweep.csv; <measure>=<title> names a chart")
OUTPUT = flags.DEFINE_string("output", "sweep.svg", "picture to write")
flags.mark_flags_as_required(["sweep", "measures"])


def main(_: Sequence[str]) -> int:
    """Draws the picture; the exit status."""
    workdir, output = Path(str(SWEEP.value)), Path(str(OUTPUT.value))
    runs = read_runs(workdir)
    if bool(X.value) != bool(BY.value):
        raise InputError("--x and --by belong together: give both, or neither for a row per arm")
    titles = {}
    for text in MEASURES.value or []:
        measure, _, title = text.partition("=")
        titles[title or measure] = measure
    if X.value:
        lines = {
            title: sweep_plot.lines(runs, measure, X.value, str(BY.value))
            for title, measure in titles.items()
        }
        picture, charts = sweep_plot.svg(lines, X.value), len(lines)
    else:
        rows = {title: arm_plot.rows(runs, measure) for title, measure in titles.items()}
        picture, charts = arm_plot.svg(rows), len(rows)
    files.replace_text(output, picture, "give another --output")
    print(f"{output}: {charts} charts of {len(runs)} runs")
    return 0


if __name__ == "__main__":
    cli.run(main)
