"""The whole chain on one page: a movie in, scored tracks out.

    python -m launch.demo                                     # an embedded synthetic movie
    python -m launch.demo --data=Fluo-N2DH-SIM+               # a CTC data set with ground truth

Trains on one movie for a few minutes, then segments, tracks and scores frames that the network never saw: the
data set's last annotated sequence, or, where it has but one, the last quarter of its frames. Writes
<output>/scores.json and <output>/report.html, and all else into <output>/<data set>. A second call continues where the
first stopped.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags

from celltrack_jax.data import synthetic
from celltrack_jax.errors import InputError
from celltrack_jax.io import ctc
from celltrack_jax.io.ctc_subset import link_frames
from celltrack_jax.report import page
from celltrack_jax.report.viewer import Annotation
from celltrack_jax.training import checkpoint, progress
from launch import cli

_DATA = flags.DEFINE_string("data", None, "CTC data set folder with ground truth; default: a synthetic movie")
_OUTPUT = flags.DEFINE_string("output", "runs/demo", "folder of everything that is made")
_CONFIG = flags.DEFINE_string(
    "config", None, "experiment; default: configs/ctc/segment.py:demo, :demo3d for stacks"
)
_STEPS = flags.DEFINE_integer("steps", None, "training steps; default: the config's", lower_bound=1)

SYNTHETIC = synthetic.SyntheticSpec(frames=40, shape=(384, 384), cells=45)
TARGETS = {"SEG": 0.85, "TRA": 0.97}
"""What the embedded movie has to reach."""
HELD_OUT_SHARE = 0.25
"""Last part of a single sequence that is scored and not trained on."""


class Split(NamedTuple):
    """What is trained on and what is scored."""

    train: Path
    """Data set folder of which all sequences are trained on."""
    scored: Path
    """Image folder, with its truth beside it as <folder>_GT."""
    sentence: str
    """For the page."""


def main(argv: Sequence[str]) -> int:
    """Runs the chain."""
    del argv
    start = time.perf_counter()
    output = Path(_OUTPUT.value or "")
    name = Path(_DATA.value).resolve().name if _DATA.value else "synthetic"
    work = output / name
    split = split_data(Path(_DATA.value), work / "data") if _DATA.value else make_data(work / "data")
    config = _CONFIG.value or f"configs/ctc/segment.py:{'demo3d' if _is_3d(split.scored) else 'demo'}"

    store, workdir = work / "store", work / "run"
    result, scores = work / f"{split.scored.name}_RES", output / "scores.json"
    call("prepare", f"--source={split.train}", f"--store={store}")
    steps = [f"--config.train.steps={_STEPS.value}"] if _STEPS.value else []
    call("train", f"--config={config}", f"--workdir={workdir}", f"--config.data.store={store}", *steps)
    call(
        "predict",
        f"--segmenter={workdir}",
        f"--images={split.scored}",
        f"--output={result}",
        "--linker=hungarian",
    )
    truth = split.scored.with_name(split.scored.name + "_GT")
    call("evaluate", f"--truth={truth}", f"--result={result}", f"--json={scores}")
    minutes = (time.perf_counter() - start) / 60
    write_report(
        output / "report.html", name, split, workdir, result, json.loads(scores.read_text()), minutes
    )
    print(f"done in {minutes:.1f} min: {scores} and {output / 'report.html'}")
    return 0


def make_data(folder: Path) -> Split:
    """Simulates two movies; the network sees one of them."""
    for seed, name in enumerate(("01", "02"), start=1):
        for part, kept in ((folder / "train", "01"), (folder / "scored", "02")):
            if name == kept and not (part / f"{name}_GT" / "TRA" / "man_track.txt").exists():
                print(f"simulating movie {name}", flush=True)
                synthetic.write_ctc(part, name, synthetic.make_movie(SYNTHETIC, seed))
    sentence = "Trained on one synthetic movie, scored on another that the network never saw."
    return Split(folder / "train", folder / "scored" / "02", sentence)


def split_data(dataset: Path, folder: Path) -> Split:
    """Divides a data set into what is trained on and what is scored, by links to its files.

    Raises:
      InputError: the folder holds no sequence with tracking truth.
    """
    names = [
        name for name in ctc.find_sequences(dataset) if ctc.open_sequence(dataset, name).tracks is not None
    ]
    if not names:
        raise InputError(
            f"{dataset} holds no CTC sequence with ground truth: expected folders like 01 (t000.tif, ...) and "
            "01_GT/TRA (man_track.txt, man_track000.tif, ...)"
        )
    *trained, scored = names
    every = {name: sorted(ctc.open_sequence(dataset, name).images) for name in names}
    if trained:
        for name in trained:
            link_frames(dataset, name, every[name][0], every[name][-1], folder / "train")
        link_frames(dataset, scored, every[scored][0], every[scored][-1], folder / "scored")
        sentence = f"Trained on {', '.join(trained)} of {dataset.name}, scored on {scored}."
        return Split(folder / "train", folder / "scored" / scored, sentence)
    frames = every[scored]
    first = frames[round(len(frames) * (1 - HELD_OUT_SHARE))] if len(frames) > 1 else frames[0]
    if first == frames[0]:
        raise InputError(
            f"{dataset / scored} has {len(frames)} frame: too few to train on some and score others"
        )
    last_trained = frames[frames.index(first) - 1]
    link_frames(dataset, scored, frames[0], last_trained, folder / "train")
    link_frames(dataset, scored, first, frames[-1], folder / "scored")
    sentence = (
        f"Trained on frames {frames[0]} to {last_trained} of {dataset.name}/{scored}, scored on frames {first} to "
        f"{frames[-1]} of the same movie: a movie of another day would be a harder test."
    )
    return Split(folder / "train", folder / "scored" / scored, sentence)


def call(name: str, *arguments: str) -> None:
    """Shows and runs one of the mains, as anyone would type it; ends with its exit status when it fails."""
    print(f"\n$ python -m launch.{name} {shlex.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, "-m", f"launch.{name}", *arguments], check=False).returncode
    if status:
        raise SystemExit(status)


def write_report(
    path: Path, name: str, split: Split, workdir: Path, result: Path, scores: dict[str, Any], minutes: float
) -> None:
    """Writes the page of the scored movie."""
    sequence = ctc.open_sequence(split.scored.parent, split.scored.name)
    masks, lineage = ctc.read_result(result)
    assert lineage is not None, "launch.predict writes a track file"
    config = checkpoint.load_config(workdir)
    history = progress.read_history(workdir)
    facts = {
        "Data": split.sentence,
        "Network": f"{config.model.name}, {config.representation.name}, {config.train.steps} steps",
        "Device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "Time": f"{minutes:.1f} min",
    }
    page.write_page(
        path,
        title=f"celltrack-jax: {name} {split.scored.name}",
        frames=sorted(masks),
        image=lambda frame: ctc.read_image(sequence.images[frame]),
        result=Annotation(lambda frame: ctc.read_image(masks[frame]), lineage),
        truth=None
        if sequence.tracks is None
        else Annotation(
            lambda frame: ctc.read_image(sequence.markers[frame]) if frame in sequence.markers else None,
            sequence.tracks,
        ),
        facts=facts,
        scores=scores,
        targets={} if _DATA.value else TARGETS,
        history=history,
        config=config.to_dict(),
    )


def _is_3d(images: Path) -> bool:
    first = min(ctc.frame_files(images, "t").items())[1]
    return ctc.read_image(first).ndim == 3


if __name__ == "__main__":
    cli.run(main)
