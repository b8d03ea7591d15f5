"""What tasks that learn from outlines of cells share: the crops, and which frames teach.

Shapes: B batch, S spatial axes (Y, X in 2D; Z, Y, X in 3D), R the read size (S plus margins), C channels.
"""

import functools
import math
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.data import pipeline, store
from celltrack_jax.data.annotation import KINDS
from celltrack_jax.data.left_out import LeftOut
from celltrack_jax.errors import InputError
from celltrack_jax.tasks.frames import FrameData, labelled
from celltrack_jax.tasks.judged import JudgedImage

_NO_OUTLINES = ("none", "points")
"""Kinds of annotation that say nothing of where a cell ends."""


class OutlineData(FrameData):
    """The part of a task that knows the outlines of its cells."""

    def input_counts(self) -> dict[str, float]:
        """Returns how many cells crops had no room for, once there is one."""
        return {"cells_left_out": float(self._left_out.cells)} if self._left_out.cells else {}

    @functools.cached_property
    def _left_out(self) -> LeftOut:
        return LeftOut()

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the global batch."""
        batch, read = self.config.data.batch_size, self._read_size()
        spec = {
            "image": jax.ShapeDtypeStruct((batch, *read, self.channels), jnp.float32),
            "labels": jax.ShapeDtypeStruct((batch, *read), jnp.int32),
            "spacing": jax.ShapeDtypeStruct((batch, self.ndim), jnp.float32),
            "sample": jax.ShapeDtypeStruct((batch,), jnp.uint32),
        }
        if self.categories:
            spec["category"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
        return spec

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process, drawn from the frames that are not held out."""
        return self._crops(process)

    def judged_images(self) -> list[JudgedImage]:
        """Returns the held-out frames whose cells are all outlined, at most `evaluation.max_frames` of a sequence."""
        images = []
        for sequence, frames in self._held_out():
            whole = [t for t in frames if sequence.annotation[t] == "full"]
            images += [
                JudgedImage(sequence, t, self._window(sequence))
                for t in whole[: self.config.evaluation.max_frames]
            ]
        return images

    def _crops(
        self,
        process: tuple[int, int],
        sequences: list[store.StoredSequence] | None = None,
        frames: list[list[int]] | None = None,
        **settings: Any,
    ) -> grain.MapDataset:
        """Crops of the frames that teach, or of these; settings of `pipeline.crops` may differ from the config's."""
        data = self.config.data
        settings = {"foreground_probability": data.foreground_probability, **settings}
        return pipeline.crops(
            self._sequences if sequences is None else sequences,
            shape=self._read_size(),
            margin=data.margin,
            ndim=self.ndim,
            frames=self._taught() if frames is None else frames,
            batch_size=data.batch_size,
            process=process,
            unknown_radius_um=data.unknown_diameters * (data.diameter_um or self._diameter_um()),
            max_cells=data.max_cells,
            silver=data.silver,
            seed=self.config.seed,
            diameter_px=data.get("diameter_px", 0.0),
            categories=self.categories,
            left_out=self._left_out,
            **settings,
        )

    def _split(self, sequence: store.StoredSequence) -> tuple[list[int], list[int]]:
        """As of `FrameData`; beside silver outlines, some gold ones are held out, be they few."""
        trained, held_out = super()._split(sequence)
        if self.config.evaluation.get("folds", 0):
            return trained, held_out
        gold = [t for t in sorted([*trained, *held_out]) if labelled(sequence, "segmentation", t)]
        if not (self.config.data.silver and "silver" in sequence.labelled and held_out):
            return trained, held_out
        held = {*held_out, *(self._last(gold) or gold[-1:])}
        return [t for t in trained if t not in held], sorted(held)

    @functools.cached_property
    def _sequences(self) -> list[store.StoredSequence]:
        sequences = super()._sequences
        pointed = any("points" in sequence.annotation for sequence in sequences)
        if pointed and not any(map(self._annotated, sequences)):
            raise InputError(
                f"the cells of {self.config.data.store} are points alone, which do not teach outlines: take a config of "
                'the task "detect", or add masks and prepare another store'
            )
        return sequences

    def _annotated(self, sequence: store.StoredSequence) -> list[int]:
        kinds = sequence.annotation_silver if self.config.data.silver else sequence.annotation
        return [t for t, kind in enumerate(kinds) if kind not in _NO_OUTLINES]

    def _outlined(self, sequence: store.StoredSequence, t: int) -> bool:
        silver = self.config.data.silver and labelled(sequence, "silver", t)
        return silver or labelled(sequence, "segmentation", t)

    def _diameter_um(self) -> float:
        """Median diameter of the outlined cells, as discs in 2D movies and balls in stacks."""
        diameters = []
        for sequence in self._sequences:
            outlined = sequence.foreground[:, 6] != KINDS.index("markers")
            size = sequence.foreground[outlined, 5] * float(np.prod(sequence.spacing_um[1:]))
            if sequence.shape[2] == 1:
                diameters.append(2 * np.sqrt(size / math.pi))
            else:
                diameters.append(np.cbrt(6 * size * sequence.spacing_um[0] / math.pi))
        every = np.concatenate(diameters)
        if len(every):
            return float(np.median(every))
        if all(
            kind in ("full", *_NO_OUTLINES) for sequence in self._sequences for kind in sequence.annotation
        ):
            return 0.0  # nothing is unknown
        raise InputError(
            f"{self.config.data.store} holds no outlined cell that would tell how far a marked one reaches: "
            "give --config.data.diameter_um=<a cell's diameter>"
        )
