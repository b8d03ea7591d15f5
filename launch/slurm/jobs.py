"""Jobs of a SLURM cluster through submitit: submit, look, cancel.

The submitted function becomes the command (exec), so that SLURM's signals reach it once and directly, and so that a
job's tasks are the processes of one run (`celltrack_jax.training.hosts`). What comes after the command is up to the batch
script: a command that was told to stop (status 75) is queued again, and any other status is written to a file.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import submitit

from celltrack_jax.errors import InputError
from launch import cli
from launch.slurm import settings as slurm_settings

ROOT = Path(__file__).parents[2]
_BEFORE_THE_LOOP = 128 + 15
"""Status of a command that SIGTERM ended while it started up: there was nothing to save."""
_TAIL_BYTES = 65536
_CANCEL_S = 60
"""SLURM kills what has not stopped half a minute after it was told to."""


class Outcome(NamedTuple):
    """How a job ended."""

    status: int
    """Exit status of the command, 1 where the job vanished without one."""
    seconds: int
    """That it ran since it was last started."""
    error: str | None
    """Last error in its log, None after success."""


def become(root: str, arguments: Sequence[str]) -> None:
    """Replaces this process by `python <arguments>` in the project's folder; what a job's task does."""
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, *arguments])


def submit(
    commands: Sequence[Sequence[str]], folder: Path, name: str, settings: dict[str, Any], at_once: int = 0
) -> list[str]:
    """Submits commands; several become one job array.

    Args:
      commands: arguments of python, such as ["-m", "launch.train", ...].
      folder: gets logs and scripts; all nodes have to see it.
      name: of the job.
      settings: of `launch.slurm.settings.parse`.
      at_once: largest number of an array's jobs that run at the same time; 0 for no limit.

    Returns:
      A job id per command, "71" or "71_3".

    Raises:
      InputError: there is no SLURM here, or it refuses.
    """
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise InputError(
                f"--on=slurm needs {program}, which is not here: call it on a login node of the cluster"
            )
    folder = folder.absolute()
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(
        job_name=name,
        teardown=_after(folder),
        array_parallelism=at_once or len(commands),
        **slurm_settings.sbatch(settings),
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what it raises
            jobs = executor.map_array(become, [str(ROOT)] * len(commands), [list(c) for c in commands])
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        *_, reason = str(error).strip().splitlines() or [type(error).__name__]
        reason = reason.removeprefix("sbatch: error: ")
        raise InputError(f"sbatch refuses ({reason}): correct --slurm=key=value,...") from error
    return [job.job_id for job in jobs]


def log_file(folder: Path, job: str) -> Path:
    """Returns the log of a job's first process."""
    return folder / f"{job}_0_log.out"


def outcome(folder: Path, job: str) -> Outcome | None:
    """Returns how a job ended, None as long as its script has not said so."""
    try:
        status, seconds = map(int, _status_file(folder, job).read_text().split())
    except (OSError, ValueError):
        return None
    return Outcome(status, seconds, last_error(log_file(folder, job)) if status else None)


def vanished(folder: Path, job: str) -> Outcome:
    """Returns the outcome of a job that SLURM no longer knows and whose script said nothing."""
    cure = "it was cancelled, or its node failed; the same command starts it again"
    return Outcome(1, 0, last_error(log_file(folder, job)) or f"job {job} ended without a word: {cure}")


def states() -> dict[str, str] | None:
    """Returns state and reason of this user's jobs, such as {"71_3": "PENDING (Resources)"}; None if SLURM is silent."""
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    if done.returncode:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 2]
    return {job: state if reason in ("None", "") else f"{state} ({reason})" for job, state, reason in rows}


def cancel(jobs: Sequence[str]) -> None:
    """Ends jobs and waits until they are gone: their commands save and stop, and are not queued again."""
    subprocess.run(["scancel", *jobs], capture_output=True, check=False)
    deadline = time.monotonic() + _CANCEL_S
    while time.monotonic() < deadline:
        listed = states()
        if listed is not None and not listed.keys() & set(jobs):
            return
        time.sleep(1)


def last_error(log: Path) -> str | None:
    """Returns the last line of a log that says what went wrong, or, without one, its last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    lines = [line.strip() for line in text.splitlines()]
    own = [line for line in lines if line and not line.startswith(("srun:", "slurmstepd", "submitit "))]
    said = [line.removeprefix("error: ") for line in own if line.startswith("error: ")]
    return (said or own or [None])[-1]


def _status_file(folder: Path, job: str) -> Path:
    return folder / f"{job}.status"


def _after(folder: Path) -> list[str]:
    """The end of the batch script.

    `scancel` kills the script with its job, so that what a user cancelled is not queued again. A job that SLURM itself
    queues again, or ends, is no longer RUNNING.
    """
    return [
        "status=$?",
        # Of an array, SLURM_JOB_ID alone may mean all its tasks.
        "job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
        f'if [ "$status" = {cli.STOPPED} ] || [ "$status" = {_BEFORE_THE_LOOP} ]; then',
        '  if [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ] &&'
        ' scontrol requeue "$job"; then',
        '    exit "$status"',
        "  fi",
        "fi",
        f'file={_quoted(folder)}/"$job.status"',
        'echo "$status $SECONDS" >"$file.partial" && mv "$file.partial" "$file"',
        'exit "$status"',
    ]


def _quoted(folder: Path) -> str:
    return "'" + str(folder).replace("'", "'\\''") + "'"
