"""Heat maps -> counts, where the maps lie: by numpy on the host, by torch on a device (on_device.py). Pure.

Both ways count the same whole numbers; means on a device differ by its rounding. M heat maps of H x W pixels, P masks,
K = 101 thresholds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from attrbind_exp.scoring import metrics

if TYPE_CHECKING:
    from torch import Tensor

# Heat maps (M, H, W), or one (H, W), float32 in [0, 1]: numpy on the host, a tensor on a device.
Maps: TypeAlias = "np.ndarray | Tensor"
# What was made of an image's masks for counting, by the mask's id(), beside the mask itself; it grows.
Prepared = dict[int, tuple[np.ndarray, Any]]


@dataclass(frozen=True)
class MapCounts:
    """What is counted of one heat map: `intersection` and `union` in pixels, (K,) int64 each, of heat >= threshold with
    the first of P masks; `under` (P,) bool: which masks hold the first pixel of the highest heat; `means` (P,) float64:
    the mean heat on each mask, NaN on one without pixels."""

    intersection: np.ndarray
    union: np.ndarray
    under: np.ndarray
    means: np.ndarray


def count_maps(heats: Maps, masks: Sequence[np.ndarray], prepared: Prepared | None = None) -> list[MapCounts | None]:
    """Count every heat map (M, H, W) under `masks` (H, W) bool, at least one; None for a map that is not finite.

    Raises ValueError when the shapes differ.
    """
    for mask in masks:
        if tuple(heats.shape[1:]) != mask.shape:
            raise ValueError(f"heat map is {tuple(heats.shape[1:])}, mask {mask.shape}")
    prepared = {} if prepared is None else prepared
    if isinstance(heats, np.ndarray):
        pixels = [_once(mask, prepared, np.flatnonzero) for mask in masks]
        return [_count_map(heat, masks, pixels) for heat in heats]
    from attrbind_exp.scoring import on_device  # figures are made of rows without torch

    placed = [_once(mask, prepared, partial(on_device.place, device=heats.device)) for mask in masks]
    return _unpack(on_device.count_maps(heats, placed), len(masks))


def is_finite(heats: Maps) -> bool:
    """Whether all values of all heat maps are."""
    if isinstance(heats, np.ndarray):  # the least or the highest is not finite where any value is not
        return bool(np.isfinite(heats.min()) and np.isfinite(heats.max()))
    return bool(heats.isfinite().all())


def _count_map(heat: np.ndarray, masks: Sequence[np.ndarray], inside: Sequence[np.ndarray]) -> MapCounts | None:
    """One heat map (H, W) under masks (H, W), of which `inside` has the pixels' numbers, row by row: taken by number
    they come faster than by the mask."""
    if not is_finite(heat):
        return None
    pixels = heat.ravel()
    level = metrics.find_level(pixels)
    # A pixel is in the mask of every threshold up to its value: level k = it passes THRESHOLDS[0..k].
    hit = metrics.count_levels(level[inside[0]])
    peak = int(pixels.argmax())
    return MapCounts(
        hit,
        metrics.count_levels(level) + len(inside[0]) - hit,
        np.array([mask.flat[peak] for mask in masks]),
        np.array([pixels[found].mean() if len(found) else np.nan for found in inside], np.float64),
    )


def _unpack(found: np.ndarray, masks: int) -> list[MapCounts | None]:
    """The counts of M maps from numbers in the order of on_device.count_maps."""
    levels = len(metrics.THRESHOLDS)
    finite, area, table, under, means = np.split(found, np.cumsum([1, 1, 2 * levels, masks]), axis=1)
    outside, hit = metrics.passing(table.astype(np.int64).reshape(-1, 2, levels)).swapaxes(0, 1)
    rows = zip(finite.ravel(), hit, outside + area.astype(np.int64), under > 0, means, strict=True)
    return [MapCounts(*counts) if known else None for known, *counts in rows]


def _once(mask: np.ndarray, prepared: Prepared, make: Callable[[np.ndarray], Any]) -> Any:
    """What `make` makes of a mask; for masks of one image it is kept."""
    if id(mask) not in prepared:
        prepared[id(mask)] = (mask, make(mask))
    return prepared[id(mask)][1]
