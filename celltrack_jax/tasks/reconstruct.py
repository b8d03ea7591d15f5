"""Self-supervision: crops of frames, a part of which is hidden -> the frames, judged on frames that were held out.

What such a run has learned is where another one starts from: `train.initial`. Shapes: B batch, S spatial axes (Y, X in
2D; Z, Y, X in 3D), D of them, C inputs of the network.
"""

from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.config import Config
from celltrack_jax.data import augment, point_crops, store
from celltrack_jax.data.inputs import Input, read_inputs
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.representations.losses import known_weight
from celltrack_jax.representations.reconstruction import Reconstruction
from celltrack_jax.tasks.frames import HEAD, FrameTask, seen_by


def build(config: Config) -> "ReconstructTask":
    """Makes the task from a config."""
    return ReconstructTask(config)


class ReconstructTask(FrameTask):
    """Learns what images look like; the Task protocol of `celltrack_jax.tasks`."""

    representation: Any

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: reads seed, data, augment, model, representation, evaluation.
        """
        super().__init__(config)
        representation = self.representation
        if not isinstance(representation, Reconstruction) or representation.channels != len(self.inputs):
            raise InputError(
                'config.representation: the task "reconstruct" needs the name "reconstruction" with '
                f"channels={len(self.inputs)}, as many as the network sees"
            )
        if representation.hidden == "blocks" and len(representation.block) != self.ndim:
            raise InputError(
                f"representation.block is {representation.block}: give {self.ndim} numbers, as data.crop has"
            )
        if representation.hidden == "plane" and not 0 <= representation.plane < self.crop[0]:
            raise InputError(
                f"representation.plane is {representation.plane}, but data.crop {self.crop} has {self.crop[0]}: they "
                "count from 0"
            )
        self.reconstruction: Reconstruction = representation
        self._hidden = jax.jit(lambda image, key: representation.hide(representation.wanted(image), key))
        self._wanted = jax.jit(representation.wanted)

    def _inputs(self) -> tuple[Input, ...]:
        return read_inputs(self.config.data.inputs, self.channels)

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the global batch."""
        batch, read = self.config.data.batch_size, self._read_size()
        return {
            "image": jax.ShapeDtypeStruct((batch, *read, len(self.inputs)), jnp.float32),
            "labels": jax.ShapeDtypeStruct((batch, *read), jnp.int32),
            "sample": jax.ShapeDtypeStruct((batch,), jnp.uint32),
        }

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process, drawn from the frames that are not held out, annotated or not."""
        data = self.config.data
        unlabelled = [one._replace(points=np.zeros((0, 8))) for one in self._sequences]
        crops = point_crops.crops(
            unlabelled,
            shape=self._read_size(),
            margin=data.margin,
            frames=self._taught(),
            batch_size=data.batch_size,
            process=process,
            foreground_probability=0.0,
            max_cells=1,
            seed=self.config.seed,
            inputs=self.inputs,
        )
        return crops.map(lambda batch: {key: batch[key] for key in ("image", "labels", "sample")})

    def loss(
        self,
        apply: Callable[..., tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Augments, hides, predicts and compares; all on the device."""
        del step

        def prepared(image: jax.Array, known: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
            image, known = augment.augment(image, known, key, size=self.crop, spec=self.augmentation)
            wanted = self.reconstruction.wanted(image)
            seen, hidden = self.reconstruction.hide(wanted, jax.random.fold_in(key, 1))
            return wanted, seen, hidden, known_weight(known)

        wanted, seen, hidden, known = jax.vmap(prepared)(batch["image"], batch["labels"], keys)
        outputs, stats = self._outputs(apply, seen, keys)
        value, metrics = self.reconstruction.loss(outputs[HEAD], wanted, hidden, known)
        return value, stats, metrics

    def evaluate(
        self, model: FunctionalModel, variables: Variables, stop: Callable[[], bool]
    ) -> Mapping[str, float | None] | None:
        """Scores held-out frames: `R2`, the share of the variance that is told where the image is hidden (or of all)."""
        forward = self.predictor(model, variables)
        error = square = total = count = 0.0
        for sequence, held_out in self._held_out():
            for t in held_out[: self.config.evaluation.max_frames]:
                if stop():
                    return None
                wanted, told, hidden = self._reconstructed(sequence, t, forward)
                error += float(np.square(told - wanted)[hidden].sum())
                square += float(np.square(wanted[hidden]).sum())
                total += float(wanted[hidden].sum())
                count += hidden.sum()
        variance = square - total**2 / max(count, 1)
        r2 = 1 - error / variance if variance > 0 else None
        return {"R2": r2, "MSE": error / count if count else None, "score": r2}

    def _reconstructed(
        self, sequence: store.StoredSequence, t: int, forward: Callable[[Any], jax.Array]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is wanted, what is told (*S, C), and where it counts (*S, C) bool, in the window of a frame."""
        image = np.moveaxis(seen_by(self.inputs, sequence, t, self._window(sequence), 1.0), 0, -1)
        image = image[0] if self.ndim == 2 else image
        inside = tuple(slice(size) for size in image.shape[:-1])
        pads = [(0, -size % stride) for size, stride in zip(image.shape, self.stride, strict=False)]
        image = np.pad(image, [*pads, (0, 0)], mode="symmetric")
        seen, hidden = self._hidden(image, jax.random.key(t))
        told = self.reconstruction.told(forward(seen[None])[0])
        counts = (
            np.asarray(hidden) > 0 if self.reconstruction.hidden != "nothing" else np.ones_like(hidden) > 0
        )
        counts = np.broadcast_to(counts, image.shape)
        return tuple(np.asarray(each)[inside] for each in (self._wanted(image), told, counts))  # pyright: ignore[reportReturnType]

    def _annotated(self, sequence: store.StoredSequence) -> list[int]:
        """Every frame teaches."""
        return list(range(sequence.shape[0]))
