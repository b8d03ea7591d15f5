"""The smallest Task: a U-Net learns to copy its noisy input. Used by the tests of training/ alone."""

from collections.abc import Callable

import grain
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from celltrack_jax import models
from celltrack_jax.config import Config


def toy_config(steps: int = 6, batch_size: int = 8, **train: object) -> Config:
    """Returns a config whose training takes a second."""
    return ConfigDict(
        {
            "seed": 3,
            "ema_decay": 0.9,
            "mesh": {"space": 1, "parameters": ((".*", "replicated"),)},
            "data": {"batch_size": batch_size, "threads": 1, "prefetch": 2},
            "optimizer": {
                "learning_rate": 1e-2,
                "warmup_steps": 2,
                "final_fraction": 0.1,
                "b1": 0.9,
                "b2": 0.999,
                "clip_norm": 1.0,
                "weight_decay_rules": (("kernel", 1e-3), (".*", 0.0)),
                "decay": "decoupled",
                "learning_rate_rules": ((".*", 1.0),),
            },
            "train": {
                "steps": steps,
                "accumulate": 1,
                "log_every": 2,
                "evaluate_every": 3,
                "save_every": 3,
                "keep_latest": 2,
                "best_metric": "score",
                **train,
            },
        }
    )


class Samples:
    """Numbered noise."""

    def __init__(self, poison: int | None, dtype: str):
        self._poison, self._dtype = poison, dtype

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> dict[str, np.ndarray | np.uint32]:
        image = np.random.default_rng(index).standard_normal((8, 8, 1), np.float32)
        if index == self._poison:
            image[:] = np.nan
        return {"image": image.astype(self._dtype), "sample": np.uint32(index)}


class ToyTask:
    """Implements `celltrack_jax.tasks.Task`."""

    def __init__(
        self,
        config: Config,
        norm: str = "group",
        poison: int | None = None,
        dtype: str = "float32",
        widths: tuple[int, int] = (4, 8),
    ):
        self.widths = widths
        self.batch_size, self.norm, self.poison, self.dtype = config.data.batch_size, norm, poison, dtype
        self.evaluations: list[int] = []
        self.on_evaluate: Callable[[], None] = lambda: None

    def model(self, rngs):
        """Returns a U-Net of two narrow levels."""
        return models.build(
            "unet",
            rngs,
            in_channels=1,
            heads={"copy": 1},
            widths=self.widths,
            kernels=((3, 3), (3, 3)),
            pools=((2, 2),),
            stem=(1, 1),
            convs=1,
            narrow_first=False,
            bias=True,
            norm=self.norm,
            groups=2,
            affine=True,
            activation="relu",
            order="cna",
            dropout=0.0,
            upsample="transposed",
            up_channels="halve",
            join="concat",
            remat=(False, False),
            dtype=self.dtype,
        )

    def batch_spec(self):
        """Returns image (B, 8, 8, 1) and sample (B,)."""
        return {
            "image": jax.ShapeDtypeStruct((self.batch_size, 8, 8, 1), self.dtype),
            "sample": jax.ShapeDtypeStruct((self.batch_size,), jnp.uint32),
        }

    def train_data(self, process):
        """Returns batches of numbered noise."""
        index, count = process
        samples = grain.MapDataset.source(Samples(self.poison, self.dtype))
        return samples[index::count].batch(self.batch_size // count)

    def loss(self, apply, batch, keys, step):
        """Squared error against the input, which augmentation noise hides."""
        noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys)
        outputs, stats = apply(batch["image"] + 0.1 * noise)
        error = jnp.mean((outputs["copy"] - batch["image"]) ** 2)
        return error, stats, {"error": error, "samples": jnp.sum(batch["sample"] ** 2)}

    def evaluate(self, model, variables, stop):
        """Scores one fixed batch."""
        self.on_evaluate()
        if stop():
            return None
        image = jnp.linspace(-1, 1, 64).reshape(1, 8, 8, 1)
        if not hasattr(self, "_forward"):
            self._forward = jax.jit(lambda v, x: model.apply(v, x)[0]["copy"])
        error = float(jnp.mean((self._forward(variables, image) - image) ** 2))
        self.evaluations.append(len(self.evaluations))
        return {"score": -error}
