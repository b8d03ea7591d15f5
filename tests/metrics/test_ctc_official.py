"""A real tracker's results on iPS cells: the official tool's numbers and its log, operation by operation."""

import pytest
import tifffile

from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.aogm import TITLES
from celltrack_jax.metrics.ctc import aogm_operations, ctc_measures, overlap

OFFICIAL = {"01": ("0.919891", "0.918984"), "02": ("0.936992", "0.932231"), "03": ("0.933494", "0.927246")}
"""DET and TRA."""


def read_log(path) -> list[tuple[str, str]]:
    """Returns (heading, operation) of each line of an official log."""
    heading, lines = "", []
    for line in path.read_text().splitlines():
        if line.startswith("-"):
            heading = line.strip("-")
        elif line.startswith(("T=", "[")):
            lines.append((heading, line.strip()))
    return lines


def read_lineage(path) -> Lineage:
    return Lineage.from_rows([[int(word) for word in line.split()] for line in path.read_text().splitlines()])


@pytest.mark.parametrize("name", OFFICIAL)
def test_ipsc_scores_and_operations_are_those_of_the_official_tool(name, real_data):
    folder = real_data("iPSC-02")
    gt, res = folder / f"{name}_GT" / "TRA", folder / f"{name}_RES"
    overlaps = [
        overlap(tifffile.imread(ref), tifffile.imread(comp), frame)
        for frame, (ref, comp) in enumerate(
            zip(sorted(gt.glob("*.tif")), sorted(res.glob("*.tif")), strict=True)
        )
    ]
    truth, result = read_lineage(gt / "man_track.txt"), read_lineage(res / "res_track.txt")
    measures = ctc_measures(overlaps, truth, result, None)
    assert (f"{measures['DET']:.6f}", f"{measures['TRA']:.6f}") == OFFICIAL[name]

    operations = [(TITLES[op.kind], str(op)) for op in aogm_operations(overlaps, truth, result)]
    assert operations == read_log(res / "TRA_log.txt")
    without_tracks = [(TITLES[op.kind], str(op)) for op in aogm_operations(overlaps, None, None)]
    assert without_tracks == read_log(res / "DET_log.txt")
