"""Outlines from few annotated images and many others: a teacher says what is in those (docs/originals.md, 3.7).

The teacher is the average of the weights so far (`ema_decay`; Tarvainen & Valpola 2017, arXiv:1703.01780), which is what
is evaluated and applied too. In each step it sees as many crops of images without annotation as there are of others, as
they are read, with what reflects beyond the image; what it is sure of becomes their labels, of the rest nothing is
known; the network learns them augmented (Sohn et al. 2020, arXiv:2001.07685). All of it is in the compiled step.

Shapes: B batch, R the read size (Y, X), C channels.
"""

import abc
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from celltrack_jax.config import Config, from_mapping
from celltrack_jax.data import budget
from celltrack_jax.data.places import Indices
from celltrack_jax.data.store import StoredSequence
from celltrack_jax.errors import InputError
from celltrack_jax.ops import symmetry
from celltrack_jax.representations.flow import Flow
from celltrack_jax.tasks import detections
from celltrack_jax.tasks.frames import HEAD
from celltrack_jax.tasks.images import ImageTask
from celltrack_jax.tasks.mask_rcnn import MaskRCNNTask
from celltrack_jax.tasks.outlines import OutlineData

OTHER = "unlabelled/"
"""Before the names of arrays, and of metrics, of images without annotation."""
_AUGMENT = 0x73656D69
"""Sets the keys of these apart from those of the others."""
Teacher = Callable[..., Any]
"""The network with the teacher's weights: *inputs -> outputs."""


@dataclass(frozen=True)
class Semi:
    """How much is annotated, and how much the rest counts."""

    task: str
    """"images" or "mask_rcnn"."""
    labels: float
    """Share of the annotated images of each category whose annotation is used; the others count among those without.
    Runs of one share use the same images."""
    weight: float
    """Of the loss of images without annotation beside that of the others; 0 leaves them out of the run."""
    ramp_steps: int
    """Until the weight is reached: before, it is exp(-5 (1 - step / ramp_steps)^2) of it."""
    trust: Mapping[str, Any]
    """What a teacher is believed: `FlowTrust` or `ScoreTrust`."""

    def __post_init__(self):
        if not 0 < self.labels <= 1:
            raise InputError(f"semi.labels is {self.labels}: a share of the annotated images, in (0, 1]")
        if self.weight < 0 or self.ramp_steps < 0:
            raise InputError(
                f"semi.weight {self.weight} and semi.ramp_steps {self.ramp_steps} must not be negative"
            )

    def weight_at(self, step: jax.Array) -> jax.Array:
        """() float32 (Laine & Aila 2017, arXiv:1610.02242)."""
        done = jnp.minimum(1.0, (step + 1) / max(self.ramp_steps, 1))
        return self.weight * jnp.exp(-5.0 * jnp.square(1.0 - done))


@dataclass(frozen=True)
class FlowTrust:
    """What flows are believed."""

    flow_error: float
    """Cells whose flows differ by more, in mean square, from those of their own shape are not known."""
    sure: float
    """Pixels of no cell are background where its probability is at least this, and else not known."""
    flips: bool
    """Whether the teacher's answers to the four flips of a crop are averaged."""

    def __post_init__(self):
        if self.flow_error <= 0 or not 0.5 <= self.sure < 1:
            raise InputError(
                f"semi.trust: flow_error {self.flow_error} is above 0, sure {self.sure} in [0.5, 1)"
            )


@dataclass(frozen=True)
class ScoreTrust:
    """Which detections are believed."""

    score: float
    """Those above it are cells."""
    doubt: float
    """Where others are that exceed this, nothing is known."""

    def __post_init__(self):
        if not 0 <= self.doubt <= self.score < 1:
            raise InputError(
                f"semi.trust: doubt {self.doubt} and score {self.score} lie in [0, 1), doubt not above score"
            )


