"""launch.predict with a network that takes its time and notes its calls.

python -m tests.launch.slow_predict <calls> <pause in s> <s until tiles are kept> <flags of launch.predict>

<calls> is a file that gets a line per batch.
"""

import sys
import time
from pathlib import Path

from celltrack_jax.inference import tile_folder
from launch import cli, predict, segmenter

CALLS, PAUSE_S = Path(sys.argv[1]), float(sys.argv[2])
tile_folder.KEEP_AFTER_S = float(sys.argv[3])
restore = segmenter.restore


def slow(*arguments):
    """Restores a network that is slow."""
    restored = restore(*arguments)

    def apply(image):
        with CALLS.open("a") as file:
            file.write(f"{len(image)}\n")
        time.sleep(PAUSE_S)
        return restored.apply(image)

    return restored._replace(apply=apply)


segmenter.restore = slow
sys.argv[1:4] = []
cli.run(predict.main)
