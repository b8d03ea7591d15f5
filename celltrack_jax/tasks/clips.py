"""Dense prediction in time: clips of frames -> a map of cells for each, judged on whole held-out frames.

Networks that see single frames are trained here on whole frames at another size, as clips of one frame.

Shapes: B batch, T frames of a clip, S spatial axes (Y, X in 2D; Z, Y, X in 3D), R the read size (S plus margins), C
channels.
"""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.config import Config
from celltrack_jax.data import augment, pipeline, store
from celltrack_jax.data.blocks import blocks
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.ops import resize
from celltrack_jax.tasks import Clips
from celltrack_jax.tasks.dense import DenseTask
from celltrack_jax.tasks.frames import HEAD, normalised

_PATCHES = ("whole", "disjoint")


def build(config: Config) -> "ClipTask":
    """Makes the task from a config."""
    return ClipTask(config)


class ClipTask(DenseTask):
    """Learns one representation of the cells from clips; the Task protocol of `celltrack_jax.tasks`."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: as of `DenseTask`, and clips, data.whole_frames, evaluation.patches.
        """
        super().__init__(config)
        data, clips = config.data, config.clips
        if min(clips.frames, clips.max_skip, clips.block) < 1 or min(clips.before, clips.after) < 0:
            raise InputError(
                f"config.clips: frames {clips.frames}, max_skip {clips.max_skip} and block {clips.block} are at least 1, "
                f"before {clips.before} and after {clips.after} at least 0"
            )
        if data.whole_frames and (self.ndim != 2 or any(data.margin)):
            raise InputError(
                f"data.whole_frames needs 2D movies and no data.margin ({data.margin}): frames are resized to data.crop"
            )
        if config.evaluation.patches not in _PATCHES:
            raise InputError(f"evaluation.patches is {config.evaluation.patches!r}: one of {_PATCHES}")
        if data.whole_frames and config.evaluation.patches != "whole":
            raise InputError(
                f"evaluation.patches {config.evaluation.patches!r} cuts frames that data.whole_frames resizes: "
                'set it to "whole"'
            )
        if config.mesh.space > 1:
            # The axis behind that of the samples, which the mesh splits, is time here.
            raise InputError(
                f"mesh.space={config.mesh.space} splits volumes, not clips: set --config.mesh.space=1"
            )
        self.clips = Clips(clips.block, clips.before, clips.after)
        self.whole_size = self.crop if data.whole_frames else ()
        if self.whole_size:
            # Resized, any frame fits; as what is predicted is one whole, no tile may be cut from it.
            self.stride, self.halo = (1,) * self.ndim, (0,) * self.ndim

    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of the global batch."""
        spec = super().batch_spec()
        frames = self.config.clips.frames
        for key in ("image", "labels"):
            batch, *rest = spec[key].shape
            spec[key] = jax.ShapeDtypeStruct((batch, frames, *rest), spec[key].dtype)
        return spec

    def train_data(self, process: tuple[int, int]) -> grain.MapDataset:
        """Returns the batches of one process, drawn from the frames that are not held out."""
        clips = self.config.clips
        clip = pipeline.Clip(clips.frames, clips.max_skip, clips.reverse_probability)
        return self._crops(process, clip=clip, whole=self.config.data.whole_frames)

    def loss(
        self,
        apply: Callable[..., tuple[Any, Any]],
        batch: dict[str, jax.Array],
        keys: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        """Deforms the frames of a clip alike, lights each on its own, makes targets, predicts and compares."""

        def prepare(images: jax.Array, labels: jax.Array, spacing: jax.Array, key: jax.Array) -> Any:
            moved = augment.geometry(labels.shape[1:], key, size=self.crop, spec=self.augmentation)

            def frame(image: jax.Array, labels: jax.Array, t: jax.Array) -> Any:
                lit = augment.light(moved.image(image), jax.random.fold_in(key, t), spec=self.augmentation)
                return lit, self.representation.target(moved.labels(labels), spacing / jnp.min(spacing))

            return jax.vmap(frame)(images, labels, jnp.arange(images.shape[0]))

        image, target = jax.vmap(prepare)(batch["image"], batch["labels"], batch["spacing"], keys)
        outputs, stats = self._outputs(apply, image, keys)
        prediction, truth = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (outputs[HEAD], target))
        value, metrics = self.representation.loss(prediction, truth, step)
        return value, stats, metrics

    def _predict(self, model: FunctionalModel, variables: Variables, image: jax.Array) -> jax.Array:
        """(B, T, *S, C) -> (B, T, *S, representation.channels)."""
        frames = image if self.sees_clips else image.reshape(-1, *image.shape[2:])
        if self.whole_size:
            y, x = self.whole_size
            size = (image.shape[-3], image.shape[-2])
            small = super()._predict(model, variables, resize.resize(frames, (y, x)))
            output = resize.resize(small, size)
        else:
            output = super()._predict(model, variables, frames)
        return output.reshape(*image.shape[:-1], output.shape[-1])

    def _outputs(
        self, apply: Callable[..., tuple[Any, Any]], image: jax.Array, keys: jax.Array
    ) -> tuple[Any, Any]:
        if self.sees_clips:
            return super()._outputs(apply, image, keys)
        batch, frames = image.shape[:2]
        of_frames = jax.vmap(lambda key: jax.random.split(key, frames))(keys).reshape(-1)
        outputs, stats = super()._outputs(apply, image.reshape(-1, *image.shape[2:]), of_frames)
        return jax.tree.map(lambda x: x.reshape(batch, frames, *x.shape[1:]), outputs), stats

    def _opened(self, path: str) -> list[store.StoredSequence]:
        """Opens a store whose frames can be judged as they are seen in training: whole, where they are resized."""
        sequences = super()._opened(path)
        for sequence in sequences if self.whole_size else ():
            size, window = sequence.shape[3:], tuple(self.config.evaluation.window)
            if any(n > most for n, most in zip(size, window, strict=True)):
                raise InputError(
                    f"{sequence.name} has frames of {size}, of which evaluation.window {window} shows a part, but "
                    f"data.whole_frames resizes them as a whole: set --config.evaluation.window={size}"
                )
        return sequences

    def _predictions(
        self,
        sequence: store.StoredSequence,
        frames: list[int],
        forward: Callable,
        contrast: float,
        stop: Callable[[], bool],
    ) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        """Yields (t, what waits for the raw output (*S, C) of the evaluation window), until told to stop."""
        window = self._window(sequence)
        sizes = tuple(part.stop - part.start for part in window[-self.ndim :])
        for block in blocks(sequence.shape[0], *self.clips):
            wanted = [(place, block.frames[place]) for place in range(block.kept.start, block.kept.stop)]
            if stop():
                return
            if not any(t in frames for _, t in wanted):
                continue
            clip = np.stack([self._window_image(sequence, t, window, contrast) for t in block.frames])
            output = self._forward_patches(clip, forward)
            for place, t in wanted:
                if t in frames:
                    yield t, lambda output=output, place=place: output(place, sizes)

    def _window_image(
        self, sequence: store.StoredSequence, t: int, window: tuple[slice, ...], contrast: float
    ) -> np.ndarray:
        image = np.moveaxis(normalised(sequence, t, window, contrast), 0, -1)
        return image[0] if self.ndim == 2 else image

    def _forward_patches(
        self, clip: np.ndarray, forward: Callable
    ) -> Callable[[int, tuple[int, ...]], np.ndarray]:
        """Predicts a clip (T, *S, C) whole, or in disjoint patches as large as the crop.

        Returns:
          What waits for a frame: its place in the clip and *S -> (*S, C).
        """
        if self.config.evaluation.patches == "whole":
            pads = [(0, -size % stride) for size, stride in zip(clip.shape[1:], self.stride, strict=False)]
            output = forward(np.pad(clip, [(0, 0), *pads, (0, 0)], mode="symmetric")[None])
            return lambda place, sizes: np.asarray(output[0, place])[tuple(map(slice, sizes))]
        pads = [(0, -size % crop) for size, crop in zip(clip.shape[1:], self.crop, strict=False)]
        padded = np.pad(clip, [(0, 0), *pads, (0, 0)], mode="symmetric")
        starts = [range(0, n, crop) for n, crop in zip(padded.shape[1:], self.crop, strict=False)]
        corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, self.ndim)
        parts = [tuple(slice(a, a + n) for a, n in zip(corner, self.crop, strict=True)) for corner in corners]
        outputs = [forward(padded[(slice(None), *part)][None]) for part in parts]

        def frame(place: int, sizes: tuple[int, ...]) -> np.ndarray:
            whole = np.zeros((*padded.shape[1:-1], self.representation.channels), np.float32)
            for part, output in zip(parts, outputs, strict=True):
                whole[part] = output[0, place]
            return whole[tuple(map(slice, sizes))]

        return frame
