"""Collections of images -> a map of cells for each, judged image by image as the Sartorius competition does.

Images may be brought to one diameter of cells: crops by `data.diameter_px`, and the images that are judged likewise.
Shapes: Y, X an image, C channels.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax.config import Config
from celltrack_jax.data import store
from celltrack_jax.data.diameters import frame_diameters
from celltrack_jax.errors import InputError
from celltrack_jax.metrics import ctc
from celltrack_jax.metrics.competition import competition_measures
from celltrack_jax.metrics.overlap import Overlap
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.ops import resize
from celltrack_jax.tasks.dense import DenseTask
from celltrack_jax.tasks.frames import seen_by

_DIAMETERS = ("known", "median")


class _Judged(NamedTuple):
    """An image that was judged."""

    overlap: Overlap
    category: str | None


def build(config: Config) -> "ImageTask":
    """Makes the task from a config."""
    return ImageTask(config)


class ImageTask(DenseTask):
    """Learns one representation of the cells from images; the Task protocol of `celltrack_jax.tasks`."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: as of `DenseTask`, and data.diameter_px, evaluation.diameters.
        """
        super().__init__(config)
        if self.ndim != 2:
            raise InputError(f'data.crop {self.crop}: the task "images" is for 2D; take "dense" for stacks')
        if config.evaluation.diameters not in _DIAMETERS:
            raise InputError(f"evaluation.diameters is {config.evaluation.diameters!r}: one of {_DIAMETERS}")

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Scores held-out images: mAP, which is the score, and AP50, AP75, AP90, over all and by category."""
        judged = self._judge_images(self.predictor(model, variables), stop)
        if judged is None:
            return None
        overlaps, categories = [one.overlap for one in judged], [one.category for one in judged]
        scores = competition_measures(overlaps, categories)
        return scores | {"score": scores["mAP"], "images": float(len(judged))}

    def overlaps(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> dict[str, list[Overlap]] | None:
        """Returns how the cells of held-out images overlap with their outlines; None when `stop()` became true."""
        judged = self._judge_images(self.predictor(model, variables), stop)
        return None if judged is None else {"gold": [one.overlap for one in judged]}

    def _judge_images(self, forward: Callable, stop: Callable[[], bool]) -> list[_Judged] | None:
        judged = []
        for sequence, held_out in self._held_out():
            at = {int(sequence.frames[t]): t for t in held_out[: self.config.evaluation.max_frames]}
            for number, labels in self._segment(sequence, list(at.values()), forward, 1.0, stop):
                window = (at[number], 0, *self._window(sequence))
                truth = np.asarray(sequence.labels["segmentation"][window].read().result(), np.int64)[0]
                judged.append(_Judged(ctc.overlap(truth, labels, number), sequence.category))
            if stop():
                return None
        return judged

    def _predictions(
        self,
        sequence: store.StoredSequence,
        frames: list[int],
        forward: Callable,
        contrast: float,
        stop: Callable[[], bool],
    ) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        """As of `FrameTask`, of images at the size that crops are taught at, put back to their own."""
        window = self._window(sequence)
        for t in frames:
            if stop():
                return
            image = seen_by(self.inputs, sequence, t, window, contrast)[:, 0]
            own = (image.shape[1], image.shape[2])
            shown = self._shown(own, self._diameter(sequence, t))
            image = image if shown == own else resize.resize_on_host(image, shown)
            pads = [(0, _room(size, stride) - size) for size, stride in zip(shown, self.stride, strict=True)]
            padded = np.moveaxis(np.pad(image, [(0, 0), *pads], mode="symmetric"), 0, -1)
            output = forward(padded[None])

            def result(
                output: Any = output, shown: tuple[int, int] = shown, own: tuple[int, int] = own
            ) -> Any:
                whole = np.asarray(output[0])[: shown[0], : shown[1]]
                if shown == own:
                    return whole
                return np.moveaxis(resize.resize_on_host(np.moveaxis(whole, -1, 0), own), 0, -1)

            yield t, result

    def _shown(self, size: tuple[int, int], diameter_px: float) -> tuple[int, int]:
        """Size of an image at which its cells have the diameter that crops are taught at."""
        wanted = self.config.data.diameter_px
        scale = wanted / diameter_px if wanted else 1.0
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def _diameter(self, sequence: store.StoredSequence, t: int) -> float:
        """Diameter in pixels that is taken for that of an image's cells."""
        if not self.config.data.diameter_px:
            return 1.0
        if self.config.evaluation.diameters == "known":
            return float(self._known[sequence.name][t])
        return self._median

    @functools.cached_property
    def _known(self) -> dict[str, np.ndarray]:
        judged = [sequence for sequence, _ in self._held_out()]
        found = frame_diameters(judged, silver=self.config.data.silver)
        return {sequence.name: own for sequence, own in zip(judged, found, strict=True)}

    @functools.cached_property
    def _median(self) -> float:
        """Of the images that are trained on."""
        found = frame_diameters(self._sequences, silver=self.config.data.silver)
        taught = [own[frames] for own, frames in zip(found, self._taught(), strict=True)]
        return float(np.median(np.concatenate(taught)))


def _room(size: int, stride: int) -> int:
    """A multiple of the stride at least so large; there are two to a doubling, so that images share few programs."""
    units = -(-size // stride)
    whole = 1 << (units - 1).bit_length()
    return stride * (3 * whole // 4 if whole >= 4 and units <= 3 * whole // 4 else whole)
