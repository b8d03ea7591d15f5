"""launch.predict with a network that takes its time and notes its calls, in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT


class Run:
    """A run of launch.predict into <movie>_RES, one tile of 56 x 56 pixels after the other."""

    def __init__(self, flat: Path, movie: Path, *flags: str, pause_s: float = 0.08):
        """Starts it; `pause_s` is waited before each tile."""
        self.output = Path(f"{movie}_RES")
        self.calls = movie.parent / "calls"
        self.calls.write_text("")
        self.flags = (f"--segmenter={flat}", f"--images={movie}", "--tile=56,56", "--average=none")
        command = [sys.executable, "-m", "tests.launch.slow_predict", str(self.calls), str(pause_s)]
        self.process = subprocess.Popen(
            [*command, *self.flags, f"--output={self.output}", "--batch=1", *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kept(self, frame: int) -> list[Path]:
        """Lists the tiles of a frame that are kept."""
        return sorted((Path(f"{self.output}.segmentation") / "tiles" / str(frame)).glob("*.f32"))

    def masks(self) -> set[str]:
        """Lists the masks that are there."""
        return {path.name for path in Path(f"{self.output}.segmentation").glob("*.tif")}

    def wait_for_tiles(self, frame: int, count: int) -> None:
        """Waits until so many tiles of a frame are kept."""
        deadline = time.monotonic() + 150
        while len(self.kept(frame)) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        """Sends a signal, if any, and returns exit status, stdout and stderr."""
        if number is not None:
            os.kill(self.process.pid, number)
        try:
            out, err = self.process.communicate(timeout=150)
        finally:
            self.process.kill()
        return self.process.returncode, out, err


def content(folder: Path) -> dict[str, bytes]:
    """Returns all files of a result."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _main() -> None:
    from celltrack_jax.inference import tile_folder
    from launch import cli, predict, segmenter

    calls, pause_s, restore = Path(sys.argv[1]), float(sys.argv[2]), segmenter.restore
    sys.argv[1:3] = []
    tile_folder.KEEP_AFTER_S = 0

    def slow(*arguments):
        restored = restore(*arguments)

        def apply(image):
            with calls.open("a") as file:
                file.write(f"{len(image)}\n")
            time.sleep(pause_s)
            return restored.apply(image)

        return restored._replace(apply=apply)

    segmenter.restore = slow
    cli.run(predict.main)


if __name__ == "__main__":
    _main()
