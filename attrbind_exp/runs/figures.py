"""Heat maps for the eye."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

PANEL = 2.4  # inches a panel


def overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """An image (H, W, 3) uint8 with a heat map (H, W) in [0, 1] burnt in; (H, W, 3) uint8."""
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    return ((1 - strength) * image + strength * colours).astype(np.uint8)


def outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image with everything outside `mask` (H, W) bool washed out; (H, W, 3) uint8."""
    return np.where(mask[..., None], image, (0.25 * image + 0.75 * 255)).astype(np.uint8)


def panels(pictures: Mapping[str, np.ndarray], title: str, path: Path) -> Path:
    """Pictures side by side under their names, the expression above them; written as PNG."""
    figure, axes = plt.subplots(1, len(pictures), figsize=(PANEL * len(pictures), PANEL + 0.7), squeeze=False)
    for axis, (name, picture) in zip(axes[0], pictures.items(), strict=True):
        axis.imshow(picture, interpolation="nearest" if max(picture.shape) <= 256 else None)
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    # Expressions are data: "$" must not start mathematics.
    figure.suptitle(title.replace("$", r"\$"), fontsize=11, wrap=True)
    return _save(figure, path)


def save_mask(mask: np.ndarray, path: Path) -> Path:
    """A mask (H, W) bool as a black and white PNG of the same size."""
    plt.imsave(path, mask.astype(np.uint8), cmap="gray", vmin=0, vmax=1)
    return path


def contact_sheet(pictures: Mapping[str, np.ndarray], path: Path, columns: int = 4) -> Path:
    """Many small pictures in a grid, each under its name; written as PNG."""
    lines = -(-len(pictures) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(1.7 * columns, 1.95 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(name, fontsize=7)
    return _save(figure, path)


def sheet(files: Sequence[Path], path: Path) -> Path | None:
    """Gallery pictures stacked into one; None when there are none."""
    if not files:
        return None
    rows = [plt.imread(f) for f in files]
    width = max(r.shape[1] for r in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=1.0) for r in rows]
    plt.imsave(path, np.clip(np.concatenate(padded), 0, 1))
    return path


def threshold_curve(curves: Mapping[str, np.ndarray], path: Path) -> Path:
    """mIoU in percent at thresholds 0.00 to 1.00, one line a variant."""
    figure, axis = plt.subplots(figsize=(6, 4))
    for name, values in curves.items():
        axis.plot(np.arange(len(values)) / 100, values, label=name)
    axis.set(xlabel="threshold", ylabel="mIoU (%)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path