class SemiSupervised(OutlineData):
    """The part that is alike for all networks; a class of it has the network's task behind it."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: as of the network's task, and semi.
        """
        super().__init__(config)
        self.semi = from_mapping(Semi, config.semi.to_dict(), "semi")

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """As of the network's task, and the same of images without annotation, but for labels and sample."""
        spec = super().batch_spec()
        if not self.semi.weight:
            return spec
        return spec | {OTHER + key: x for key, x in spec.items() if key not in ("labels", "sample")}

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process, as of `batch_spec`.

        Raises:
          InputError: there is no image without annotation.
        """
        taught = self._taught()
        # Not even the size of cells in other images is known.
        sequences = [budget.annotated_in(one, own) for one, own in zip(self._sequences, taught, strict=True)]
        labelled = self._crops(process, sequences, taught)
        if not self.semi.weight:
            return labelled
        others = self._unlabelled(taught)
        if not any(others):
            raise InputError(
                f"{self.config.data.store} has no image without annotation, and semi.labels is {self.semi.labels}: "
                "prepare a store with some (train_semi_supervised/), or set semi.labels lower or semi.weight to 0"
            )
        unlabelled = self._crops(process, sequences, others, foreground_probability=0.0)
        wanted = self.batch_spec()

        def read(batch: np.int64) -> dict[str, np.ndarray]:
            first: Any = labelled[int(batch)]
            second: Any = unlabelled[int(batch)]
            return first | {OTHER + key: x for key, x in second.items() if OTHER + key in wanted}

        return grain.MapDataset.source(Indices()).map(read)

    def _taught(self) -> list[list[int]]:
        """Frames whose annotation is used, by sequence."""
        return budget.spend(self._sequences, super()._taught(), self.semi.labels)

    def _unlabelled(self, taught: list[list[int]]) -> list[list[int]]:
        """All frames but these and those that are held out, by sequence."""
        judged = {} if self._judged_store else {one.name: own for one, own in self._held_out()}

        def left(sequence: StoredSequence, own: list[int]) -> list[int]:
            return sorted({*range(sequence.shape[0])} - {*own, *judged.get(sequence.name, ())})

        return [left(one, own) for one, own in zip(self._sequences, taught, strict=True)]

    def ask_teacher(self, teacher: Teacher, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Adds what the teacher says of the images without annotation: labels (B, *R) int32, -1 unknown."""
        if not self.semi.weight:
            return batch
        image = batch[OTHER + "image"]
        pads = [(0, -size % stride) for size, stride in zip(image.shape[1:3], self.stride, strict=True)]
        padded = jnp.pad(image, [(0, 0), *pads, (0, 0)], mode="symmetric")
        labels = self._believed(teacher, padded)[:, : image.shape[1], : image.shape[2]]
        return batch | {OTHER + "labels": lax.stop_gradient(labels)}

    @abc.abstractmethod
    def _believed(self, teacher: Teacher, image: jax.Array) -> jax.Array:
        """Labels (B, *R) int32 of images (B, *R, C)."""

    def loss(
        self,
        apply: Callable[..., tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """The loss of what is annotated, and by its weight that of what the teacher says; see `ask_teacher`."""
        own = {key: x for key, x in batch.items() if not key.startswith(OTHER)}
        network: Any = super()
        value, stats, metrics = network.loss(apply, own, keys, step)
        if not self.semi.weight:
            return value, stats, metrics
        told = {key.removeprefix(OTHER): x for key, x in batch.items() if key.startswith(OTHER)}
        keys = jax.vmap(functools.partial(jax.random.fold_in, data=_AUGMENT))(keys)
        second, after, more = network.loss(apply, told, keys, step)
        # Both began with the same running statistics, which take from each half as much.
        stats = jax.tree.map(lambda a, b: (a + b) / 2, stats, after)
        metrics |= {OTHER + key: x for key, x in more.items()} | {OTHER + "loss": second}
        weight = self.semi.weight_at(step)
        labels = told["labels"]
        metrics |= {OTHER + "weight": weight, OTHER + "known": (labels >= 0).mean(dtype=jnp.float32)}
        metrics |= {OTHER + "cell": (labels > 0).mean(dtype=jnp.float32)}
        return value + weight * second, stats, metrics


class SemiImages(SemiSupervised, ImageTask):
    """Flows, filtered by how they fit the shapes that they make."""

    def __init__(self, config: Config):
        """As of `SemiSupervised`.

        Raises:
          InputError: the representation is none of flows.
        """
        super().__init__(config)
        if not isinstance(self.representation, Flow):
            raise InputError(
                f"representation.name is {config.representation.name!r}: the teacher's cells are filtered by flows: "
                'take "flow"'
            )
        self.trust = from_mapping(FlowTrust, dict(self.semi.trust), "semi.trust")

    def _believed(self, teacher: Teacher, image: jax.Array) -> jax.Array:
        flips = symmetry.symmetries(flips=self.trust.flips, rotations=False)
        vector = self.representation.vector
        said = symmetry.averaged(lambda x: teacher(x)[HEAD], flips, vector)(image)
        believed = functools.partial(
            self.representation.believed, flow_error=self.trust.flow_error, sure=self.trust.sure
        )
        return jax.vmap(believed)(said)


class SemiMaskRCNN(SemiSupervised, MaskRCNNTask):
    """Detections, filtered by their score."""

    def __init__(self, config: Config):
        """As of `SemiSupervised`."""
        super().__init__(config)
        self.trust = from_mapping(ScoreTrust, dict(self.semi.trust), "semi.trust")
        every = np.ones_like(self.reading.score)
        # Of any size: what is left out would be taught as background.
        self.doubting = self.reading._replace(
            score=self.trust.doubt * every, min_area=0 * every, max_area=np.inf * every
        )

    def _believed(self, teacher: Teacher, image: jax.Array) -> jax.Array:
        size = (image.shape[1], image.shape[2])

        def tell(one: jax.Array) -> jax.Array:
            found = detections.detect(
                teacher,
                one,
                jnp.array(size, jnp.int32),
                self.anchors(size),
                self.doubting,
                self.rules,
            )
            labels = detections.paint(found, self.doubting, size)
            sure = jnp.append(jnp.bool_(True), found.scores > self.trust.score)
            return jnp.where(sure[labels] & (labels < self.config.data.max_cells), labels, -1)

        return jax.vmap(tell)(image)


_TASKS = {"images": SemiImages, "mask_rcnn": SemiMaskRCNN}


def build(config: Config) -> SemiSupervised:
    """Makes the task that `semi.task` names.

    Raises:
      InputError: there is no such task.
    """
    if config.semi.task not in _TASKS:
        raise InputError(f"semi.task is {config.semi.task!r}: one of {', '.join(_TASKS)}")
    return _TASKS[config.semi.task](config)
