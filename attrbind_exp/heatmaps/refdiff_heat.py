"""refine=refdiff_heat: the proposal of another model that the heat map chooses.

Ni et al., "Ref-Diff: Zero-shot Referring Image Segmentation with Generative Models" (2023): the score of a mask m among
the proposals, as the heat of the diffusion model alone gives it, is

    s(m) = mean of the heat inside m - mean of the heat outside m
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from attrbind_exp.data.proposals import check_folder, digest_folder, read_proposals
from attrbind_exp.types import Sample, UserError


@dataclass(frozen=True)
class RefdiffHeat:
    """The mask of the proposal with the highest score as a heat map of 1 and 0, the same mask at every threshold above
    0. Of equal ones the first in the file. `proposals`: their folder (data/proposals.py)."""

    proposals: str | None = field(default=None, compare=False)  # a place, which labels leave out

    peaks: ClassVar[bool] = False  # of a mask
    classes: ClassVar[bool] = False  # masks of 1 and 0 cannot compete for a pixel

    def __post_init__(self) -> None:
        if not isinstance(self.proposals, str):
            raise UserError(
                f"refine.proposals={self.proposals}; give the folder of the proposals, one JSON file an image, as "
                "docs/refinement.md describes them"
            )

    @property
    def folder(self) -> Path:
        """Where the proposals lie."""
        return Path(str(self.proposals)).expanduser()

    def check(self) -> None:
        """Raise UserError where the folder is not there, or holds no file of proposals."""
        check_folder(self.folder)

    def refine(self, heat: np.ndarray, image: Image.Image, sample: Sample) -> np.ndarray:
        """The chosen mask (H, W) float32. Raises SampleError where the image has no proposals."""
        masks = read_proposals(self.folder, sample)
        return masks[int(np.argmax([score(heat, mask) for mask in masks]))].astype(np.float32)

    def references(self, sample: Sample, truth: np.ndarray) -> Mapping[str, Sequence[float]]:
        """The highest IoU of any proposal: what the best possible choice would score."""
        masks = read_proposals(self.folder, sample)
        return {"proposals": [round(max(iou(mask, truth) for mask in masks), 6)]}

    def edited(self) -> str:
        """The digest of the folder's files."""
        return digest_folder(self.folder)


def score(heat: np.ndarray, mask: np.ndarray) -> float:
    """Mean of the heat (H, W) inside a mask (H, W) bool less its mean outside; 0 for a mask that is the whole picture,
    which tells nothing apart."""
    inside = np.count_nonzero(mask)
    outside = mask.size - inside
    if not outside:
        return 0.0
    total, within = heat.sum(dtype=np.float64), heat.sum(dtype=np.float64, where=mask)
    return float(within / inside - (total - within) / outside)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks (H, W) bool, of which one has a pixel."""
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))
