"""Mask R-CNN: crops of frames -> boxes, classes and masks of cells, judged as one label map on whole held-out frames.

What is learned and found in one image is in `regions` and `detections`; this is the training step over a batch, and the
evaluation. Shapes: B batch, S = Y, X a crop, R the read size (S plus margins), C channels.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from celltrack_jax import models
from celltrack_jax.config import Config, from_mapping
from celltrack_jax.data import augment
from celltrack_jax.errors import InputError
from celltrack_jax.metrics import competition, instances
from celltrack_jax.metrics.overlap import Overlap, overlap
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.models.mask_rcnn import BoxRegions, MaskRegions
from celltrack_jax.ops.diameters import SizeModel
from celltrack_jax.tasks import ImageCells, detections, judged, regions
from celltrack_jax.tasks.detections import Detections, Found, Reading
from celltrack_jax.tasks.frames import normalised
from celltrack_jax.tasks.judged import Axis, ImageResult, JudgedImage
from celltrack_jax.tasks.outlines import OutlineData

ONE_CLASS = ("cell",)
"""The classes where a config names no categories."""
_TRIED = {
    "score": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "nms_iou": (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7),
    "pixel": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "min_area": (0, 20, 40, 60, 80, 110, 150, 200),
    "max_area": (300, 470, 600, 1000, 2000, 5000, 10_000, 100_000),
    "min_pixels": (0, 15, 30, 50, 75, 100, 150),
}
"""Values that tuning tries for each class."""
_ANCHORS, _REGIONS = 0x616E6368, 0x72656769
"""Set the keys of both samples apart from those of augmentation."""


class _Judged(NamedTuple):
    """An image that was judged."""

    overlap: Overlap
    category: str | None
    lost: int
    """Detections for which there was no room."""


def build(config: Config) -> "MaskRCNNTask":
    """Makes the task from a config."""
    return MaskRCNNTask(config)


class MaskRCNNTask(OutlineData):
    """Learns instances from crops; the Task protocol of `celltrack_jax.tasks`."""

    diameter_px = 0.0
    """Images are seen as they are."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: reads seed, data, augment, model, proposals, regions, detection, loss, evaluation, inference.

        Raises:
          InputError: parts of it do not go together.
        """
        super().__init__(config)
        if self.ndim != 2:
            raise InputError(f"data.crop {self.crop} has {self.ndim} axes: Mask R-CNN sees images, give two")
        if config.mesh.space > 1:
            raise InputError(
                f"mesh.space={config.mesh.space} splits single samples, whose boxes are compared with each other: set "
                "--config.mesh.space=1"
            )
        if config.data.get("diameter_px", 0.0):
            raise InputError(
                f"data.diameter_px is {config.data.diameter_px}, but Mask R-CNN is applied to images at their own size: "
                "set it to 0; cells of several sizes are served by proposals.sizes"
            )
        self.classes = self.categories or ONE_CLASS
        detection = config.detection.to_dict()
        self.reading = detections.reading_of(detection.pop("per_class"), self.classes)
        self.rules = detections.Rules(
            from_mapping(regions.Proposing, config.proposals.to_dict(), "proposals"),
            from_mapping(regions.Sampling, config.regions.to_dict(), "regions"),
            from_mapping(detections.Detecting, detection, "detection"),
        )
        network = nnx.eval_shape(lambda: self.model(nnx.Rngs(0)))
        self.stride, self.strides = network.stride, network.strides
        if len(self.rules.proposing.sizes) != len(self.strides):
            raise InputError(
                f"proposals.sizes has {len(self.rules.proposing.sizes)} levels: give {len(self.strides)}, of the "
                f"strides {self.strides}"
            )
        for name, size in (
            ("data.crop", self.crop),
            ("inference.multiple", (config.inference.multiple,) * 2),
        ):
            if any(length % stride for length, stride in zip(size, self.stride, strict=True)):
                raise InputError(f"{name} {size} is not a multiple of the model's stride {self.stride}")
        self.anchors = functools.lru_cache(maxsize=16)(
            lambda size: regions.make_anchors(size, self.strides, self.rules.proposing)
        )
        self._detect = jax.jit(self._detected, static_argnums=0)
        self._paint = jax.jit(detections.paint, static_argnums=2)
        self._find = jax.jit(self._candidates, static_argnums=0)
        self._choose = jax.jit(detections.choose, static_argnums=2)

    def model(self, rngs: nnx.Rngs) -> Any:
        """Returns the network, `models.mask_rcnn.MaskRCNN`."""
        settings = self.config.model.to_dict()
        sizes = {"classes": len(self.classes), "anchors": self.rules.proposing.per_place}
        return models.build(settings.pop("name"), rngs, in_channels=len(self.inputs), **sizes, **settings)

    def loss(
        self,
        apply: Callable[..., tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Augments, proposes, draws boxes and compares; all on the device."""
        del step
        proposing, sampling = self.rules.proposing, self.rules.sampling
        image, truth = jax.vmap(self.prepared)({key: batch[key] for key in batch if key != "sample"}, keys)
        outputs, stats = apply(image)
        anchors = self.anchors(self.crop)
        of_anchors = jax.vmap(functools.partial(jax.random.fold_in, data=_ANCHORS))(keys)
        of_regions = jax.vmap(functools.partial(jax.random.fold_in, data=_REGIONS))(keys)

        def propose(objectness: Any, deltas: Any, truth: regions.Truth, key: jax.Array) -> Any:
            losses = regions.anchor_losses(objectness, deltas, anchors, truth, key, proposing)
            fixed = jax.lax.stop_gradient((objectness, deltas))
            return losses, regions.propose(*fixed, anchors, self.crop, proposing)[0]

        first, proposals = jax.vmap(propose)(outputs.objectness, outputs.deltas, truth, of_anchors)
        drawn = jax.vmap(
            lambda boxes, truth, key: regions.draw_regions(boxes, truth, key, sampling, proposing.max_unknown)
        )(proposals, truth, of_regions)
        told, _ = apply(BoxRegions(outputs.pyramid, drawn.boxes))
        masks, _ = apply(MaskRegions(outputs.pyramid, drawn.boxes[:, : sampling.positives]))
        of_boxes = functools.partial(regions.box_losses, spec=sampling)
        of_masks = functools.partial(regions.mask_loss, spec=sampling)
        names = ("objectness", "anchors", "classes", "boxes", "masks")
        parts = (
            *first,
            *jax.vmap(of_boxes)(told.logits, told.deltas, drawn, truth),
            jax.vmap(of_masks)(masks, drawn, truth),
        )
        metrics = {f"{name}_loss": part.mean() for name, part in zip(names, parts, strict=True)}
        weights = self.config.loss
        value = functools.reduce(jnp.add, (weights[name] * metrics[f"{name}_loss"] for name in names))
        found = functools.partial(regions.recall, iou=sampling.positive_iou)
        metrics["recall"] = jax.vmap(found)(proposals, truth).mean()
        metrics["positives"] = (drawn.role == regions.POSITIVE).sum(1).mean(dtype=jnp.float32)
        return value, stats, metrics

    def prepared(self, one: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, regions.Truth]:
        """Augments one sample and reads its boxes.

        Args:
          one: of `batch_spec`, without the axis of samples; without a category all cells are of the first class.
          key: random.

        Returns:
          image (*S, C) float32, and what is known of it.
        """
        image, labels = augment.augment(
            one["image"], one["labels"], key, size=self.crop, spec=self.augmentation
        )
        category = one["category"] if "category" in one else jnp.int32(0)
        return image, regions.truth_of(labels, category, self.config.data.max_cells)

    def detector(
        self, model: FunctionalModel, variables: Variables
    ) -> Callable[[np.ndarray, Reading], Detections]:
        """Returns the compiled network for whole images, (Y, X, C) normalised float32; one program per padded size.

        Sizes are padded to multiples of `inference.multiple`; boxes count in the image.
        """

        return lambda image, reading: self._detect(model, variables, *self._padded(image), reading)

    def image_reader(
        self,
        model: FunctionalModel,
        variables: Variables,
        diameter: float | SizeModel | None,
        wrap: object = None,
    ) -> Callable[[np.ndarray], ImageCells]:
        """As of `tasks.ImageSegmentationTask`; images are seen as they are, and as a whole."""
        del diameter, wrap
        detect = self.detector(model, variables)

        def read(image: np.ndarray) -> ImageCells:
            detected = detect(np.moveaxis(image, 0, -1), self.reading)
            found = self.cells(detected, self.reading, (image.shape[1], image.shape[2]))
            return ImageCells(found.labels, found.score, found.category, lost=int(detected.lost))

        return read

    def _detected(
        self,
        model: FunctionalModel,
        variables: Variables,
        image: jax.Array,
        size: jax.Array,
        reading: Reading,
    ) -> Detections:
        return detections.detect(
            lambda x: model.apply(variables, x)[0],
            image,
            size,
            self.anchors(image.shape[:2]),
            reading,
            self.rules,
        )

    def cells(self, found: Detections, reading: Reading, size: tuple[int, int]) -> Found:
        """Makes one label map of `size` (Y, X) of what was detected, with other thresholds if wanted."""
        multiple = self.config.inference.multiple
        padded = tuple(-(-length // multiple) * multiple for length in size)
        painted = np.asarray(self._paint(found, reading, padded))[: size[0], : size[1]]
        return detections.finish(painted, found, reading)

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Scores held-out images: mAP, which is the score, and AP50, AP75, AP90, over all and by category.

        With the prefix "all/" AP, precision and recall over the cells of all images together. `lost` counts detections
        beyond `detection.count`.
        """
        every = list(self._judged(model, variables, stop))
        if stop():
            return None
        overlaps = [one.overlap for one in every]
        scores = competition.competition_measures(overlaps, [one.category for one in every])
        whole = instances.instance_measures(overlaps, (0.5, 0.75))
        for name in ("AP", "precision", "recall"):
            scores |= {f"all/{name}{100 * iou:.0f}": value for iou, value in whole[name].items()}
        lost = float(sum(one.lost for one in every))
        return scores | {"score": scores["mAP"], "images": float(len(every)), "lost": lost}

    def overlaps(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> dict[str, list[Overlap]] | None:
        """Returns how the cells of held-out frames overlap with the truth; None when `stop()` became true."""
        every = list(self._judged(model, variables, stop))
        return None if stop() else {"gold": [one.overlap for one in every]}

    def results(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[ImageResult]:
        """Yields what is found in each of `judged_images`, until told to stop."""
        detect = self.detector(model, variables)
        for image in self.judged_images():
            if stop():
                return
            shown = _seen(image)
            detected = detect(shown, self.reading)
            found = self.cells(detected, self.reading, shown.shape[:2])
            yield ImageResult(image, found.labels, found.score, int(detected.lost))

    def outputs(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[tuple[JudgedImage, Detections]]:
        """Yields what `read` needs of each of `judged_images`, on the host, without the masks of padding."""
        for image in self.judged_images():
            if stop():
                return
            found = jax.tree.map(np.asarray, self._find(model, variables, *self._padded(_seen(image))))
            yield image, found._replace(masks=found.masks[: np.count_nonzero(found.valid)].copy())

    def read(self, image: JudgedImage, output: Detections, reading: Mapping[str, float]) -> ImageResult:
        """Makes cells of what `outputs` gave, with other settings of `detection.per_class`, by their dotted keys."""
        changed = self.config.detection.copy_and_resolve_references()
        changed.update_from_flattened_dict(
            {key.removeprefix("detection."): value for key, value in reading.items()}
        )
        own = detections.reading_of(changed.per_class.to_dict(), self.classes)
        padding = ((0, len(output.valid) - len(output.masks)), (0, 0), (0, 0))
        found = self._choose(output._replace(masks=np.pad(output.masks, padding)), own, self.rules.detecting)
        size = [part.stop - part.start for part in image.window[1:]]
        cells = self.cells(found, own, (size[0], size[1]))
        return ImageResult(image, cells.labels, cells.score, int(found.lost))

    def axes(self) -> list[Axis]:
        """Returns the settings of each class; a score below `detection.min_score` would read as that does."""
        found = []
        for name in self.classes:
            present = self.config.detection.per_class[name]
            for setting, values in _TRIED.items():
                least = self.rules.detecting.min_score if setting == "score" else 0
                tried = tuple(value for value in values if value >= least)
                key = f"detection.per_class.{name}.{setting}"
                found.append(judged.axis(key, tried, present[setting], name if self.categories else None))
        return found

    def _candidates(
        self, model: FunctionalModel, variables: Variables, image: jax.Array, size: jax.Array
    ) -> Detections:
        return detections.candidates(
            lambda x: model.apply(variables, x)[0],
            image,
            size,
            self.anchors(image.shape[:2]),
            self.rules,
        )

    def _padded(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An image (Y, X, C) padded to the multiple, and its own size."""
        pads = [(0, -length % self.config.inference.multiple) for length in image.shape[:2]]
        return np.pad(image, [*pads, (0, 0)]), np.array(image.shape[:2], np.int32)

    def _judged(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[_Judged]:
        for found in self.results(model, variables, stop):
            both = overlap(found.image.truth(), found.labels, found.image.number)
            yield _Judged(both, found.image.category, found.lost)


def _seen(image: JudgedImage) -> np.ndarray:
    """(Y, X, C) float32, normalised."""
    return np.moveaxis(normalised(image.sequence, image.t, image.window, 1.0)[:, 0], 0, -1)
