"""What a run tells: JSON lines, TensorBoard events, and a progress bar on a terminal."""

import json
import math
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from celltrack_jax.io import files
from celltrack_jax.training.hardware import device_peak
from celltrack_jax.training.peers import Peer

METRICS_FILE = "metrics.jsonl"
_HOSTS = 8
"""Processes that a line of the log names."""
_KEPT = "then run the same command to continue, or choose another --workdir"


def read_history(workdir: Path) -> list[dict[str, Any]]:
    """Returns the rows of `metrics.jsonl`; a last line that a crash cut short is left out."""
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class RunLog:
    """Writes rows of one run; opened by process 0 only, a no-op elsewhere."""

    def __init__(self, workdir: Path, total_steps: int, start_step: int):
        """Opens the log of a run that starts or resumes.

        Args:
          workdir: the run's folder.
          total_steps: the run's length.
          start_step: steps already done; rows beyond it, from before a crash, are dropped.
        """
        self.workdir = workdir
        self._active = jax.process_index() == 0
        self._terminal = self._active and sys.stderr.isatty()
        self._total = total_steps
        kept = [row for row in read_history(workdir) if row["step"] <= start_step]
        self.evaluated = {row["step"] for row in kept if row["kind"] == "eval"}
        """Steps whose evaluation is in the log already; the same on every process."""
        if not self._active:
            return
        self._path = workdir / METRICS_FILE
        files.replace_text(self._path, "".join(json.dumps(row) + "\n" for row in kept), _KEPT)
        with files.explained(self._path, _KEPT):
            self._file = self._path.open("a", buffering=1)
            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), disable=not self._terminal)
        self._task = self._bar.add_task("training", total=total_steps, completed=start_step, note="")
        self._bar.start()

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self._active:
            self._bar.update(self._task, completed=step)

    def write(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        """Writes one row.

        Args:
          kind: "train" or "eval".
          step: steps done.
          values: scalars; None and non-finite ones become null.
        """
        if not self._active:
            return
        clean = {key: _finite(value) for key, value in values.items()}
        with files.explained(self._path, _KEPT):
            self._file.write(json.dumps({"step": step, "kind": kind, **clean}) + "\n")
            for key, value in clean.items():
                if value is not None:
                    self._events.add_scalar(f"{kind}/{key}", value, step)
        shown = "  ".join(f"{key} {value:.4g}" for key, value in clean.items() if value is not None)
        if not self._terminal:
            print(f"{kind} {step}/{self._total}  {shown}", flush=True)
        elif kind == "eval":
            self._bar.console.print(f"eval {step}  {shown}")
        else:
            self._bar.update(self._task, note=f"loss {clean.get('loss') or math.nan:.4g}")

    def say(self, text: str) -> None:
        """Prints a line."""
        if self._active:
            self._bar.console.print(text, highlight=False) if self._terminal else print(text, flush=True)

    def warn(self, text: str) -> None:
        """Prints a warning, from whatever process: only this one knows."""
        if jax.process_count() > 1:
            text = f"{text} (process {jax.process_index()} on {socket.gethostname()})"
        if self._active:
            self.say(f"warning: {text}")
        else:
            print(f"warning: {text}", flush=True)

    def hosts(self, everyone: Sequence[Peer]) -> None:
        """Prints where each process of the run is; of many, those that wait most for input."""
        waiting = sorted(everyone, key=lambda peer: -peer.says.get("input_wait", 0.0))[:_HOSTS]
        shown = [_one_host(peer) for peer in sorted(waiting)]
        left_out = len(everyone) - len(shown)
        if left_out:
            shown.append(f"{left_out} more that wait less for input")
        if not self._terminal:
            self.say("hosts  " + "   ".join(shown))

    def close(self) -> None:
        """Flushes and closes everything."""
        if self._active:
            self._bar.stop()
            with files.explained(self._path, _KEPT):
                self._file.close()
                self._events.close()


class StepClock:
    """Measures steps between two log lines: throughput, share of input wait, MFU."""

    def __init__(self, batch_size: int, flops: float, bytes_moved: float):
        """Starts the clock.

        Args:
          batch_size: samples of a global batch.
          flops: of one step on one device, as the compiler counts them.
          bytes_moved: of one step on one device, likewise.
        """
        self._batch, self._flops, self._bytes = batch_size, flops, bytes_moved
        self._peak = device_peak(jax.local_devices()[0])
        self.restart()

    def restart(self) -> None:
        """Forgets what was measured; call after an evaluation or a save."""
        self._start, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def count(self, waited_s: float) -> None:
        """Counts a step that waited this long for its batch."""
        self._waited += waited_s
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Returns seconds per step, samples/s, input wait share, FLOP/s, MFU and roofline share, and restarts."""
        elapsed = time.perf_counter() - self._start
        step_s = elapsed / max(self._steps, 1)
        rates = {
            "step_s": step_s,
            "samples_per_s": self._batch / step_s,
            "input_wait": self._waited / elapsed,
            "tflops_per_s": self._flops / step_s / 1e12,
        }
        if self._peak is not None:
            floor_s = max(self._flops / self._peak.flops, self._bytes / self._peak.bytes)
            rates["mfu"] = self._flops / step_s / self._peak.flops
            rates["roofline"] = floor_s / step_s
        self.restart()
        return rates


def _one_host(peer: Peer) -> str:
    says = peer.says
    where = f"step {says['step']} wait {says['input_wait']:.0%}" if "step" in says else "no step yet"
    return f"{peer.process}@{peer.host} {where} {peer.silent_s:.0f} s ago"


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)
