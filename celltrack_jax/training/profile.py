"""A profiler trace of some steps of a run."""

from pathlib import Path
from typing import Any

import jax


class Profile:
    """Traces the steps first to last; every process writes its own part."""

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        """Starts nothing yet.

        Args:
          folder: of the trace.
          steps: first and last, counted from 1; None for no trace.
        """
        self._folder, self._steps, self._running = folder, steps, False

    def before(self, step: int) -> None:
        """Starts the trace before its first step, or where a resumed run comes in."""
        if self._steps is not None and not self._running and self._steps[0] <= step <= self._steps[1]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def ends(self, step: int) -> bool:
        """Returns whether the trace ends after this step."""
        return self._running and self._steps is not None and step >= self._steps[1]

    def stop(self, metrics: Any = None) -> str:
        """Writes the trace, once the step that made these metrics is done; says where it is."""
        if not self._running:
            return ""
        jax.block_until_ready(metrics)
        jax.profiler.stop_trace()
        self._running = False
        return f"profile: {self._folder} (tensorboard --logdir with the xprof plugin, or xprof, shows it)"
