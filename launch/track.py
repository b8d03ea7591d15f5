"""Links the cells of masks that exist already, and writes a CTC result.

    python -m launch.track --masks=<folder of mask tifs> --output=01_RES

Masks are mask*.tif, man_track*.tif, man_seg*.tif or t*.tif with one id per cell; ids may change from frame to
frame. The result has mask*.tif and res_track.txt as the Cell Tracking Challenge wants them, and beside them

    tracks.geff            the graph of cells and links, with the probabilities of links where a network gave them
    tracks.csv             a row per cell and frame; celltrack_jax/io/track_table.py describes the columns
    napari_tracks.csv      and napari_graph.json, for a Tracks layer: celltrack_jax/io/napari_tracks.py has the lines
    links.npz              what the network thought of candidate links, which launch.report draws
    sisters.csv            with --sisters: pairs of tracks; celltrack_jax/io/sister_table.py describes the columns
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from celltrack_jax.errors import InputError
from celltrack_jax.inference import movies, track
from celltrack_jax.io import ctc
from celltrack_jax.tracking import links
from celltrack_jax.tracking.sisters import KINETOCHORES
from launch import cli, linking

flags.adopt_module_key_flags(linking)
MASKS = flags.DEFINE_string("masks", None, "folder of label masks, one tif per frame")
PAIRED = flags.DEFINE_boolean(
    "sisters", False, "pair tracks that stay apart as sister kinetochores do, in µm"
)
flags.mark_flags_as_required(["masks", "output"])

STEMS = ("mask", "man_track", "man_seg", "t")


def main(_: Sequence[str]) -> int:
    """Links and writes; the exit status."""
    folder, output = Path(str(MASKS.value)), Path(str(linking.OUTPUT.value))
    linking.check_linker()
    linking.refuse_steps("masks have none: give it to launch.predict, or take another linker")
    masks, shape = open_masks(folder)
    linking.check_output(output, folder)
    images = None
    if linking.IMAGES.value:
        movie = movies.open_movie(Path(linking.IMAGES.value))
        images = movie.path
        masks = masks._replace(spacing_um=movie.spacing_um, spacing_known=movie.spacing_known)
        masks = masks._replace(image=movies.images_of_masks(movie, masks.frames, shape))
    if PAIRED.value and linking.SPACING.value is None and not masks.spacing_known:
        raise InputError(
            f"--sisters pairs by distances in µm, and {images or folder} has no voxel size: give --spacing"
        )
    planes = shape[0] if len(shape) == 3 else 1
    spacing, known = linking.spacing(masks.spacing_um, masks.spacing_known, planes, images or folder)
    masks = masks._replace(spacing_um=spacing, spacing_known=known)
    linker = linking.linker(links.HUNGARIAN, "launch.track")
    model = KINETOCHORES if PAIRED.value else None
    lineage = track.track_movie(masks, linker, linking.drawing(), output, images, linking.watch, model)
    print(linking.summary(output, len(masks.frames), lineage))
    return 0


def open_masks(folder: Path) -> tuple[track.Masks, tuple[int, ...]]:
    """Opens a folder of masks.

    Returns:
      The masks, and the shape of each, (Y, X) or (Z, Y, X).

    Raises:
      InputError: it has none, or frame numbers are missing.
    """
    found = {stem: ctc.frame_files(folder, stem) for stem in STEMS}
    files = next((files for files in found.values() if files), {})
    if not files:
        names = ", ".join(f"{stem}000.tif" for stem in STEMS)
        raise InputError(f"{folder} has no masks: name them like one of {names}")
    allow_gaps = bool(linking.ALLOW_GAPS.value)
    frames = movies.chosen_frames(list(files), str(linking.FRAMES.value), allow_gaps, folder)
    shape = ctc.read_image(files[frames[0]]).shape

    def read(frame: int) -> np.ndarray:
        labels = ctc.read_image(files[frame])
        if labels.shape != shape:
            raise InputError(
                f"{files[frame]} (frame {frame}) has shape {labels.shape}, {files[frames[0]].name} has {shape}: "
                "all masks of a movie need the same"
            )
        if labels.dtype.kind not in "iu" or (labels.dtype.kind == "i" and labels.min(initial=0) < 0):
            raise InputError(
                f"{files[frame]} (frame {frame}) holds {labels.dtype} values that are no labels: "
                "write 0, 1, 2, ... as integers"
            )
        return labels

    digits = max(sum(letter.isdigit() for letter in file.stem) for file in files.values())
    return track.Masks(frames, read, np.ones(3), False, digits), shape


if __name__ == "__main__":
    cli.run(main)
