"""Where a command runs: flags --on, --slurm, --wait, and what they do."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from launch.slurm import jobs, settings

ON = flags.DEFINE_enum("on", "local", ["local", "slurm"], "run here, or as jobs of a SLURM cluster")
SLURM = flags.DEFINE_multi_string(
    "slurm",
    [],
    f"with --on=slurm: key=value,... of {', '.join(settings.KEYS)}; nodes may be a range, setup is a line of shell",
)
WAIT = flags.DEFINE_boolean("wait", True, "with --on=slurm: follow the jobs to their end")
_NAMES = ("on", "slurm", "wait")
_LOOK_S = 1.0
"""Between two looks at the files that jobs leave."""
_ASK_S = 10.0
"""Between two questions to SLURM, whose controller serves everybody."""
_SILENT_S = 30.0
"""A job that SLURM no longer lists had so long to write its status to a disk that this machine sees late."""


def slurm_settings() -> dict[str, Any] | None:
    """Returns the settings of --slurm, or None for --on=local.

    Raises:
      flags.ValidationError: they are wrong, or given without --on=slurm.
    """
    if ON.value == "slurm":
        return settings.parse(SLURM.value or [])
    if SLURM.value or not WAIT.value:
        raise flags.ValidationError("--slurm and --wait go with --on=slurm")
    return None


def same_command(name: str, arguments: Sequence[str]) -> list[str]:
    """Returns python's arguments for `launch.<name>` with these flags, without those of this module."""
    kept: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        flag, equals, _ = word.lstrip("-").partition("=")
        if not word.startswith("-") or flag.removeprefix("no") not in _NAMES:
            kept.append(word)
        elif not equals and flag in ("on", "slurm"):
            left.pop(0)  # its value is a word of its own
    return ["-m", f"launch.{name}", *kept]


def submit_this(name: str, workdir: Path, slurm: dict[str, Any]) -> int:
    """Submits the command that this process was called with, and follows it.

    Args:
      name: of the main.
      workdir: its logs go to <workdir>/slurm.
      slurm: of `slurm_settings`.

    Returns:
      The exit status of the job, 0 where it is not waited for.

    Raises:
      InputError: it cannot be submitted.
    """
    folder = workdir / "slurm"
    (job,) = jobs.submit([same_command(name, sys.argv[1:])], folder, f"{name} {workdir.name}", slurm)
    log = jobs.log_file(folder.absolute(), job)
    print(f"job {job}, log {log}", flush=True)
    if not WAIT.value:
        return 0
    ended: dict[str, jobs.Outcome] = {}
    try:
        follow(folder, [job], lambda _, state: print(f"job {job}: {state}", flush=True), ended.__setitem__)
    except KeyboardInterrupt:
        print(f"\njob {job} goes on: scancel {job} ends it, tail -f {log} shows it", file=sys.stderr)
        return 130
    if ended[job].error:
        print(f"error: job {job}: {ended[job].error} (log {log})", file=sys.stderr)
    return ended[job].status


def follow(
    folder: Path,
    waiting: Sequence[str],
    on_state: Callable[[str, str], None],
    on_end: Callable[[str, jobs.Outcome], None],
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Waits until all jobs have ended, or until it is asked to stop.

    Args:
      folder: of the jobs' logs.
      waiting: job ids.
      on_state: called with a job and its state where SLURM tells a new one.
      on_end: called with a job and how it ended.
      asked_to_stop: polled.
    """
    left = dict.fromkeys(waiting, "")
    missing_since: dict[str, float] = {}
    asked = -_ASK_S
    while left and not asked_to_stop():
        for job in list(left):
            outcome = jobs.outcome(folder, job)
            if outcome is not None:
                del left[job]
                on_end(job, outcome)
        now = time.monotonic()
        if left and now - asked >= _ASK_S:
            asked, listed = now, jobs.states()
            if listed is not None:
                _compare(left, listed, on_state)
                for job in _lost(left, listed, missing_since, now):
                    del left[job]
                    on_end(job, jobs.outcome(folder, job) or jobs.vanished(folder, job))
        if left:
            time.sleep(_LOOK_S)


def _compare(left: dict[str, str], listed: Mapping[str, str], on_state: Callable[[str, str], None]) -> None:
    for job, known in left.items():
        state = listed.get(job, known)
        if state != known:
            left[job] = state
            on_state(job, state)


def _lost(
    left: Mapping[str, str], listed: Mapping[str, str], missing_since: dict[str, float], now: float
) -> list[str]:
    """Returns jobs that SLURM has not listed for so long that nothing more is to come of them."""
    for job in left:
        if job in listed:
            missing_since.pop(job, None)
        else:
            missing_since.setdefault(job, now)
    return [job for job in left if now - missing_since.get(job, now) >= _SILENT_S]
