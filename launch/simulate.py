"""Simulates movies with complete truth, to try things on.

    python -m launch.simulate --kind=nuclei --output=<folder> [--seed=0] [--frames=..] [--sequences=..]
    python -m launch.simulate --kind=bursts --output=<folder> ...
    python -m launch.simulate --kind=bright_field --output=<folder> --frames=1376 --shape=1036,1070
    python -m launch.simulate --kind=kinetochores --output=<folder> [--label_noise=0.02]
    python -m launch.simulate --kind=sartorius --output=<folder> [--frames=..] [--sequences=..] [--shape=520,704]
    python -m launch.simulate --kind=livecell --output=<folder> ...

`nuclei` is a CTC data set (01, 01_GT, ...) with masks, `nuclei3d` one of stacks with voxels of 1 x 0.5 x 0.5 µm; `bursts`
are <folder>/train and <folder>/test with boxes alone, where a third of the sequences, or one of two, is the test split;
`bright_field` is a CTC data set of muscle stem cells, by default a quarter of the size of BF-C2DL-MuSC's frames, which
has gold outlines in few frames and silver ones in all; `kinetochores` are 3D movies of two channels in HDF5 with centres
of mass in a table, split as bursts. `sartorius` and `livecell` are single images of cell types in phase contrast, in the
files of these data sets; a sequence is a type, of 3 and 8, a frame an image of it, and there are half as many more images
without annotation of each type of Sartorius. All are read by launch.prepare.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from celltrack_jax.data import synthetic
from celltrack_jax.data.synthetic import bright_field, bursts, cultures, kinetochores
from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from launch import cli


class Kind(NamedTuple):
    """What can be simulated."""

    sequences: int
    """Unless --sequences says otherwise."""
    frames: int
    write: Callable[[Path, int, int, int], None]
    """Takes folder, sequences, frames, seed."""


STACKS = synthetic.SyntheticSpec(
    shape=(24, 128, 128),
    spacing_um=(1.0, 0.5, 0.5),
    psf_um=(1.2, 0.4, 0.4),
    cells=45,
    radius_um=4.0,
    separation=0.85,
)


def _nuclei(folder: Path, sequences: int, frames: int, seed: int) -> None:
    _write_nuclei(folder, sequences, seed, synthetic.SyntheticSpec(frames=frames))


def _nuclei3d(folder: Path, sequences: int, frames: int, seed: int) -> None:
    _write_nuclei(folder, sequences, seed, replace(STACKS, frames=frames))


def _write_nuclei(folder: Path, sequences: int, seed: int, spec: synthetic.SyntheticSpec) -> None:
    states = np.random.SeedSequence(seed).generate_state(sequences)
    for number, state in enumerate(states.tolist(), 1):
        synthetic.write_ctc(folder, f"{number:02d}", synthetic.make_movie(spec, state))


def _bursts(folder: Path, sequences: int, frames: int, seed: int) -> None:
    test = max(sequences // 3, int(sequences > 1))
    bursts.write_bursts(folder, train=sequences - test, test=test, frames=frames, seed=seed)


def _kinetochores(folder: Path, sequences: int, frames: int, seed: int) -> None:
    test, noise = max(sequences // 3, int(sequences > 1)), _LABEL_NOISE.value
    spec = kinetochores.KinetochoreSpec(frames=frames, drop=noise, shift=noise)
    kinetochores.write_movies(folder, train=sequences - test, test=test, spec=spec, seed=seed)


def _bright_field(folder: Path, sequences: int, frames: int, seed: int) -> None:
    shape = _shape(_SHAPE.value or ["520", "540"])
    bright_field.write_bright_field(folder, sequences=sequences, frames=frames, shape=shape, seed=seed)


def _sartorius(folder: Path, sequences: int, frames: int, seed: int) -> None:
    _refuse_more(sequences, list(cultures.SARTORIUS))
    shape = _shape(_SHAPE.value or ["520", "704"])
    cultures.write_sartorius(folder, types=sequences, images=frames, shape=shape, seed=seed)


def _livecell(folder: Path, sequences: int, frames: int, seed: int) -> None:
    _refuse_more(sequences, list(cultures.LIVECELL))
    shape = _shape(_SHAPE.value or ["520", "704"])
    cultures.write_livecell(folder, types=sequences, images=frames, shape=shape, seed=seed)


def _refuse_more(sequences: int, types: list[str]) -> None:
    if sequences > len(types):
        raise flags.ValidationError(
            f"--sequences={sequences}: there are {len(types)} cell types, {', '.join(types)}"
        )


def _shape(sizes: Sequence[str]) -> tuple[int, int]:
    if len(sizes) != 2 or not all(size.isdecimal() and int(size) > 95 for size in sizes):
        raise flags.ValidationError(f"--shape={','.join(sizes)}: give Y,X in pixels, each at least 96")
    return int(sizes[0]), int(sizes[1])


KINDS = {
    "nuclei": Kind(2, 30, _nuclei),
    "nuclei3d": Kind(2, 12, _nuclei3d),
    "bursts": Kind(6, 20, _bursts),
    "bright_field": Kind(2, 60, _bright_field),
    "kinetochores": Kind(6, 18, _kinetochores),
    "sartorius": Kind(3, 20, _sartorius),
    "livecell": Kind(8, 20, _livecell),
}

_KIND = flags.DEFINE_enum("kind", None, list(KINDS), "what is simulated", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "folder of the data set, new or empty", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "of all randomness", lower_bound=0)
_FRAMES = flags.DEFINE_integer("frames", None, "of each sequence; default: the kind's", lower_bound=1)
_SEQUENCES = flags.DEFINE_integer("sequences", None, "how many; default: the kind's", lower_bound=1)
_LABEL_NOISE = flags.DEFINE_float(
    "label_noise",
    0.0,
    "share of the kinetochores to train on that have no label, and share whose label lies aside",
    lower_bound=0.0,
    upper_bound=0.5,
)
_SHAPE = flags.DEFINE_list(
    "shape", None, "Y,X of single images and of bright_field in pixels; default: the kind's"
)


def main(argv: Sequence[str]) -> None:
    """Simulates, and prints one line about it."""
    del argv
    kind, folder = KINDS[str(_KIND.value)], Path(str(_OUTPUT.value))
    if _LABEL_NOISE.value and kind.write is not _kinetochores:
        raise flags.ValidationError("--label_noise goes with --kind=kinetochores")
    if _SHAPE.value:
        if kind.write not in (_bright_field, _sartorius, _livecell):
            raise flags.ValidationError("--shape goes with --kind=bright_field, sartorius or livecell")
        _shape(_SHAPE.value)
    sequences, frames = _SEQUENCES.value or kind.sequences, _FRAMES.value or kind.frames
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and not empty: give a new or an empty folder as --output")
    start = time.monotonic()
    with files.explained(folder, "or give another folder as --output"):
        kind.write(folder, sequences, frames, int(_SEED.value or 0))
    print(
        f"{folder}: {sequences} sequences of {frames} frames, seed {_SEED.value}, {time.monotonic() - start:.1f} s"
    )


if __name__ == "__main__":
    cli.run(main)
