"""Scores of a run's checkpoints on its held-out frames, a row file per checkpoint, here or as a SLURM job array.

A row, <workdir>/evaluation/<step>.json, is used again as long as checkpoint and settings are those it was made from.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from celltrack_jax import tasks
from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.metrics import instances
from celltrack_jax.models.functional import FunctionalModel
from celltrack_jax.report import evaluation, pr_curve, tables
from celltrack_jax.training import checkpoint
from launch import embedders, local, on, overrides, readings
from launch.processes import Alone, Processes
from launch.slurm import jobs

_NOT_JUDGED = ("train", "optimizer", "mesh", "augment", "ema_decay", "seed")
"""Parts of a config that a checkpoint's scores do not depend on."""


def score_one(workdir: Path, which: str, processes: Processes | Alone) -> list[dict[str, Any]]:
    """Scores a checkpoint in the first process, writes and prints its row, and returns it alone; none if told to stop.

    Args:
      workdir: of the run.
      which: "best", "latest" or a step.
      processes: of this command.

    Raises:
      InputError: there is no such checkpoint, or the data are absent.
    """
    errors: dict[str, str] = {}
    rows = _in_this_process(workdir, [which] if processes.index == 0 else [], processes.asked, errors)
    processes.meet("scored")
    if errors:
        raise InputError(errors[which])
    return rows


def write_curve(workdir: Path, which: str, page: Path, processes: Processes | Alone) -> None:
    """Writes the curves of precision and recall of a checkpoint, in the first process, unless told to stop.

    Args:
      workdir: of the run.
      which: "best", "latest" or a step.
      page: HTML file.
      processes: of this command.

    Raises:
      InputError: the run's task has no such curve, there is no such checkpoint, or no held-out frame tells.
    """
    if processes.index > 0:
        return
    config = readings.load_config(workdir)
    task = tasks.build(config)
    if not isinstance(task, tasks.InstanceTask):
        raise InputError(
            f"{workdir} is a run of the task {config.task!r}, which outlines no cells: --curve needs one that does, "
            "dense or clips"
        )
    model = FunctionalModel(task.model)
    step, variables = checkpoint.restore_variables(workdir, which, model)
    found = task.overlaps(model, variables, processes.asked)
    if found is None:
        return
    curves = {name: instances.precision_recall_curve(frames) for name, frames in found.items() if frames}
    if not curves:
        raise InputError(
            f"{workdir}: in no held-out frame are all cells outlined: take a store with such frames, or a larger "
            "evaluation.holdout"
        )
    html = pr_curve.page(f"{workdir.name}, step {step}", curves)
    files.replace_text(page, html, "then run the same command again")
    print(f"{page}: {', '.join(f'{len(found[name])} {name} frames' for name in curves)}", flush=True)


