"""What is learned, and how it is judged: one file per kind of task.

A task is chosen by name in a config (`task = "dense"`), and the file of that name in this folder holds it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from flax import nnx

from celltrack_jax.config import Config
from celltrack_jax.config import build as build_named
from celltrack_jax.data.inputs import Input
from celltrack_jax.metrics.overlap import Overlap
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.ops.diameters import SizeModel
from celltrack_jax.representations import Representation
from celltrack_jax.tasks.judged import Axis, ImageResult, JudgedImage
from celltrack_jax.tracking.cells import Cells, Embed
from celltrack_jax.tracking.scored_links import Links


class Task(Protocol):
    """One thing to learn. The training loop knows this and nothing else of it."""

    def model(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the module; it is called as `module(*inputs, train=bool)`."""
        ...

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the arrays of the global batch, so that everything compiles before any data exist."""
        ...

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process.

        Args:
          process: (index, count). Batch i of all processes together is a function of i alone.
        """
        ...

    def loss(
        self,
        apply: Callable[..., tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Returns the loss of a batch; traced into the training step, augmentation and target making included.

        Args:
          apply: the model with the current parameters: *inputs -> (outputs, stats).
          batch: as `batch_spec`.
          keys: (B,) random keys, one per sample.
          step: () int32, steps done.

        Returns:
          () float32 loss, the model's stats after the call, and scalar metrics.
        """
        ...

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Returns named scores on held-out data, or None when `stop()` became true on the way."""
        ...


@runtime_checkable
class BucketedTask(Task, Protocol):
    """A task whose batches have one of a few sizes. `batch_spec` is that of the largest."""

    def batch_specs(self) -> list[dict[str, jax.ShapeDtypeStruct]]:
        """Returns the arrays of the global batch, once per size."""
        ...


@runtime_checkable
class TaughtTask(Task, Protocol):
    """A task that a teacher helps: the average of the weights so far, which says what nobody annotated."""

    def ask_teacher(self, teacher: Callable[..., Any], batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the batch with what the teacher says, as the loss takes it; traced into the training step.

        Args:
          teacher: the model with the averaged parameters, as in inference: *inputs -> outputs.
          batch: as `batch_spec`.
        """
        ...


@runtime_checkable
class DescribedTask(Task, Protocol):
    """A task that tells what its data are like, which is kept with the run."""

    def data_facts(self) -> Mapping[str, Any]:
        """Returns plain values, such as JSON holds."""
        ...


@runtime_checkable
class CountingTask(Task, Protocol):
    """A task that counts what is odd about its input while it is read."""

    def input_counts(self) -> Mapping[str, float]:
        """Returns counts of this process since the run was started or resumed, for its log; nothing where all is well."""
        ...


@runtime_checkable
class SegmentationTask(Task, Protocol):
    """A task whose runs segment movies: what launch.predict needs of it. Shapes: *T a tile's spatial axes."""

    @property
    def ndim(self) -> int:
        """Spatial axes of the network: 2, or 3 for stacks."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the images."""
        ...

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What the network sees of a movie, C of its input."""
        ...

    @property
    def stride(self) -> tuple[int, ...]:
        """(ndim) total pooling of the network: tiles are multiples of it."""
        ...

    @property
    def halo(self) -> tuple[int, ...]:
        """(ndim) voxels that an output sees to each side."""
        ...

    @property
    def representation(self) -> Representation:
        """Reads cells from the network's output."""
        ...

    @property
    def needs_spacing(self) -> bool:
        """Whether movies have to say how large a voxel is."""
        ...

    def lengths(self, spacing_um: np.ndarray) -> np.ndarray:
        """Returns voxel sizes (ndim,) in the unit of the representation's lengths.

        Args:
          spacing_um: (ndim,) z, y, x or y, x.
        """
        ...

    def predictor(self, model: FunctionalModel, variables: Variables) -> Callable[[Any], jax.Array]:
        """Returns the compiled network, (B, *T, C) normalised float32 -> (B, *T, representation.channels)."""
        ...


class Clips(NamedTuple):
    """How a network that sees several frames at a time is led through a movie: in blocks, see `data.blocks`."""

    block: int
    """Frames whose cells are kept."""
    before: int
    """Frames of context before them."""
    after: int
    """And behind them."""


@runtime_checkable
class ClipSegmentationTask(SegmentationTask, Protocol):
    """A segmentation task whose `predictor` takes clips (B, T, *S, C) and gives (B, T, *S, representation.channels)."""

    clips: Clips
    whole_size: tuple[int, ...]
    """(ndim) to which it resizes frames, which then have to come whole; () where any tile will do."""


class ImageCells(NamedTuple):
    """The cells of an image. Shapes: Y, X the image, n cells."""

    labels: np.ndarray
    """(Y, X) int32, 1..n, 0 background."""
    score: np.ndarray | None = None
    """(n,) float32 in 0..1, None where the network tells none."""
    category: np.ndarray | None = None
    """(n,) int32, place of the class in `ImageSegmentationTask.classes`."""
    diameter_px: float | None = None
    """That its cells were taken to have, None where the image was seen as it is."""
    lost: int = 0
    """Cells for which there was no room."""


@runtime_checkable
class ImageSegmentationTask(Task, Protocol):
    """A task whose runs segment single images of any size: what launch.predict needs of it for folders of images."""

    @property
    def channels(self) -> int:
        """C, channels of the images."""
        ...

    classes: tuple[str, ...]
    """Names of the classes of cells; () where the network tells none."""
    diameter_px: float
    """Of the cells that it was taught; images are scaled to it. 0: images are seen as they are."""

    def image_reader(
        self,
        model: FunctionalModel,
        variables: Variables,
        diameter: float | SizeModel | None,
        wrap: Callable[[Callable[[np.ndarray], Any]], Callable[[np.ndarray], Any]] = ...,
    ) -> Callable[[np.ndarray], ImageCells]:
        """Returns what finds the cells of an image (C, Y, X), normalised float32; threads may share it.

        Args:
          model: of the run.
          variables: its weights.
          diameter: of the cells of all images, pixels; or what tells that of each; None for a network that sees images
            as they are.
          wrap: network (1, y, x, C) -> (1, y, x, K) to one that copes with larger images; one whose outputs are not
            pixels leaves it out.
        """
        ...


@runtime_checkable
class SizingTask(ImageSegmentationTask, Protocol):
    """A task whose networks tell, beside the cells, what an image is like: from that their diameter can be learned."""

    sizing: Any
    """Settings of the size model; None where a run has none."""

    def fit_sizes(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> SizeModel | None:
        """Fits a size model to trained weights; None when `stop()` became true."""
        ...


@runtime_checkable
class InstanceTask(Task, Protocol):
    """A task whose cells are judged one by one: what the curves of launch.evaluate need of it."""

    def overlaps(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, Sequence[Overlap]] | None:
        """Returns one overlap per held-out frame whose cells are all outlined, by the name of the outlines.

        None when `stop()` became true on the way.
        """
        ...


@runtime_checkable
class JudgedImagesTask(Task, Protocol):
    """A task whose 2D images are judged one by one: what launch.compare and launch.tune need of it."""

    def judged_images(self) -> list[JudgedImage]:
        """Returns the held-out images."""
        ...

    def results(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[ImageResult]:
        """Yields what is found in each of them, in their order, as `evaluate` sees it, until told to stop."""
        ...

    def outputs(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Iterator[tuple[JudgedImage, Any]]:
        """Yields what the network says of each of them, on the host, until told to stop."""
        ...

    def read(self, image: JudgedImage, output: Any, reading: Mapping[str, float]) -> ImageResult:
        """Makes cells of what the network says, with settings other than the config's, by their dotted keys."""
        ...

    def axes(self) -> list[Axis]:
        """Returns the settings that `read` takes."""
        ...


@runtime_checkable
class LinkingTask(Task, Protocol):
    """A task whose runs link cells: what launch.track needs of it."""

    embed: Embed | None
    """Makes the embeddings of cells that `link` needs, and the training."""

    @property
    def embedder_run(self) -> str:
        """Work folder of the run of an `EmbeddingTask` that makes them; "" for none."""
        ...

    def use(self, embed: Embed) -> None:
        """Takes the embedder of that run; called before any data are read.

        Raises:
          InputError: it has other outputs than the config says.
        """
        ...

    def scorer(self, model: FunctionalModel, variables: Variables) -> Callable[[Any], Any]:
        """Returns the compiled network, as `tracking.learned.Apply`."""
        ...

    def fitting(self, cells: Cells, trained: Mapping[str, Any]) -> Cells:
        """Returns the cells as the network may see them; says how they differ from those it was trained on.

        Args:
          cells: of a movie.
          trained: what `DescribedTask.data_facts` returned in the training.

        Raises:
          InputError: the network cannot link them.
        """
        ...

    def link(self, cells: Cells, apply: Callable[[Any], Any], ends: tuple[int, int]) -> Links | None:
        """Chooses the links between the cells of a movie.

        Args:
          cells: of the movie.
          apply: of `scorer`.
          ends: numbers of the movie's first and last frame.
        """
        ...


@runtime_checkable
class EmbeddingTask(Task, Protocol):
    """A task whose runs embed cells: what a linker with an embedder needs of it."""

    def embedder(self, model: FunctionalModel, variables: Variables) -> Embed:
        """Returns what embeds the cells of whole frames."""
        ...


def build(config: Config) -> Task:
    """Makes the task that a config names.

    Raises:
      InputError: there is no such task.
    """
    return build_named("tasks", config.task, config)
