"""Collections of images -> a map of cells for each, judged image by image as the Sartorius competition does.

Images may be brought to one diameter of cells: crops by `data.diameter_px`, and the images that are judged or predicted
likewise. What that diameter is in an image may be told, or found by a size model: the style that the network gives of
the image says one, and the cells that it finds at that one say the other (docs/originals.md, 3.4).
Shapes: Y, X an image, C channels, F features of a style.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import ndimage, special

from celltrack_jax.config import Config, from_mapping
from celltrack_jax.data import store
from celltrack_jax.data.diameters import frame_diameters
from celltrack_jax.errors import InputError
from celltrack_jax.io import threads
from celltrack_jax.metrics.competition import competition_measures
from celltrack_jax.metrics.overlap import Overlap, overlap
from celltrack_jax.models.cpnet import STYLE
from celltrack_jax.models.functional import FunctionalModel, Variables, digest
from celltrack_jax.ops.diameters import SizeModel, median_diameter
from celltrack_jax.representations.flow import Flow
from celltrack_jax.tasks import ImageCells, sizing
from celltrack_jax.tasks.dense import DenseTask
from celltrack_jax.tasks.frames import seen_by
from celltrack_jax.tasks.judged import Axis, ImageResult, JudgedImage, axis
from celltrack_jax.tasks.one_diameter import Apply, padded, predict, shown_size

_KNOWN, _MEDIAN, _SIZE_MODEL = "known", "median", "size model"
_DIAMETERS = (_KNOWN, _MEDIAN, _SIZE_MODEL)
_AT_ONCE = 2
"""Images: while one is decoded the network sees the next."""
_STYLE_OF = 2048
"""The style is that of so many pixels along each axis in the middle of an image."""
_SQUARE = np.ones(2)
"""Size of the pixels of an image of which nothing else is known."""
_TRIED = {
    "cellprob_threshold": (-2, -1, -0.5, 0, 0.5, 1, 2),
    "flow_threshold": (0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2),
    "min_size": (5, 15, 30, 50, 75, 100, 150),
}
"""Values that tuning tries."""


class _Told(NamedTuple):
    """What the network says of an image."""

    output: np.ndarray
    """(Y, X, K) float32."""
    diameter_px: float | None
    """That its cells were taken to have; None where it does not matter."""
    labels: np.ndarray | None = None
    """(Y, X) int32, the cells of this output, where they were looked for already."""


def build(config: Config) -> "ImageTask":
    """Makes the task from a config."""
    return ImageTask(config)


class ImageTask(DenseTask):
    """Learns one representation of the cells from images; the Task protocol of `celltrack_jax.tasks`."""

    classes: tuple[str, ...] = ()
    """The network tells none."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: as of `DenseTask`, and data.diameter_px, evaluation.diameters, and size_model where there is one.
        """
        super().__init__(config)
        if self.ndim != 2:
            raise InputError(f'data.crop {self.crop}: the task "images" is for 2D; take "dense" for stacks')
        if config.evaluation.diameters not in _DIAMETERS:
            raise InputError(f"evaluation.diameters is {config.evaluation.diameters!r}: one of {_DIAMETERS}")
        self.diameter_px = float(config.data.diameter_px)
        settings = config.get("size_model") if self.diameter_px else None
        self.sizing = from_mapping(sizing.Sizing, settings.to_dict(), "size_model") if settings else None
        if self.sizing and not self.style_features:
            raise InputError(
                f"config.size_model is for networks that give a style, such as cpnet, and {config.model.name} does not: "
                "leave size_model out"
            )
        if self._by_style and not self.sizing:
            raise InputError(
                f"evaluation.diameters is {_SIZE_MODEL!r}, and the config has no size_model: add it, as "
                f"configs/sartorius/cellpose.py does, or set --config.evaluation.diameters={_MEDIAN}"
            )
        self._style = jax.jit(self._styled, static_argnums=0)
        self._fitted: dict[str, SizeModel] = {}

    @property
    def _by_style(self) -> bool:
        """Whether images are judged at diameters that a size model tells."""
        return bool(self.diameter_px) and self.config.evaluation.diameters == _SIZE_MODEL

    def _styled(self, model: FunctionalModel, variables: Variables, image: jax.Array) -> jax.Array:
        # Of the network nothing is left but its way down.
        return model.apply(variables, image)[0][STYLE]

    def data_facts(self) -> Mapping[str, Any]:
        """Returns the diameter that prediction takes where nothing else says one."""
        return {"median_diameter_px": self._median} if self.diameter_px else {}

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Scores held-out images: mAP, which is the score, and AP50, AP75, AP90, over all and by category.

        With a size model, `diameter_error` is how far the diameters that it found are from the true ones, the mean of
        their shares.
        """
        overlaps, categories, errors = [], [], []
        for told, found in self._found(model, variables, stop):
            image = found.image
            overlaps.append(overlap(image.truth(), found.labels, image.number))
            categories.append(image.category)
            if self._by_style and told.diameter_px:
                errors.append(abs(told.diameter_px / float(self._known[image.sequence.name][image.t]) - 1))
        if stop():
            return None
        scores = competition_measures(overlaps, categories)
        if errors:
            scores["diameter_error"] = float(np.mean(errors))
        return scores | {"score": scores["mAP"], "images": float(len(overlaps))}

    def overlaps(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> dict[str, list[Overlap]] | None:
        """Returns how the cells of held-out images overlap with their outlines; None when `stop()` became true."""
        every = [
            overlap(found.image.truth(), found.labels, found.image.number)
            for found in self.results(model, variables, stop)
        ]
        return None if stop() else {"gold": every}

    def results(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[ImageResult]:
        """Yields what is found in each of `judged_images`, until told to stop."""
        yield from (found for _, found in self._found(model, variables, stop))

    def outputs(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[tuple[JudgedImage, np.ndarray]]:
        """Yields what `read` needs of each of `judged_images`, (Y, X, representation.channels), until told to stop."""
        say = self._sayer(model, variables, stop)
        if say is not None:
            yield from ((image, say(image).output) for image in self._until(stop))

    def read(self, image: JudgedImage, output: np.ndarray, reading: Mapping[str, float]) -> ImageResult:
        """Makes cells of what `outputs` gave, with other settings of `representation`, by their dotted keys.

        A cell of flows is as sure as the mean probability of its pixels; of others nothing is known, and all have 1.
        """
        changed = {key.removeprefix("representation."): value for key, value in reading.items()}
        representation: Any = replace(self.representation, **changed) if changed else self.representation  # pyright: ignore[reportArgumentType]
        return self._result(image, output, representation.decode(output, self._spacing(image)))

    def _result(self, image: JudgedImage, output: np.ndarray, labels: np.ndarray) -> ImageResult:
        """Says how sure each of the cells is that an output was read as."""
        cells = np.arange(1, labels.max(initial=0) + 1)
        sure = np.ones(len(cells), np.float32)
        if isinstance(self.representation, Flow):
            probability = special.expit(output[..., self.representation.axes])
            sure = np.asarray(ndimage.mean(probability, labels, cells), np.float32).reshape(-1)
        return ImageResult(image, labels, sure)

    def _spacing(self, image: JudgedImage) -> np.ndarray:
        """(2,) size of its pixels, in the unit of `lengths`."""
        return self.lengths(np.asarray(image.sequence.spacing_um)[-self.ndim :])

    def axes(self) -> list[Axis]:
        """Returns the settings of the representation that are known to matter, for all images alike."""
        own = self.config.representation
        return [axis(f"representation.{key}", _TRIED[key], own[key]) for key in _TRIED if key in own]

    def image_reader(
        self,
        model: FunctionalModel,
        variables: Variables,
        diameter: float | SizeModel | None,
        wrap: Callable[[Apply], Apply] = lambda apply: apply,
    ) -> Callable[[np.ndarray], ImageCells]:
        """As of `tasks.ImageSegmentationTask`."""
        apply = wrap(self.predictor(model, variables))

        def read(image: np.ndarray) -> ImageCells:
            told = self._told(model, variables, apply, diameter, image, _SQUARE)
            return ImageCells(self._cells(told, _SQUARE), diameter_px=told.diameter_px)

        return read

    def _found(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[tuple[_Told, ImageResult]]:
        say = self._sayer(model, variables, stop)
        if say is None:
            return

        def find(image: JudgedImage) -> tuple[_Told, ImageResult]:
            told = say(image)
            return told, self._result(image, told.output, self._cells(told, self._spacing(image)))

        yield from threads.mapped(find, self._until(stop), _AT_ONCE)

    def _until(self, stop: Callable[[], bool]) -> Iterator[JudgedImage]:
        for image in self.judged_images():
            if stop():
                return
            yield image

    def _sayer(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Callable[[JudgedImage], _Told] | None:
        """Returns what applies the network to a judged image; None when `stop()` became true."""
        sizes = self.fit_sizes(model, variables, stop) if self._by_style else None
        if self._by_style and sizes is None:
            return None
        apply = self.predictor(model, variables)

        def say(image: JudgedImage) -> _Told:
            seen = self._image(image.sequence, image.t, image.window)
            diameter = sizes or self._diameter(image.sequence, image.t)
            return self._told(model, variables, apply, diameter, seen, self._spacing(image))

        return say

    def _told(
        self,
        model: FunctionalModel,
        variables: Variables,
        apply: Apply,
        diameter: float | SizeModel | None,
        image: np.ndarray,
        spacing: np.ndarray,
    ) -> _Told:
        """What the network says of an image (C, Y, X) whose cells have this diameter, None where it does not matter.

        By a size model, at the diameter of the cells that are found at the one which the image's style tells.
        """
        if not isinstance(diameter, SizeModel):
            return _Told(self._output(image, apply, diameter), diameter)
        size = (image.shape[1], image.shape[2])
        y, x = (slice(max(0, (n - _STYLE_OF) // 2), (n + _STYLE_OF) // 2) for n in size)
        told = float(diameter.diameters(self._style_of(model, variables, image[:, y, x])[None])[0])
        first = _Told(self._output(image, apply, told), told)
        labels = self._cells(first, spacing)
        found = float(diameter.within(np.array(median_diameter(labels)))) if labels.any() else told
        if self._shown(size, found) == self._shown(size, told):
            return first._replace(labels=labels)
        return _Told(self._output(image, apply, found), found)

    def _output(self, image: np.ndarray, apply: Apply, diameter_px: float | None) -> np.ndarray:
        shown = self._shown((image.shape[1], image.shape[2]), diameter_px)
        return predict(image, shown, apply, (self.stride[0], self.stride[1]))

    def _cells(self, told: _Told, spacing: np.ndarray) -> np.ndarray:
        return self.representation.decode(told.output, spacing) if told.labels is None else told.labels

    def _shown(self, size: tuple[int, int], diameter_px: float | None) -> tuple[int, int]:
        """Size of an image at which its cells have the diameter that crops are taught at."""
        if not (self.diameter_px and diameter_px):
            return size
        return shown_size(size, self.diameter_px / diameter_px)

    def _style_of(self, model: FunctionalModel, variables: Variables, image: np.ndarray) -> np.ndarray:
        """(F,) style of a view (C, y, x)."""
        return np.asarray(self._style(model, variables, padded(image, (self.stride[0], self.stride[1]))))[0]

    def fit_sizes(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> SizeModel | None:
        """Fits a size model to the images that are trained on; None when `stop()` became true.

        Weights that were evaluated are those of a checkpoint, for which it is asked again: it is fitted once.
        """
        weights = digest(variables)
        if weights not in self._fitted:
            found = self._fit_sizes(model, variables, stop)
            if found is None:
                return None
            self._fitted[weights] = found
        return self._fitted[weights]

    def _fit_sizes(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> SizeModel | None:
        assert self.sizing
        tile, silver = self.sizing.tile, self.config.data.silver
        views = sizing.views(
            self.sizing, self._sequences, self._taught(), silver=silver, seed=self.config.seed
        )
        if not views:
            raise InputError(
                f"{self.config.data.store} has no image with cells to fit a size model to: leave size_model out of the "
                "config"
            )

        def seen(view: sizing.View) -> tuple[np.ndarray, float]:
            sequence, t = self._sequences[view.sequence], view.t
            image = self._image(sequence, t, tuple(slice(0, size) for size in sequence.shape[2:]))
            style = self._style_of(model, variables, sizing.cut(image, view, tile))
            return style, self._own_diameters[view.sequence][t] * view.scale

        return sizing.fit_to(views, seen, stop, penalty=self.sizing.penalty)

    def _image(self, sequence: store.StoredSequence, t: int, window: tuple[slice, ...]) -> np.ndarray:
        """(C, Y, X) float32, normalised as a whole."""
        return seen_by(self.inputs, sequence, t, window, 1.0)[:, 0]

    def _diameter(self, sequence: store.StoredSequence, t: int) -> float | None:
        """Diameter in pixels that is taken for that of an image's cells; None where it does not matter."""
        if not self.diameter_px:
            return None
        if self.config.evaluation.diameters == _KNOWN:
            return float(self._known[sequence.name][t])
        return self._median

    @functools.cached_property
    def _known(self) -> dict[str, np.ndarray]:
        judged = [sequence for sequence, _ in self._held_out()]
        found = frame_diameters(judged, silver=self.config.data.silver)
        return {sequence.name: own for sequence, own in zip(judged, found, strict=True)}

    @functools.cached_property
    def _own_diameters(self) -> list[np.ndarray]:
        """Of the images of each sequence that is trained on."""
        return frame_diameters(self._sequences, silver=self.config.data.silver)

    @functools.cached_property
    def _median(self) -> float:
        """Of the images that are trained on."""
        taught = [own[frames] for own, frames in zip(self._own_diameters, self._taught(), strict=True)]
        return float(np.median(np.concatenate(taught)))
