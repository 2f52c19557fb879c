"""k gradient steps on the noisy latents, down a loss on cross-attention: what a method of the group latent_steps is.

A: cross-attention of the ratio's layers, meaned over heads and layers, (L, h, w): A[p] is the map of position p of the
text window. z_t: the noisy latents. A step is z_t <- z_t - size * (gradient of the loss by z_t).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from attrbind_exp.types import UserError

if TYPE_CHECKING:  # so that a table of finished runs is made without loading torch
    from torch import Tensor

    from attrbind_exp.latent_steps.words import Words

PASSES = 3  # about what a step costs: a pass, its way back, and what is made anew on that way


@dataclass(frozen=True)
class LatentSteps(ABC):
    """One loss, and how far it is followed. Subclass it as a frozen dataclass.

    `steps`: how many; `size`: of each; `ratio`: which cross-attention the loss sees, so many times coarser than the
    latents. At 4 Stable Diffusion 1.5 has the 16 x 16 cells of the papers at 512 pixels. `kind`: what labels call it.
    """

    kind: ClassVar[str]
    steps: int = 1
    size: float = 20.0
    ratio: int = 4

    def __post_init__(self) -> None:
        """Raises UserError for numbers that cannot be."""
        for key, least in (("steps", 0), ("ratio", 1)):
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise UserError(f"latent_steps.{key}={value!r}; give a whole number >= {least}")
        if type(self.size) not in (int, float) or not 0 < self.size < math.inf:
            raise UserError(f"latent_steps.size={self.size!r}; give a number above 0 (the papers: 20)")

    @property
    def label(self) -> str:
        """Such as "syngen x3 size=10": the kind, the steps, and what else differs from the defaults."""
        others = [f for f in fields(self) if f.name != "steps" and getattr(self, f.name) != f.default]
        return " ".join([f"{self.kind} x{self.steps}", *(f"{f.name}={getattr(self, f.name):g}" for f in others)])

    @abstractmethod
    def applies(self, words: "Words") -> bool:
        """Whether there is anything to step for; a prompt without it keeps its latents."""

    @abstractmethod
    def loss(self, maps: "Tensor", words: "Words") -> "Tensor":
        """The loss () of one prompt. `maps`: A, (L, h, w), float32 at least."""


def passes_of(method: "LatentSteps | None") -> int:
    """About how many passes a row costs under latent steps, the one that is read among them."""
    return 1 if method is None else 1 + PASSES * method.steps


def smooth(maps: "Tensor") -> "Tensor":
    """Maps (.., h, w) under the 3 x 3 kernel of Attend-and-Excite, the edges mirrored.

    Its weights are exp(-(x / (2 sigma))^2) with sigma = 0.5, divided by their sum: wider than a Gaussian of that sigma,
    and what the script has.
    """
    side = math.exp(-1)
    for axis in (-2, -1):
        last = maps.shape[axis] - 1
        before, after = _taken(maps, axis, [1, *range(last)]), _taken(maps, axis, [*range(1, last + 1), last - 1])
        maps = (maps + side * (before + after)) / (1 + 2 * side)
    return maps


def _taken(maps: "Tensor", axis: int, order: Sequence[int]) -> "Tensor":
    return maps[..., order, :] if axis == -2 else maps[..., order]


def shares(maps: "Tensor", positions: Sequence[int]) -> "Tensor":
    """The attention that some positions get in each cell, (len(positions), h, w): softmax of 100 A over the whole
    window but its first and last position, so that end token and padding have their shares."""
    return (100 * maps[1:-1]).softmax(0)[[p - 1 for p in positions]]
