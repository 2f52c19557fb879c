"""Attend-and-Excite: every noun has a place that attends to it.

Chefer et al., Attend-and-Excite (2023), equation 1 and algorithm 1.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from attrbind_exp.latent_steps.method import LatentSteps, shares, smooth

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.latent_steps.words import Words


@dataclass(frozen=True)
class AttendAndExcite(LatentSteps):
    """The largest over nouns of 1 - max A', with A' the noun's smoothed share of the window's attention (`shares`).
    Each token of a noun is one by itself."""

    kind: ClassVar[str] = "attend_and_excite"

    def applies(self, words: "Words") -> bool:
        """Whether there is a noun."""
        return bool(words.things)

    def loss(self, maps: "Tensor", words: "Words") -> "Tensor":
        nouns = [p for thing in words.things for p in thing.noun]
        return (1 - smooth(shares(maps, nouns)).flatten(1).amax(1)).max()
