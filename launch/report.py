"""Puts a result on one page: the movie with outlines and links, lineage trees, scores.

    python -m launch.report --images=Fluo-N2DH-SIM+/02 --result=02_RES --output=report.html

Of a trained linker it also shows what the network thought of each link, from links.npz in the result folder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from celltrack_jax.errors import InputError
from celltrack_jax.inference import movies
from celltrack_jax.io import ctc, link_scores
from celltrack_jax.report import page
from celltrack_jax.report.viewer import Annotation
from launch import cli

IMAGES = flags.DEFINE_string("images", None, "folder of t*.tif, or an OME-Zarr image")
RESULT = flags.DEFINE_string("result", None, "result folder (01_RES): mask*.tif and res_track.txt")
TRUTH = flags.DEFINE_string("truth", None, "annotation folder (01_GT) whose TRA is compared with")
SCORES = flags.DEFINE_string("scores", None, "JSON file of launch.evaluate")
OUTPUT = flags.DEFINE_string("output", "report.html", "page to write")
flags.mark_flags_as_required(["images", "result"])


def main(_: Sequence[str]) -> int:
    """Writes the page; the exit status."""
    folder, output = Path(str(RESULT.value)), Path(str(OUTPUT.value))
    result, frames = open_result(folder)
    truth = open_truth(Path(TRUTH.value)) if TRUTH.value else None
    movie = movies.open_movie(Path(str(IMAGES.value)))
    links = folder / link_scores.NAME
    shape = result.masks(frames[0]).shape
    page.write_page(
        output,
        title=f"celltrack-jax: {folder.name}",
        frames=frames,
        image=movies.images_of_masks(movie, frames, shape),
        result=result,
        truth=truth,
        links=link_scores.read(links) if links.is_file() else None,
        facts={"Images": movie.path, "Result": folder} | ({"Truth": TRUTH.value} if truth else {}),
        scores=_read_scores(Path(SCORES.value)) if SCORES.value else None,
    )
    print(f"{output}: {len(frames)} frames, {len(result.lineage.label)} tracks")
    return 0


def open_result(folder: Path) -> tuple[Annotation, list[int]]:
    """Opens a result; returns it and its frame numbers.

    Raises:
      InputError: it has no masks or no track file.
    """
    masks, lineage = ctc.read_result(folder)
    if not masks or lineage is None:
        raise InputError(
            f"{folder} has no {'res_track.txt' if masks else 'mask000.tif'}: give a folder that launch.predict or "
            "launch.track wrote"
        )
    return Annotation(lambda frame: ctc.read_image(masks[frame]), lineage), list(masks)


def open_truth(folder: Path) -> Annotation:
    """Opens the markers and tracks of an annotation folder.

    Raises:
      InputError: it has none.
    """
    tracks = folder / "TRA" / "man_track.txt"
    if not tracks.is_file():
        raise InputError(f"{folder} has no TRA/man_track.txt: give a _GT folder that holds tracks")
    markers = ctc.frame_files(folder / "TRA", "man_track")
    return Annotation(
        lambda frame: ctc.read_image(markers[frame]) if frame in markers else None, ctc.read_tracks(tracks)
    )


def _read_scores(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; write it by launch.evaluate --json") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no scores of one result: write it by launch.evaluate --truth --json")
    return found


if __name__ == "__main__":
    cli.run(main)
