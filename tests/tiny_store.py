"""The store of a small synthetic movie with complete truth: ten frames of eight nuclei."""

from pathlib import Path

from celltrack_jax.data import prepare, sources, synthetic

SPEC = synthetic.SyntheticSpec(frames=10, shape=(96, 96), cells=8, cell_cycle_frames=12.0)


def make(folder: Path) -> Path:
    """Writes <folder>/ctc and <folder>/store; returns the latter."""
    synthetic.write_ctc(folder / "ctc", "01", synthetic.make_movie(SPEC, seed=1))
    prepare.prepare(
        folder / "store",
        sources.open_sources(folder / "ctc", "ctc", None),
        layout="ctc",
        origin="ctc",
        spacing_um=None,
        advance=lambda name, frames: None,
    )
    return folder / "store"