def score_all(
    workdir: Path, processes: Processes | Alone, *, again: bool, at_once: int, slurm: dict[str, Any] | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Scores all checkpoints that have no row yet, and writes evaluation.csv and evaluation.html.

    Args:
      workdir: of the run.
      processes: of this command, which share the work; the first one writes.
      again: score those that have one, too.
      at_once: how many processes, or jobs of the array (0: no limit there).
      slurm: settings of the jobs; None scores here.

    Returns:
      A row per checkpoint by ascending step, and a line per checkpoint that could not be scored.

    Raises:
      InputError: the run has no checkpoint.
    """
    config = readings.load_config(workdir)
    steps = checkpoint.checkpoint_steps(workdir)
    if not steps:
        raise InputError(f"{workdir} holds no finished checkpoint: train longer before scoring")
    if again and processes.index == 0:
        for step in steps:
            _row_file(workdir, step).unlink(missing_ok=True)
    processes.meet("cleared")
    known = {step: _read_row(workdir, step, config) for step in steps}
    missing = [step for step, row in known.items() if row is None]
    if len(missing) < len(steps):
        said = f"{len(steps) - len(missing)} of {len(steps)} checkpoints are scored already"
        print(f"{said}; --again scores them anew", file=sys.stderr, flush=True)
    for row in known.values():
        if row is not None:
            print_row(row)
    errors: dict[int, str] = {}
    if slurm is not None:
        _on_slurm(workdir, missing, at_once, slurm, processes.asked, errors)
    elif at_once > 1:
        _in_children(workdir, missing, at_once, processes.asked, errors)
    else:
        # Shares of all, not of what is missing: that changes while others are quicker.
        own = [step for step in steps[processes.index :: processes.count] if step in missing]
        _in_this_process(workdir, own, processes.asked, errors)
    processes.meet("scored")
    if processes.count > 1 and not processes.asked():
        files.wait_until(lambda: all(_row_file(workdir, step).is_file() for step in steps))
    found = {step: _read_row(workdir, step, config) for step in steps}
    rows = [row for row in found.values() if row is not None]
    problems = [
        f"checkpoint {step} is not scored: {errors.get(step) or _read_error(workdir, step)}"
        for step in steps
        if found[step] is None
    ]
    if rows and processes.index == 0:
        facts = {
            "Config": f"{config.model.name}, {config.task}",
            "Checkpoints": f"{len(rows)} of {len(steps)}",
        }
        if overrides.words():
            facts["Read by"] = " ".join(overrides.words())
        evaluation.write(workdir, rows, facts, problems)
    return rows, problems


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table on a terminal; in a log the lines of `print_row` have said it."""
    if not sys.stdout.isatty():
        return
    from rich.console import Console
    from rich.table import Table

    table = evaluation.table(rows)
    shown = Table(*table.columns)
    for row in table.rows:
        shown.add_row(*map(tables.shown, row))
    Console().print(shown)


def print_row(row: Mapping[str, Any]) -> None:
    """Prints a checkpoint's scores on a line."""
    values = "  ".join(
        f"{key} {value:.4f}" for key, value in row.items() if key != "step" and value is not None
    )
    print(f"step {row['step']}  {values}", flush=True)


def _in_this_process(
    workdir: Path, wanted: Sequence[Any], stop: Callable[[], bool], errors: dict[Any, str]
) -> list[dict[str, Any]]:
    """Scores checkpoints with one compiled network, until told to stop; returns their rows."""
    if not wanted:
        return []
    config = readings.load_config(workdir)
    task = tasks.build(config)
    embedders.attach(task, workdir)
    model = FunctionalModel(task.model)
    rows = []
    for which in wanted:
        try:
            step, variables = checkpoint.restore_variables(workdir, which, model)
            scores = task.evaluate(model, variables, stop)
        except InputError as error:
            errors[which] = str(error)
            if isinstance(which, int):  # one of all, which the first process tells
                _write_row(workdir, which, {"step": which, "error": str(error)})
            continue
        if scores is None:
            break
        rows.append({"step": step, **scores})
        _write_row(workdir, step, origin(workdir, step, config) | {"scores": scores})
        print_row(rows[-1])
    return rows


def _in_children(
    workdir: Path, steps: Sequence[int], at_once: int, stop: Callable[[], bool], errors: dict[int, str]
) -> None:
    def ended(name: str, outcome: jobs.Outcome) -> None:
        _tell(workdir, int(name), outcome, errors)

    commands = {str(step): _command(workdir, step) for step in steps}
    local.run(commands, lambda name: _log(workdir, name), at_once, lambda _: None, ended, stop)


def _on_slurm(
    workdir: Path,
    steps: Sequence[int],
    at_once: int,
    slurm: dict[str, Any],
    stop: Callable[[], bool],
    errors: dict[int, str],
) -> None:
    if not steps:
        return
    folder = workdir.absolute() / "slurm"
    commands = [_command(workdir, step) for step in steps]
    ids = jobs.submit(commands, folder, f"evaluate {workdir.name}", slurm, at_once)
    step_of = dict(zip(ids, steps, strict=True))
    print(f"{len(ids)} jobs {ids[0]} to {ids[-1]}, logs in {folder}", flush=True)
    if not on.WAIT.value:
        print("they are not waited for; the same command with --on=local tables their rows", flush=True)
        raise SystemExit(0)

    def ended(job: str, outcome: jobs.Outcome) -> None:
        _tell(workdir, step_of[job], outcome, errors)

    on.follow(folder, ids, lambda job, state: None, ended, stop)
    if stop():
        jobs.cancel(ids)


def _tell(workdir: Path, step: int, outcome: jobs.Outcome, errors: dict[int, str]) -> None:
    row = _read_row(workdir, step, None)
    if outcome.status or row is None:
        errors[step] = outcome.error or f"status {outcome.status}"
    else:
        print_row(row)


def _command(workdir: Path, step: int) -> list[str]:
    wanted = [f"--workdir={workdir.absolute()}", f"--checkpoints={step}"]
    return ["-m", "launch.evaluate", *wanted, *overrides.words()]


def _log(workdir: Path, name: str) -> Path:
    return _row_file(workdir, int(name)).with_suffix(".log")


def _row_file(workdir: Path, step: int) -> Path:
    return workdir / "evaluation" / f"{step}.json"


def _read_row(workdir: Path, step: int, config: Config | None) -> dict[str, Any] | None:
    """Returns a checkpoint's row; None where there is none, or where it was made from something else."""
    try:
        row = json.loads(_row_file(workdir, step).read_text())
    except (OSError, ValueError):
        return None
    if config is not None and any(row.get(k) != v for k, v in origin(workdir, step, config).items()):
        return None
    return {"step": step, **row["scores"]} if "scores" in row else None


def _read_error(workdir: Path, step: int) -> str:
    try:
        return str(json.loads(_row_file(workdir, step).read_text())["error"])
    except (OSError, ValueError, KeyError):
        return "it has no row"


def _write_row(workdir: Path, step: int, row: Mapping[str, Any]) -> None:
    text = json.dumps(row, indent=1) + "\n"
    files.replace_text(_row_file(workdir, step), text, "then run the same command to continue")


def origin(workdir: Path, step: int, config: Config) -> dict[str, Any]:
    """Returns what a row is made from: the step, when its checkpoint was written, and the settings that judge it."""
    try:
        metadata = json.loads((workdir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").read_text())
    except (OSError, ValueError):
        metadata = {}
    settings = {
        key: part for key, part in json.loads(config.to_json_best_effort()).items() if key not in _NOT_JUDGED
    }
    return {"step": step, "saved_ns": metadata.get("commit_timestamp_nsecs"), "settings": settings}
