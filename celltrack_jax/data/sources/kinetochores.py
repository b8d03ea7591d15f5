"""Movies of kinetochores (`io.kinetochores`): <movie>/<channel>/t000.h5, <movie>/centres.csv."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from celltrack_jax.data.annotation import Points
from celltrack_jax.data.sources.source import COMPLETE, Frame, Source, refuse, unbranched
from celltrack_jax.errors import InputError
from celltrack_jax.io import ctc_rules, kinetochores, volumes


def find(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Lists the movies."""
    names = kinetochores.find_movies(dataset)
    channels = {name: list(kinetochores.find_channels(dataset / name)) for name in names}
    other = next((name for name in names if channels[name] != channels[names[0]]), None)
    if other is not None:
        raise InputError(
            f"{dataset / other} has the channels {', '.join(channels[other])}, {names[0]} has "
            f"{', '.join(channels[names[0]])}: name the folders alike, for their order is that of the network's inputs"
        )
    return names, lambda name: _open(dataset / name, allow_gaps)


def _open(folder: Path, allow_gaps: bool) -> Source:
    movie = kinetochores.open_movie(folder)
    first, files = next(iter(movie.channels.items()))
    if not allow_gaps:
        refuse(ctc_rules.check_frames(folder / first, "t", files), COMPLETE)

    def read(frame: int) -> Frame:
        channels = {name: volumes.read_volume(paths[frame], frame) for name, paths in movie.channels.items()}
        for name, volume in channels.items():
            if volume.shape != channels[first].shape or volume.dtype != channels[first].dtype:
                raise InputError(
                    f"{movie.channels[name][frame]} (frame {frame}) is {volume.shape} {volume.dtype}, {first} is "
                    f"{channels[first].shape} {channels[first].dtype}: channels have to be alike; export them again"
                )
        here = movie.cells.frame == frame
        image = np.stack(list(channels.values()))
        points = Points(*(column[here] for column in movie.cells[1:])) if here.any() else None
        return Frame(image, {}, None, points)

    without = sorted(files.keys() - set(movie.cells.frame.tolist()))
    unknown = [
        f"{movie.table} has no row of time points {', '.join(map(str, without))}: they are taken for not annotated"
    ]
    return Source(
        name=folder.name,
        files={frame: tuple(paths[frame] for paths in movie.channels.values()) for frame in files},
        tracks_file=movie.table,
        lineage=unbranched(movie.cells.label, movie.cells.frame),
        kinds=(),
        complete=False,
        read=read,
        notes=(*movie.notes, *(unknown if without else ())),
    )
