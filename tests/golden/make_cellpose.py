"""Writes cellpose.npz: what Cellpose 3.1.1.2 says of three small label maps, and its network of a small input.

    pip install .[oracles]
    python -m tests.golden.make_cellpose

Flows are those of the package's CPU path, masks those that it reads from them. The network has random weights and
running statistics; "net" holds them one behind the other, in the order of its state. Run it again only where a newer
Cellpose is to be followed, and say in the commit which numbers changed.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.representations.cells import branched, ellipses, touching_cells

dynamics, resnet_torch, torch = (
    importlib.import_module(name) for name in ("cellpose.dynamics", "cellpose.resnet_torch", "torch")
)
PATH = Path(__file__).with_name("cellpose.npz")
WIDTHS = (4, 6)
NOT_LEARNED = ("num_batches_tracked", "diam_mean", "diam_labels")


def main() -> None:
    """Writes the file."""
    maps = {
        "discs": ellipses((96, 96), (7.5, 7.5), seed=0),
        "ellipses": ellipses((96, 96), (5, 12), seed=1),
        "branched": branched(96, 3, seed=0),
    }
    arrays = {name: array for key, labels in maps.items() for name, array in flows(key, labels).items()}
    every: dict[str, Any] = arrays | volume() | network()
    np.savez_compressed(PATH, **every)


def flows(name: str, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns labels (Y, X), unit flows (2, Y, X) and the masks that these give (Y, X)."""
    cpu = torch.device("cpu")
    unit = dynamics.masks_to_flows(labels, device=cpu).astype(np.float16)
    logit = np.where(labels > 0, 10, -10).astype(np.float32)
    masks = dynamics.compute_masks(5 * unit.astype(np.float32), logit, niter=200, min_size=15, device=cpu)
    return {
        f"{name}/labels": labels.astype(np.uint8),
        f"{name}/flows": unit,
        f"{name}/masks": np.asarray(masks, np.uint8),
    }


def volume() -> dict[str, np.ndarray]:
    """Returns labels (Z, Y, X) and unit flows (3, Z, Y, X), in which all cells have the rounds of the largest."""
    labels = touching_cells((10, 20, 20), (1, 1, 1), 5.0, seed=0)
    unit = dynamics.masks_to_flows_gpu_3d(labels, device=torch.device("cpu"))
    return {"volume/labels": labels.astype(np.uint8), "volume/flows": unit.astype(np.float16)}


def network() -> dict[str, np.ndarray]:
    """Returns weights, an input, and the outputs and styles in training and after it."""
    torch.manual_seed(0)
    model = resnet_torch.CPnet([1, *WIDTHS], 3, 3)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith(NOT_LEARNED)}
    for value in state.values():
        if value.ndim == 1:
            value.add_(0.1 + 0.2 * torch.rand(value.shape))
    x = torch.randn(3, 1, 8, 12)
    made = {
        "net": np.concatenate([value.numpy().reshape(-1) for value in state.values()]),
        "net/image": x.numpy(),
    }
    for train in (False, True):
        out, style, *_ = model.train(train)(x)
        made[f"net/out_{train}"] = out.detach().numpy()
        made[f"net/style_{train}"] = style.detach().numpy()
    return made


if __name__ == "__main__":
    main()
