"""What the figures of heat maps stand between: floors that read no word, and the ceiling of the map's grid. Pure.

All are made once an expression, whatever the variants. H x W pixels, h x w cells of the latents, G = 10 thresholds of
the grid.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from attrbind_exp.scoring import counting, metrics
from attrbind_exp.scoring.counting import Maps
from attrbind_exp.scoring.figures import Reference

OBJECTS, CENTRE, CEILING = "floor: all objects", "floor: centre", "ceiling of the map's grid"
PROPOSALS = "ceiling of the proposals"  # the best of them, where a refinement chooses among them
NAMES = {
    "objects": OBJECTS,
    "centre": CENTRE,
    "ceiling": CEILING,
    "proposals": PROPOSALS,
}  # as rows call them, as tables do

Resize = Callable[[np.ndarray, tuple[int, int]], Maps]  # a map (h, w) -> a heat map (1, H, W), as all are made


def measure(
    truth: np.ndarray, objects: Sequence[np.ndarray] | None, grid: tuple[int, int] | None, resize: Resize
) -> dict[str, list[float]]:
    """IoU with `truth` (H, W) bool of every reference, by its name in the rows: at the G thresholds, or one number.

    "objects": the union of the masks of all annotated objects, the target among them; None = not known. "centre": see
    `centre_map`. "ceiling": the truth itself as a map of the latents' `grid` (h, w), made a heat map by `resize`. That
    is what a perfect map of that grid scores, and no strict bound: another map may happen to score more. None = the
    grid is not known.
    """
    found = {"centre": _at_grid(*_count_levels(_centre_levels(truth.shape), truth))}
    if objects is not None:
        union = truth.copy()
        for mask in objects:
            np.logical_or(union, mask, out=union)
        found["objects"] = [round(int(np.count_nonzero(truth)) / max(1, int(np.count_nonzero(union))), 6)]
    if grid is not None:
        (counts,) = counting.count_maps(resize(area_mean(truth, grid), truth.shape), [truth])
        assert counts is not None  # a mean of a mask is finite
        found["ceiling"] = _at_grid(counts.intersection, counts.union)
    return found


def centre_map(size: tuple[int, int]) -> np.ndarray:
    """A heat map (H, W) float32 that falls evenly from 1 in the centre to 0 in the corners, along ellipses of the
    picture's shape."""
    y, x = (np.abs(2 * np.arange(n) - n + 1) / max(1, n - 1) for n in size)  # 0 in the middle, 1 at the edge
    distance = np.hypot(y[:, None], x[None]) / np.sqrt(2)
    distance -= distance.min()
    return (1 - distance / max(distance.max(), np.finfo(float).tiny)).astype(np.float32)


def area_mean(truth: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The share of each of h x w even cells that `truth` (H, W) covers, (h, w) float32."""
    rows, columns = (_cells(n, cells) for n, cells in zip(truth.shape, grid, strict=True))
    return np.asarray(rows @ truth.astype(np.float32) @ columns.T)


@lru_cache(64)
def _cells(n: int, cells: int) -> np.ndarray:
    """Which share of each of `cells` even cells every one of n pixels makes, (cells, n) float32."""
    edges = np.arange(cells + 1) * n / cells
    pixels = np.arange(n)
    low, high = np.maximum(edges[:-1, None], pixels), np.minimum(edges[1:, None], pixels + 1)
    return (np.maximum(high - low, 0) * cells / n).astype(np.float32)


@lru_cache(64)
def _centre_levels(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Of `centre_map`: the row of THRESHOLDS that every pixel reaches, (H, W) uint8, and how many pass each, (K,)."""
    level = metrics.find_level(centre_map(size))
    return level, metrics.count_levels(level.ravel())


def _count_levels(levels: tuple[np.ndarray, np.ndarray], truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What metrics.count_overlap counts, of a map whose levels are known."""
    level, passed = levels
    hit = metrics.count_levels(level[truth])
    return hit, passed + np.count_nonzero(truth) - hit


def _at_grid(intersection: np.ndarray, union: np.ndarray) -> list[float]:
    """IoU at the G thresholds from counts (K,)."""
    each = metrics.iou(intersection, union)[list(metrics.GRID)]
    return [round(float(value), 6) for value in each]


class ReferenceScores:
    """Sums of the references of expressions, by their names in the rows."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, int] = {}

    def add(self, references: Mapping[str, Sequence[float]]) -> None:
        """Add one expression by what `measure` has found."""
        for name, values in references.items():
            self._sums[name] = self._sums.get(name, 0) + np.array(values)
            self._counts[name] = self._counts.get(name, 0) + 1

    def figures(self) -> list[Reference]:
        """Of each reference that there is mIoU in percent at its best threshold of the grid, floors first."""
        return [self._figures(name) for name in NAMES if name in self._sums]

    def _figures(self, name: str) -> Reference:
        n = self._counts[name]
        curve = 100 * self._sums[name] / n
        if len(curve) == 1:
            return Reference(NAMES[name], float(curve[0]), None, {}, n)
        best = int(curve.argmax())
        at = {metrics.key(k): float(value) for k, value in zip(metrics.GRID, curve, strict=True)}
        return Reference(NAMES[name], float(curve[best]), metrics.GRID[best] / 100, at, n)


def highest(floors: Mapping[str, float | None]) -> tuple[str, float] | None:
    """The name and mIoU of the highest floor, None where there is none."""
    known = [(name, value) for name, value in floors.items() if value is not None]
    return max(known, key=lambda pair: pair[1], default=None)


def share(mIoU: float | None, floor: float | None, ceiling: float | None) -> float | None:
    """How much of the way from a floor to the ceiling a figure has gone, in percent: (mIoU - floor) / (ceiling -
    floor). None where one of them is not known, or the ceiling does not lie above the floor."""
    if mIoU is None or floor is None or ceiling is None or ceiling <= floor:
        return None
    return 100 * (mIoU - floor) / (ceiling - floor)
