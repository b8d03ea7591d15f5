"""Tracks as napari's Tracks layer takes them; napari opens no file of tracks without a plugin.

Beside the masks of a result, in its folder:

    tracks = numpy.loadtxt("napari_tracks.csv", delimiter=",", skiprows=1, ndmin=2)
    graph = {int(track): mothers for track, mothers in json.load(open("napari_graph.json")).items()}
    napari.Viewer().add_tracks(tracks, graph=graph)

The columns are track_id, t, (z,) y, x, sorted by track and time: t counts the frames from 0, as a stack of the files
does, and places are in voxels, so that the layer lies on the images without a scale. The graph has an entry
{track: [mother]} for each track with a mother (napari.layers.Tracks, parameters data and graph).
"""

import json
from pathlib import Path

import numpy as np

from celltrack_jax.io import files
from celltrack_jax.lineage import Detections, Lineage

CSV_NAME, GRAPH_NAME = "napari_tracks.csv", "napari_graph.json"
_CHUNK = 1 << 16


def write(
    folder: Path,
    cells: Detections,
    t: np.ndarray,
    lineage: Lineage,
    spacing_um: np.ndarray,
    ndim: int,
    kept: str,
) -> None:
    """Writes both files; each is there whole or as it was before.

    Args:
      folder: the result.
      cells: n, with the track as label.
      t: (n,) integers, the place of each one's frame in the movie.
      lineage: of the tracks.
      spacing_um: (3,) z, y, x, with which the cells were measured.
      ndim: 2 leaves z out, 3 does not.
      kept: as of `files.explained`.

    Raises:
      InputError: they cannot be written.
    """
    order = np.lexsort((t, cells.label))
    voxels = (cells.position_um / spacing_um)[:, 3 - ndim :]
    style = ",".join(["%d", "%d", *["%.9g"] * ndim])
    with files.replacing(folder / CSV_NAME, kept) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(",".join(["track_id", "t", *"zyx"[3 - ndim :]]) + "\n")
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK]
            np.savetxt(file, np.column_stack([cells.label[rows], t[rows], voxels[rows]]), style)
    linked = lineage.parent > 0
    pairs = zip(lineage.label[linked].tolist(), lineage.parent[linked].tolist(), strict=True)
    graph = {str(track): [mother] for track, mother in pairs}
    files.replace_text(folder / GRAPH_NAME, json.dumps(graph) + "\n", kept)
