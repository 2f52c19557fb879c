"""What may be done to a heat map after it was read and before it is scored. Loads no torch.

A refinement brings in what attention does not know: the picture's edges, or another model's masks. So its figures stand
apart: every label of a refined run says so (`edits.variant.is_refined`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol, overload, runtime_checkable

import numpy as np
from PIL import Image

from attrbind_exp.types import HeatMap, Sample, SampleError, UserError


@runtime_checkable
class Refinement(Protocol):
    """A way of refining heat maps; a frozen dataclass, whose name and fields make the label.

    `peaks`: whether the highest place of what comes out says anything; `classes`: whether heat maps of several classes
    can compete for a pixel afterwards.
    """

    peaks: ClassVar[bool]
    classes: ClassVar[bool]

    def check(self) -> None:
        """Raise UserError where something that it needs is not there."""

    def refine(self, heat: np.ndarray, image: Image.Image, sample: Sample) -> np.ndarray:
        """A heat map (H, W) float32 in [0, 1] of `sample` on its picture (RGB, of the same size) -> another one of the
        same size, in [0, 1]. Called in threads. Raises SampleError."""

    def references(self, sample: Sample, truth: np.ndarray) -> Mapping[str, Sequence[float]]:
        """IoU with `truth` (H, W) bool of what the refinement adds to the references (scoring/references.py), by name
        in the rows."""

    def edited(self) -> str:
        """A digest of the files that it reads, which belongs to the run's identity; "" where it reads none."""


def refine_finite(refinement: Refinement, heat: np.ndarray, image: Image.Image, sample: Sample) -> np.ndarray:
    """The refined heat map (H, W). One that is not finite stays as it is, for the scorer to name it."""
    return refinement.refine(heat, image, sample) if np.isfinite(heat).all() else heat


def refine_picture(refinement: Refinement, heat: HeatMap, image: Image.Image, path: str, expression: str) -> HeatMap:
    """The refined heat map of an expression on a picture that belongs to no dataset. Files that are kept by image are
    found by the picture's file name, `path` ("" = it has none). Raises UserError where that fails."""
    file = Path(path)
    sample = Sample(expression, file.name, file, expression, None, None, (image.height, image.width))
    try:
        return HeatMap(refine_finite(refinement, heat.values, image, sample))
    except SampleError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True)
class RefinedMaps(Sequence[HeatMap]):
    """The heat maps of one expression, each refined whenever it is asked for: by the thread that counts it."""

    heats: Sequence[HeatMap]
    refinement: Refinement
    image: Image.Image
    sample: Sample

    def __len__(self) -> int:
        return len(self.heats)

    @overload
    def __getitem__(self, number: int) -> HeatMap: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[HeatMap]: ...
    def __getitem__(self, number: int | slice) -> HeatMap | Sequence[HeatMap]:
        if isinstance(number, slice):
            return [self._refine(heat) for heat in self.heats[number]]
        return self._refine(self.heats[number])

    def __iter__(self) -> Iterator[HeatMap]:
        return map(self._refine, self.heats)

    def _refine(self, heat: HeatMap) -> HeatMap:
        refine = partial(refine_finite, self.refinement, image=self.image, sample=self.sample)
        return HeatMap(refine(heat.values))


def min_max(values: np.ndarray) -> np.ndarray:
    """Values (H, W) stretched to [0, 1] float32, as all heat maps are; zeros where all are equal."""
    low, high = values.min(), values.max()
    stretched = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.ascontiguousarray(stretched, np.float32)
