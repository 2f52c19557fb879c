"""Door 4: what is scored. A task says what a row is, how heat maps become rows, and how rows become figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image

from attrbind_exp.runs.maps import KeptMaps
from attrbind_exp.runs.rows import Row
from attrbind_exp.scoring.figures import VariantFigures
from attrbind_exp.types import Failure, HeatMap, Prompt, Sample


@dataclass(frozen=True)
class Segmented:
    """One expression on its picture with its heat maps.

    `truth`: (H, W) bool, None without a ground truth; `heats`: every distinct heat map once; `index[variant][seed]`:
    which of them it is under a variant and noise seed. Variants may share a map.
    """

    sample: Sample
    image: Image.Image
    truth: np.ndarray | None
    prompt: Prompt
    heats: Sequence[HeatMap]
    index: Sequence[Sequence[int]]

    def heat(self, variant: int, seed: int) -> HeatMap:
        """The heat map under the variant and noise seed of these numbers."""
        return self.heats[self.index[variant][seed]]


@dataclass(frozen=True)
class SegmentedImage:
    """One image: its expressions with their heat maps, what failed in it, and its completed maps where they are to be
    kept."""

    image_id: str
    items: Sequence[Segmented]
    failures: Sequence[Failure]
    kept: KeptMaps | None = None
