"""Trains several segmenters of images on the same data, and compares what they find in the same held-out images.

    python -m launch.compare --configs=configs/sartorius/mask_rcnn.py:r50,configs/sartorius/cellpose.py:v3 \
        --workdir=runs/compare --config.data.store=stores/sartorius --config.evaluation.fold=0
    python -m launch.compare --runs=a=runs/mask_rcnn,b=runs/cellpose --workdir=runs/compare --tune

Writes <workdir>/comparison.md, the table: the competition's score at IoU .5, .75 and .9, its mean, by cell type, and
COCO's AP of masks; comparison.json, the same and the score of each image; and comparison.html, with the images that each
does worst and best. A row "threshold and watershed" is what needs no learning; --tune adds what launch.tune makes of each
network. Each config is a run of launch.train in <workdir>/runs/<name>/seed<k>; --config.key=value changes all that have
the key; of --runs it changes how they are read and judged (launch/readings.py). The same command starts again what failed
or is missing, continues what was stopped, and judges what is new; --notrain compares what is done by now. The exit status
is 1 when a run failed: the others are compared.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.report import comparison, tables
from launch import cli, json_file, judging, local, on, overrides, readings
from launch.sweeps import arms as sweep_arms
from launch.sweeps import manifest as manifests
from launch.sweeps import running, several

flags.adopt_module_key_flags(on)
flags.adopt_module_key_flags(json_file)
_CONFIGS = flags.DEFINE_multi_string("configs", [], "config files to train, [<name>=]<file>[:argument],...")
_RUNS = flags.DEFINE_list("runs", [], "instead: folders of runs that are trained, [<name>=]<folder>,...")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the comparison")
_TRAIN = flags.DEFINE_boolean("train", True, "with --configs: train what is not done")
_JOBS = flags.DEFINE_integer(
    "jobs", 0, "with --configs: how many runs at a time; 0: one here, no limit on SLURM", lower_bound=0
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "that is judged of each run: best or latest")
_TUNE = flags.DEFINE_boolean("tune", False, "add a row of each run as launch.tune has it read")
_MOST = flags.DEFINE_integer(
    "most", 8, "with --tune: images of each category in each half that are tuned on", lower_bound=1
)
_THRESHOLD = flags.DEFINE_boolean("threshold", True, "add a row of what a threshold and a watershed find")
_SHOWN = flags.DEFINE_integer(
    "shown", 2, "of the worst, and of the best images of each on the page", lower_bound=0
)


def main(_: Sequence[str]) -> int:
    """Trains, compares, writes and prints; the exit status."""
    if not _WORKDIR.value or bool(_RUNS.value) == bool(_CONFIGS.value):
        raise flags.ValidationError(
            "--workdir=<folder> and --configs=<file>[:argument],..., or --runs=<folder>,..., are needed"
        )
    common = overrides.words()
    workdir = Path(_WORKDIR.value).absolute()
    if _RUNS.value:
        if not _TRAIN.value:
            raise flags.ValidationError("--notrain goes with --configs: runs are trained")
        folders = {
            name: Path(spec)
            for name, spec in several.named(_RUNS.value, lambda spec: Path(spec).name).items()
        }
        return compare(workdir, folders, {})
    specs = several.split(_CONFIGS.value or [])
    arms = several.load(specs, common)
    if _TRAIN.value:
        status = train(workdir, arms, specs)
        if status == cli.STOPPED or not on.WAIT.value:
            return status
        # A process of its own judges: this one is bound to the CPU, so that the accelerator was the runs' alone.
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "launch.compare", *sys.argv[1:], "--notrain"])
    manifest = manifests.plan(workdir, arms, None)
    done = {run.arm: manifest.folder(run) for run in manifest.runs.values() if run.status == manifests.DONE}
    left = {
        run.arm: f"{run.status}{f': {run.error}' if run.error else ''}"
        for run in manifest.runs.values()
        if run.arm not in done
    }
    return compare(workdir, done, left)


def train(workdir: Path, arms: Sequence[sweep_arms.Arm], specs: dict[str, str]) -> int:
    """Trains what is not done; the exit status."""
    jax.config.update("jax_platforms", "cpu")
    for arm in arms:
        sweep_arms.check([arm], Path(specs[arm.name]))
    judging.same_images({arm.name: judging.task_of(arm.config, specs[arm.name]) for arm in arms})
    slurm = on.slurm_settings()
    with files.locked(workdir, "launch.compare"), local.told_to_stop() as stop:
        manifest = manifests.plan(workdir, arms, None)
        running.refuse_jobs_elsewhere(manifest, slurm)
        for arm in arms:
            running.write_configs(manifest, [arm], specs[arm.name])
        running.Watch(manifest).run(int(_JOBS.value or 0), slurm, stop)
        status = running.status(manifest, stopped=stop())
        return cli.STOPPED if stop() else status


def compare(workdir: Path, folders: dict[str, Path], left: dict[str, str]) -> int:
    """Judges runs, writes the table and the page; the exit status.

    Args:
      workdir: of the comparison.
      folders: of trained runs by name.
      left: of runs that are not trained, what became of them, by name.
    """
    for name, problem in left.items():
        print(f"error: {name} is not compared: {problem}", file=sys.stderr, flush=True)
    if not folders:
        raise InputError(f"no run of {workdir} is done: see train.log of each in {workdir / 'runs'}")
    which = str(_CHECKPOINT.value)
    with files.locked(workdir, "launch.compare"), local.told_to_stop() as stop:
        # What is trained here has the settings already.
        changes = readings.changes_for(folders.values()) if _RUNS.value else {}
        runs = [judging.open_run(name, folder, changes.get(folder, {})) for name, folder in folders.items()]
        images = judging.same_images({run.name: run.task for run in runs})
        truths = [image.truth().astype(np.int32) for image in images]
        rows: list[comparison.Row] = []
        tuned_by: dict[str, str] = {}

        def add(name: str, found: judging.Findings | None) -> None:
            if found is None:
                return
            rows.append(judging.row(name, found, images, truths, int(_SHOWN.value or 0)))
            print(f"{name}: mAP {tables.shown(rows[-1].measures['mAP'])}", flush=True)

        for run in runs:
            kept = workdir / "judged" / f"{run.name}.npz"
            add(run.name, judging.find(run, which, kept, stop))
            if _TUNE.value and not stop():
                kept = kept.with_name(f"{run.name}_tuned.npz")
                tuned = judging.tune(run, which, stop, most=int(_MOST.value or 1), values={}, kept=kept)
                add(f"{run.name}, tuned", tuned and tuned[1])
                if tuned:
                    tuned_by[f"{run.name}, tuned on both halves"] = tuned[0]["flags"] or "as in its config"
        if _THRESHOLD.value and not stop():
            kept = workdir / "judged" / "threshold.npz"
            add("threshold and watershed", judging.find_by_threshold(images, kept, stop))
        if stop():
            print(f"stopped with {len(rows)} rows; the same command continues", flush=True)
            return cli.STOPPED
        rows += [comparison.Row(name, {}, {}, problem) for name, problem in left.items()]
        read_by = {"Read by": " ".join(overrides.words())} if changes and overrides.words() else {}
        _write(workdir, rows, runs[0], {"Images": len(images)} | read_by | tuned_by)
    return 1 if left else 0


def _write(
    workdir: Path, rows: Sequence[comparison.Row], run: judging.Run, more: Mapping[str, object]
) -> None:
    evaluation = run.config.evaluation
    held = (
        f"fold {evaluation.fold} of {evaluation.folds}"
        if evaluation.folds
        else f"the last {evaluation.holdout:g}"
    )
    held = f"all of {evaluation.store}" if evaluation.store else held
    facts = {"Data": run.config.data.store, "Judged": held, **more}
    notes = [
        "Means over images of TP / (TP + FP + FN) at an IoU above .5, .75, .9, and mAP over .5, .55, ... .95; below a "
        "cell type its mAP."
    ]
    if _CHECKPOINT.value == "best":
        notes += ["Checkpoints are the best ones of their run, chosen on these very images."]
    table, paths = comparison.write(workdir, rows, facts, notes)
    json_file.write([{"model": row.name, **row.measures} for row in rows])
    print(tables.markdown(table), end="")
    print(", ".join(map(str, paths)), flush=True)


if __name__ == "__main__":
    overrides.define(sys.argv)
    cli.run(main)
