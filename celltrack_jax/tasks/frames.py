"""What tasks that learn from crops of frames share: network, sequences, which frames are held out.

Shapes: B batch, S spatial axes (Y, X in 2D; Z, Y, X in 3D), R the read size (S plus margins), C channels.
"""

import abc
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from celltrack_jax import models, representations
from celltrack_jax.config import Config, from_mapping
from celltrack_jax.data import augment, folds, normalise, store
from celltrack_jax.data.inputs import Input, present, read_inputs
from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.overlap import Overlap
from celltrack_jax.models.functional import FunctionalModel, Variables

HEAD = "cells"
"""Name of the network's head."""
_DROPOUT = 0x64726F70
"""Sets the keys of dropout apart from those of augmentation."""


class FrameData(abc.ABC):
    """The part of a task that knows its frames, not yet the network."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: reads data, augment, evaluation.
        """
        self.config = config
        self.crop = tuple(config.data.crop)
        self.ndim = len(self.crop)
        self.channels = config.data.channels
        self.categories: tuple[str, ...] = tuple(config.data.get("categories", ()))
        self.inputs = self._inputs()
        self.augmentation = from_mapping(augment.AugmentSpec, config.augment.to_dict(), "augment")

    def _inputs(self) -> tuple[Input, ...]:
        """Returns what the network sees: all channels of the frame."""
        return read_inputs((), self.channels)

    def _window(self, sequence: store.StoredSequence) -> tuple[slice, ...]:
        """The part of a frame that is judged: the centre, at most `evaluation.window` voxels per axis."""
        sizes = sequence.shape[2:]
        limit = (1,) * (3 - self.ndim) + tuple(self.config.evaluation.window)
        starts = [max(0, (size - most) // 2) for size, most in zip(sizes, limit, strict=True)]
        return tuple(
            slice(start, start + min(size, most))
            for start, size, most in zip(starts, sizes, limit, strict=True)
        )

    def _read_size(self) -> tuple[int, ...]:
        margin = self.config.data.margin
        return tuple(size + 2 * extra for size, extra in zip(self.crop, margin, strict=True))

    @functools.cached_property
    def _sequences(self) -> list[store.StoredSequence]:
        if not self.config.data.store:
            raise InputError("no data: give --config.data.store=<folder that launch.prepare wrote>")
        return [*self._own, *self._more]

    @functools.cached_property
    def _own(self) -> list[store.StoredSequence]:
        """Of `data.store`: of these alone are frames held out."""
        return self._opened(self.config.data.store)

    @functools.cached_property
    def _more(self) -> list[store.StoredSequence]:
        """Of the stores `data.more`, all of whose frames are trained on; their store is part of their names."""
        paths = tuple(self.config.data.get("more", ()))
        if len({Path(path).resolve() for path in (self.config.data.store, *paths)}) <= len(paths):
            raise InputError(
                f"data.more {paths} names a store twice, or data.store: each counts once, correct it"
            )
        return [one._replace(name=f"{path}/{one.name}") for path in paths for one in self._opened(path)]

    def _opened(self, path: str) -> list[store.StoredSequence]:
        """Opens a store whose movies the network can see."""
        sequences = store.open_store(path)
        for sequence in sequences:
            if not sequence.has_images:
                raise InputError(
                    f"{sequence.name} has no images: a segmenter needs them; copy them beside the annotation, and "
                    "prepare another store"
                )
            if sequence.shape[1] != self.channels:
                raise InputError(
                    f"{sequence.name} has {sequence.shape[1]} channels, the config {self.channels}: "
                    f"set --config.data.channels={sequence.shape[1]}"
                )
        return sequences

    def _taught(self) -> list[list[int]]:
        """Frames to train on, by sequence: where another store is judged, all that teach."""
        if self._judged_store:
            return [self._annotated(sequence) for sequence in self._sequences]
        return [self._split(sequence)[0] for sequence in self._sequences]

    def _held_out(self) -> list[tuple[store.StoredSequence, list[int]]]:
        """Frames that are judged, with their sequence: of another store all that teach, or else what is held out."""
        if self._judged_store:
            return [(sequence, self._annotated(sequence)) for sequence in self._others]
        return [(sequence, self._split(sequence)[1]) for sequence in self._own]

    @property
    def _judged_store(self) -> str:
        """The store that is judged whole; "" where frames of those that are trained on are held out.

        Raises:
          InputError: it is one of them.
        """
        judged = self.config.evaluation.store
        taught = (self.config.data.store, *self.config.data.get("more", ()))
        if judged and Path(judged).resolve() in {Path(path).resolve() for path in taught}:
            raise InputError(
                f"evaluation.store is {judged}, which is trained on: the network would be judged on what it has "
                "learned; give another --config.evaluation.store, or none and hold frames out by evaluation.holdout or "
                ".folds; to see what is learned by heart, give a copy of the store"
            )
        return judged

    @functools.cached_property
    def _others(self) -> list[store.StoredSequence]:
        return self._opened(self._judged_store)

    def _split(self, sequence: store.StoredSequence) -> tuple[list[int], list[int]]:
        """Frames to train on and held-out ones, ascending.

        Held out are the last `evaluation.holdout` of those that are annotated, and of those that are outlined: where
        only the middle of a movie is outlined, its end alone would not tell how good outlines are. In a store of
        single images, whose sequences are too short to divide, the last images are held out.

        With `evaluation.folds` above 0, the frames of fold `evaluation.fold` are held out (`folds.deal`) instead. Of the
        stores `data.more` none are.
        """
        if all(sequence.name != own.name for own in self._own):
            return self._annotated(sequence), []
        if self.config.evaluation.get("folds", 0):
            held = set(self._fold[sequence.name])
            every = self._annotated(sequence)
            return [t for t in every if t not in held], [t for t in every if t in held]
        annotated = {each.name: self._annotated(each) for each in self._own}
        if not any(self._last(frames) for frames in annotated.values()):
            every = [(name, t) for name, frames in annotated.items() for t in frames]
            held = {t for name, t in self._last(every) if name == sequence.name}
        else:
            frames = annotated[sequence.name]
            held = {*self._last(frames), *self._last([t for t in frames if self._outlined(sequence, t)])}
        return [t for t in annotated[sequence.name] if t not in held], sorted(held)

    @functools.cached_property
    def _fold(self) -> dict[str, list[int]]:
        """Frames of the fold that is held out, by sequence."""
        evaluation = self.config.evaluation
        return folds.deal(self._own, evaluation.folds, evaluation.fold)

    def _last(self, items: list) -> list:
        return items[len(items) - math.floor(len(items) * self.config.evaluation.holdout) :]

    @abc.abstractmethod
    def _annotated(self, sequence: store.StoredSequence) -> list[int]:
        """Returns the frames that teach, ascending."""

    def _outlined(self, sequence: store.StoredSequence, t: int) -> bool:
        """Tells whether a frame that teaches shows how good outlines are."""
        del sequence, t
        return False


class FrameTask(FrameData):
    """The part of a task that knows its network too, not yet what is learned."""

    def __init__(self, config: Config):
        """Takes the experiment's config; opens no data.

        Args:
          config: reads seed, data, augment, model, representation, evaluation, tracking.
        """
        super().__init__(config)
        self.representation = representations.build(**config.representation.to_dict())
        if config.representation.get("max_cells", config.data.max_cells) != config.data.max_cells:
            raise InputError(
                f"representation.max_cells is {config.representation.max_cells} and data.max_cells "
                f"{config.data.max_cells}: set data.max_cells alone, the other one follows it"
            )
        network = nnx.eval_shape(lambda: self.model(nnx.Rngs(0)))
        self.stride, self.halo = network.stride, network.receptive_radius
        self.sees_clips: bool = getattr(network, "sees_clips", False)
        self.style_features: int = getattr(network, "style_features", 0)
        self._forward = jax.jit(self._predict, static_argnums=0)
        if any(size % stride for size, stride in zip(self.crop, self.stride, strict=True)):
            raise InputError(f"data.crop {self.crop} is not a multiple of the model's stride {self.stride}")
        space = config.mesh.space
        if space > 1 and self.crop[0] % (space * self.stride[0]):
            # Where a coarse level splits unevenly, the partitioner (jax 0.10.2) makes gradients that are wrong by half
            # a percent of the largest, at the same loss.
            raise InputError(
                f"data.crop {self.crop} over mesh.space={space}: its first axis has to be a multiple of "
                f"{space * self.stride[0]}, so that each level of the network splits evenly"
            )

    def model(self, rngs: nnx.Rngs) -> Any:
        """Returns the network, (B, *S, C) -> {"cells": (B, *S, representation.channels)}."""
        settings = self.config.model.to_dict()
        heads = {HEAD: self.representation.channels}
        return models.build(settings.pop("name"), rngs, in_channels=len(self.inputs), heads=heads, **settings)

    def _outputs(
        self, apply: Callable[..., tuple[Any, Any]], image: jax.Array, keys: jax.Array
    ) -> tuple[Any, Any]:
        """Applies the network while it is trained: with keys (B,), if it drops features."""
        if not self.config.model.get("dropout"):
            return apply(image)
        return apply(image, jax.vmap(lambda key: jax.random.fold_in(key, _DROPOUT))(keys))

    def predictor(self, model: FunctionalModel, variables: Variables) -> Callable[[Any], jax.Array]:
        """Returns the compiled network, (B, *S, C) normalised float32 -> (B, *S, representation.channels)."""
        return lambda image: self._forward(model, variables, image)

    def _predict(self, model: FunctionalModel, variables: Variables, image: jax.Array) -> jax.Array:
        return model.apply(variables, image)[0][HEAD]

    @property
    def needs_spacing(self) -> bool:
        """Whether movies have to say how large a voxel is: not where lengths count in voxels."""
        return False

    def lengths(self, spacing_um: np.ndarray) -> np.ndarray:
        """Returns voxel sizes (ndim,) in units of the smallest: what the representation's lengths count in.

        They then mean the same whether or not the microscope's spacing is known; anisotropy is kept.
        """
        return np.asarray(spacing_um, np.float64) / np.min(spacing_um)

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
        inside = tuple(slice(part.stop - part.start) for part in window[-self.ndim :])
        for t in frames:
            if stop():
                return
            image = np.moveaxis(seen_by(self.inputs, sequence, t, window, contrast), 0, -1)
            image = image[0] if self.ndim == 2 else image
            pads = [(0, -size % stride) for size, stride in zip(image.shape, self.stride, strict=False)]
            output = forward(np.pad(image, [*pads, (0, 0)], mode="symmetric")[None])
            yield t, lambda output=output: np.asarray(output[0])[inside]


def less_contrast(image: np.ndarray, contrast: float, seed: int) -> np.ndarray:
    """Scales the signal about the background and adds the noise that scaling took away.

    Args:
      image: (C, Z, Y, X) counts; integers are rounded again, which in 8 bits is most of the noise.
      contrast: factor; 1 changes nothing.
      seed: of the added noise.

    Returns:
      (C, Z, Y, X) float32 with the background's noise as before and the signal `contrast` times as strong.
    """
    if contrast == 1:
        return image.astype(np.float32)
    axes = (1, 2, 3)
    counts, image = image.dtype.kind in "iu", image.astype(np.float32)
    background = np.median(image, axes, keepdims=True)
    # The spread of the darker half is the background's noise: cells are brighter than it.
    noise = (background - np.percentile(image, 15.9, axes, keepdims=True)) * math.sqrt(1 - contrast**2)
    random = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    dim = background + contrast * (image - background) + noise * random
    return np.rint(dim) if counts else dim


def seen_by(
    inputs: Sequence[Input],
    sequence: store.StoredSequence,
    t: int,
    window: tuple[slice, ...],
    contrast: float,
) -> np.ndarray:
    """Returns the network's inputs for the window of a frame, (len(inputs), *window) float32; see `normalised`."""
    times = [present(sequence.frames, t, one.frame) for one in inputs]
    frames = {time: normalised(sequence, time, window, contrast) for time in set(times)}
    return np.stack([frames[time][one.channel] for time, one in zip(times, inputs, strict=True)])


def normalised(
    sequence: store.StoredSequence, t: int, window: tuple[slice, ...], contrast: float
) -> np.ndarray:
    """Returns the window of a frame, (C, *window) float32, scaled by the percentiles of the whole frame."""
    if contrast == 1:
        image = np.asarray(sequence.image[(t, slice(None), *window)].read().result())
        return normalise.normalise(image, sequence.percentiles[t])
    frame = less_contrast(np.asarray(sequence.image[t].read().result()), contrast, seed=t)
    return normalise.normalise(frame[(slice(None), *window)], normalise.percentiles(frame))


def labelled(sequence: store.StoredSequence, kind: str, t: int) -> bool:
    """Tells whether a frame has labels of this kind."""
    return kind in sequence.labelled and bool(sequence.labelled[kind][t])


def seen(overlaps: Sequence[Overlap], lineage: Lineage | None) -> Lineage | None:
    """Cuts a lineage to what the judged windows show: tracks by their first and last seen frame."""
    if lineage is None or not overlaps:
        return None
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for overlap in overlaps:
        for label in overlap.ref_label.tolist():
            first.setdefault(label, overlap.frame)
            last[label] = overlap.frame
    parents = dict(zip(lineage.label.tolist(), lineage.parent.tolist(), strict=True))
    rows = []
    for label, begin in first.items():
        parent = parents.get(label, 0)
        rows.append((label, begin, last[label], parent if parent in last and last[parent] < begin else 0))
    return Lineage.from_rows(rows)
