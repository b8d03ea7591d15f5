"""Collections of images -> a map of cells for each, judged image by image as the Sartorius competition does.

Images may be brought to one diameter of cells: crops by `data.diameter_px`, and the images that are judged likewise.
Shapes: Y, X an image, C channels.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage, special

from celltrack_jax.config import Config
from celltrack_jax.data import store
from celltrack_jax.data.diameters import frame_diameters
from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.metrics.competition import competition_measures
from celltrack_jax.metrics.overlap import Overlap, overlap
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.ops import resize
from celltrack_jax.representations.flow import Flow
from celltrack_jax.tasks.dense import DenseTask
from celltrack_jax.tasks.frames import seen_by
from celltrack_jax.tasks.judged import Axis, ImageResult, JudgedImage, axis

_DIAMETERS = ("known", "median")
_TRIED = {
    "cellprob_threshold": (-2, -1, -0.5, 0, 0.5, 1, 2),
    "flow_threshold": (0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2),
    "min_size": (5, 15, 30, 50, 75, 100, 150),
}
"""Values that tuning tries."""


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
        every = self._judged(model, variables, stop)
        if every is None:
            return None
        scores = competition_measures([one.overlap for one in every], [one.category for one in every])
        return scores | {"score": scores["mAP"], "images": float(len(every))}

    def overlaps(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> dict[str, list[Overlap]] | None:
        """Returns how the cells of held-out images overlap with their outlines; None when `stop()` became true."""
        every = self._judged(model, variables, stop)
        return None if every is None else {"gold": [one.overlap for one in every]}

    def results(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[ImageResult]:
        """Yields what is found in each of `judged_images`, until told to stop; decoding overlaps the next image."""
        waiting = self._said(self.predictor(model, variables), stop)
        yield from threads.mapped(lambda said: self.read(said[0], said[1](), {}), waiting, 2)

    def outputs(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[tuple[JudgedImage, np.ndarray]]:
        """Yields what `read` needs of each of `judged_images`, (Y, X, representation.channels)."""
        for image, output in self._said(self.predictor(model, variables), stop):
            yield image, output()

    def read(self, image: JudgedImage, output: np.ndarray, reading: Mapping[str, float]) -> ImageResult:
        """Makes cells of what `outputs` gave, with other settings of `representation`, by their dotted keys.

        A cell of flows is as sure as the mean probability of its pixels; of others nothing is known, and all have 1.
        """
        changed = {key.removeprefix("representation."): value for key, value in reading.items()}
        representation: Any = replace(self.representation, **changed) if changed else self.representation  # pyright: ignore[reportArgumentType]
        spacing = self.lengths(np.asarray(image.sequence.spacing_um)[-self.ndim :])
        labels = representation.decode(output, spacing)
        cells = np.arange(1, labels.max(initial=0) + 1)
        sure = np.ones(len(cells), np.float32)
        if isinstance(representation, Flow):
            probability = special.expit(output[..., representation.axes])
            sure = np.asarray(ndimage.mean(probability, labels, cells), np.float32).reshape(-1)
        return ImageResult(image, labels, sure)

    def axes(self) -> list[Axis]:
        """Returns the settings of the representation that are known to matter, for all images alike."""
        own = self.config.representation
        return [axis(f"representation.{key}", _TRIED[key], own[key]) for key in _TRIED if key in own]

    def _judged(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> list[_Judged] | None:
        every = [
            _Judged(overlap(found.image.truth(), found.labels, found.image.number), found.image.category)
            for found in self.results(model, variables, stop)
        ]
        return None if stop() else every

    def _said(
        self, forward: Callable, stop: Callable[[], bool]
    ) -> Iterator[tuple[JudgedImage, Callable[[], np.ndarray]]]:
        """Yields each of `judged_images` and what waits for the network's output, until told to stop."""
        for _, own in itertools.groupby(self.judged_images(), lambda image: image.sequence.name):
            images = list(own)
            frames = [image.t for image in images]
            told = self._predictions(images[0].sequence, frames, forward, 1.0, stop)
            yield from ((image, output) for image, (_, output) in zip(images, told, strict=False))

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
