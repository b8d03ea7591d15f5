"""Scores a Cell Tracking Challenge result, a submission, or the checkpoints of a run on its held-out frames.

    python -m launch.evaluate --truth=01_GT --result=01_RES --json=scores.json
    python -m launch.evaluate --truth=01_GT --result=01_RES --frames=55:65
    python -m launch.evaluate --truth=Burst7/gt/gt.txt --result=01_RES --matches=matches
    python -m launch.evaluate --truth=zygote1/centres.csv --result=01_RES --spacing=0.3,0.13,0.13
    python -m launch.evaluate --truth=sartorius/train.csv --result=submission.csv
    python -m launch.evaluate --workdir=runs/sim --checkpoints=all
    python -m launch.evaluate --workdir=runs/sim --checkpoints=best --curve=curve.html
    python -m launch.evaluate --workdir=runs/dsb --config.representation.flow_threshold=0.8
    python -m launch.evaluate --workdir=runs/sim --checkpoints=all --on=slurm --slurm=partition=gpu,gpus_per_node=1

Prints the measures and writes them as JSON. A measure that is not defined, or whose truth is absent, is null; a
result without a track file is scored for SEG and DET only. A result that breaks the rules is not scored: every
problem is printed, the JSON says so, and the exit status is 1.

A submission of launch.predict has the measure of the Sartorius competition, over all images that it and train.csv name
and by cell type; a note says which are named by one of them only.

All checkpoints of a run (those that --config.train.keep_latest left, and the best) also become a table and curves,
evaluation.csv and evaluation.html in its folder. With --curve, nothing is scored: precision and recall of the cells
of one checkpoint, by the IoU that a match must exceed, become a page with chart and table. --config.<key>=<value>
reads and judges a run by another setting than its own (launch/readings.py).
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from celltrack_jax.errors import InputError
from celltrack_jax.inference.ctc_scores import Scores, score_result
from celltrack_jax.metrics.ctc import MEASURES
from launch import cli, cluster, json_file, on, overrides

flags.adopt_module_key_flags(on)
flags.adopt_module_key_flags(cluster)
flags.adopt_module_key_flags(json_file)
TRUTH = flags.DEFINE_string(
    "truth",
    None,
    "annotation folder (01_GT) that holds TRA or SEG or both, a table of boxes (gt.txt) or of centres "
    "of mass (.csv), or the Sartorius competition's train.csv",
)
SPACING = flags.DEFINE_list("spacing", None, "with a table of centres: voxel size z,y,x in µm")
RADII = flags.DEFINE_list(
    "radii",
    None,
    "with a table: pixels, or µm, within which points match; default 3,5,8 of boxes, 0.25,0.4,0.5,0.75,1 of centres",
)
RADIUS = flags.DEFINE_float(
    "radius", None, "with a table: the same, for DET, TRA, LNK and AOGM; default 5 px, 0.5 µm", 0.0
)
MATCHES = flags.DEFINE_string(
    "matches",
    None,
    "with a table: folder for images (1 found, 2 missed, 3 false) and a table of the cells found, missed and false: "
    "places in voxels, distances in the unit of the radius",
)
RESULT = flags.DEFINE_string(
    "result", None, "result folder (01_RES): mask*.tif and res_track.txt; or submission.csv"
)
SEG_SLICES = flags.DEFINE_enum(
    "seg_slices",
    "object",
    ["object", "slice"],
    "3D truth that annotates single planes, man_seg_TTT_ZZZ.tif: take the annotated planes of a frame as one "
    "volume, where an object counts once (object), or each as an image of its own (slice)",
)
FRAMES = flags.DEFINE_string(
    "frames", "", "with a folder as --truth: frame numbers first:end to score, without the end; empty: all"
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of a launch.train run whose checkpoints are scored")
CHECKPOINTS = flags.DEFINE_string("checkpoints", "best", "with --workdir: all, best, latest or a step")
CURVE = flags.DEFINE_string("curve", None, "with --workdir: HTML file of precision and recall by IoU")
AGAIN = flags.DEFINE_boolean("again", False, "with --checkpoints=all: score anew what has been scored")
JOBS = flags.DEFINE_integer(
    "jobs", 0, "with --checkpoints=all: how many at a time; 0: one here, no limit on SLURM", lower_bound=0
)


def main(_: Sequence[str]) -> int:
    """Scores, prints and writes; the exit status."""
    if bool(WORKDIR.value) == bool(TRUTH.value or RESULT.value):
        raise flags.ValidationError("give --truth and --result, or --workdir")
    if TRUTH.value and on.slurm_settings() is not None:
        raise flags.ValidationError("--on=slurm goes with --workdir")
    if CURVE.value and (not WORKDIR.value or CHECKPOINTS.value == "all"):
        raise flags.ValidationError("--curve goes with --workdir and one of its checkpoints")
    if CURVE.value and json_file.wanted():
        raise flags.ValidationError("--curve scores nothing: leave --json out")
    _refuse_unheard()
    if WORKDIR.value:
        return score_run(Path(WORKDIR.value), str(CHECKPOINTS.value))
    if not (TRUTH.value and RESULT.value):
        raise flags.ValidationError("--truth and --result go together")
    truth, result = str(TRUTH.value), str(RESULT.value)
    if Path(truth).is_file():
        _refuse((SEG_SLICES, FRAMES), "a folder as --truth")
        return score_table(Path(truth), Path(result))
    _refuse((RADII, RADIUS, MATCHES, SPACING), "a table of points as --truth")
    scores = score_result(Path(truth), Path(result), str(SEG_SLICES.value), str(FRAMES.value))
    return report(scores, Path(truth), Path(result), MEASURES)


def _refuse_unheard() -> None:
    """Refuses flags of the other thing to score, which would be ignored."""
    if WORKDIR.value:
        _refuse((RADII, RADIUS, MATCHES, SPACING, SEG_SLICES, FRAMES), "--truth")
    else:
        _refuse((CHECKPOINTS, AGAIN, JOBS), "--workdir")
        if overrides.words():
            raise flags.ValidationError(f"{' and '.join(overrides.words())}: only with --workdir")
    if CHECKPOINTS.value != "all":
        _refuse((AGAIN, JOBS), "--checkpoints=all")


def _refuse(unheard: Sequence[flags.FlagHolder], home: str) -> None:
    given = [f"--{flag.name}" for flag in unheard if flag.present]
    if given:
        raise flags.ValidationError(f"{' and '.join(given)}: only with {home}")


def report(scores: Scores, truth: Path, result: Path, names: Sequence[str]) -> int:
    """Writes scores as JSON and prints them; the exit status.

    Args:
      scores: of the result.
      truth: that it was scored against.
      result: its folder.
      names: measures that are null where they are not defined; others follow.

    Raises:
      InputError: the result breaks the rules.
    """
    row = as_json(scores, names)
    json_file.write(row)
    for note in scores.notes:
        print(f"note: {note}", file=sys.stderr)
    if scores.problems:
        for problem in scores.problems:
            print(f"problem: {problem}", file=sys.stderr)
        count = len(scores.problems)
        raise InputError(f"{result} is not scored against {truth}: correct what is listed above ({count})")
    print_table(row)
    return 0


def score_table(truth: Path, result: Path) -> int:
    """Scores a result against a table; prints the measures and writes them as JSON; the exit status."""
    from celltrack_jax.inference.point_truth import score_points
    from celltrack_jax.inference.submission_scores import score_submission
    from celltrack_jax.io import sartorius

    if sartorius.is_table(truth):
        _refuse((RADII, RADIUS, MATCHES, SPACING), "a table of points as --truth")
        return report(score_submission(truth, result), truth, result, ())
    centres = truth.suffix == ".csv"
    if centres != bool(SPACING.value):
        raise flags.ValidationError(
            "a table of centres (.csv) as --truth goes with --spacing=z,y,x in µm, such as 0.3,0.13,0.13, and no other"
        )
    spacing = np.array(cli.spacing_zyx(cli.spacing(SPACING.value), 2, "")) if SPACING.value else None
    given = RADII.value or (["0.25", "0.4", "0.5", "0.75", "1"] if centres else ["3", "5", "8"])
    try:
        radii = [float(radius) for radius in given]
    except ValueError as error:
        raise flags.ValidationError(f"--radii={','.join(given)} are not numbers") from error
    if not all(0 < radius < math.inf for radius in radii):
        raise flags.ValidationError(f"--radii={','.join(given)} have to be positive")
    matches = Path(MATCHES.value) if MATCHES.value else None
    radius = (0.5 if centres else 5.0) if RADIUS.value is None else float(RADIUS.value)
    scores = score_points(truth, result, radii, radius, spacing=spacing, matches=matches)
    return report(scores, truth, result, ())


def score_run(workdir: Path, which: str) -> int:
    """Prints one row of the task's own scores per checkpoint; writes them as a JSON list; the exit status.

    Of several processes each scores its part of the checkpoints, and the first one writes the table.
    """
    from launch import checkpoint_scores  # scoring a result does without jax
    from launch.processes import Alone, Processes

    slurm, problems = on.slurm_settings(), []
    if slurm is not None and which != "all":
        raise flags.ValidationError("--on=slurm goes with --checkpoints=all, a job per checkpoint")
    at_once = int(JOBS.value or 0)
    delegates = which == "all" and (slurm is not None or at_once > 1)
    if delegates:
        cluster.refuse_several("--jobs and --on=slurm share the work out themselves")
    with Alone() if delegates else Processes() as processes:
        if CURVE.value:
            checkpoint_scores.write_curve(workdir, which, Path(str(CURVE.value)), processes)
            return cli.STOPPED if processes.asked() else 0
        if which == "all":
            rows, problems = checkpoint_scores.score_all(
                workdir, processes, again=bool(AGAIN.value), at_once=at_once, slurm=slurm
            )
        else:
            rows = checkpoint_scores.score_one(workdir, which, processes)
        stopped = processes.asked()
    if processes.index > 0 or stopped:
        if stopped:
            print(f"stopped with {len(rows)} checkpoints scored; the same command continues", flush=True)
        return cli.STOPPED if stopped else 0
    if which == "all":
        checkpoint_scores.print_table(rows)
    json_file.write(rows)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def as_json(scores: Scores, names: Sequence[str] = MEASURES) -> dict:
    """Returns the measures as the JSON of this command has them, with `valid` and `problems`."""
    every = dict.fromkeys([*names, *(() if names else scores.measures)])
    row = {name: _number(scores.measures.get(name)) for name in every}
    return row | {"valid": not scores.problems, "problems": [str(problem) for problem in scores.problems]}


def _number(value: float | None) -> float | int | None:
    if value is None or math.isnan(value):
        return None
    return int(value) if isinstance(value, int | np.integer) else float(value)


def print_table(row: dict) -> None:
    """Prints the measures: a table on a terminal, plain lines in a log."""
    names = [name for name in row if name not in ("valid", "problems")]
    texts = {name: "-" if row[name] is None else f"{row[name]:.6g}" for name in names}
    if not sys.stdout.isatty():
        width = max(8, *map(len, texts))
        for name, text in texts.items():
            print(f"{name:{width}s} {text}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "value")
    for name, text in texts.items():
        table.add_row(name, text)
    Console().print(table)


if __name__ == "__main__":
    overrides.define(sys.argv)
    cli.run(main)
