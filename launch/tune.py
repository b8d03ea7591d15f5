"""Tunes how the output of a trained network becomes cells: thresholds of each class, or those of flows.

    python -m launch.tune --workdir=runs/mask_rcnn
    python -m launch.tune --workdir=runs/cellpose --values=representation.flow_threshold=0.2,0.4,0.8

The network of one checkpoint is applied once to the held-out images; settings are then searched one after the other for
the largest mAP, those of a class on the images of that category. The images are halved: what is reported of each half
was tuned on the other. The settings to take, tuned on both, are printed as flags, which launch.evaluate, .predict,
.compare and .train take, and are in <workdir>/tuned.json with all that was measured.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import cli, json_file, judging, local, overrides

flags.adopt_module_key_flags(json_file)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of a launch.train run")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest or a step")
MOST = flags.DEFINE_integer(
    "most", 8, "images of each category in each half that are tuned on; all are judged", lower_bound=1
)
VALUES = flags.DEFINE_multi_string(
    "values", [], "key=value,...: tried for this setting, instead of the usual ones"
)


def main(_: Sequence[str]) -> int:
    """Tunes, writes and prints; the exit status."""
    if not WORKDIR.value:
        raise flags.ValidationError("--workdir=<folder of a launch.train run> is needed")
    values = read_values(VALUES.value or [])
    run = judging.open_run("", Path(WORKDIR.value))
    with local.told_to_stop() as stop:
        done = judging.tune(run, str(CHECKPOINT.value), stop, most=int(MOST.value or 1), values=values)
        if done is None:
            print("stopped; nothing is written", flush=True)
            return cli.STOPPED
    told, _found = done
    print("\n".join(judging.lines(told)))
    print(Path(WORKDIR.value) / judging.TUNED, flush=True)
    json_file.write(told)
    return 0


def read_values(words: Sequence[str]) -> dict[str, list[float]]:
    """Reads key=value,... of several settings.

    Raises:
      flags.ValidationError: a word is something else.
    """
    found = {}
    for word in words:
        key, equals, values = word.partition("=")
        try:
            found[key] = [float(value) for value in values.split(",")]
        except ValueError:
            equals = ""
        if not equals:
            raise flags.ValidationError(
                f"--values={word}: give key=number,... such as representation.min_size=5,15,30"
            )
    return found


if __name__ == "__main__":
    overrides.define(sys.argv)
    cli.run(main)
