"""Draws measures of a sweep over one setting, a line for each value of another: an SVG.

    python -m launch.plot --sweep=runs/sigma --x=representation.sigma --by=representation.loss_name \
        --measures=F1_5,original/F1_20 --output=docs/sigma.svg

Measures are those of each run's best checkpoint; a chart per measure, means over seeds with their range.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from celltrack_jax.io import files
from celltrack_jax.report import sweep_plot
from launch import cli
from launch.sweeps.results import read_runs

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


if __name__ == "__main__":
    cli.run(main)
