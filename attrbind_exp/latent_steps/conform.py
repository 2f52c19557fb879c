"""CONFORM: the tokens of a thing attend alike, those of different things apart.

Meral et al., CONFORM (2024), equation 3.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from attrbind_exp.latent_steps.method import LatentSteps, shares, smooth
from attrbind_exp.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.latent_steps.words import Words

LEAST = 1e-12  # length by which a map is divided: float32 has none where every cell attends to another position


@dataclass(frozen=True)
class Conform(LatentSteps):
    """InfoNCE, the mean over ordered pairs (i, j) of tokens of one thing:
    -log( e^(s_ij / T) / (e^(s_ij / T) + sum over k of other things e^(s_ik / T)) ).

    s is the cosine of two smoothed maps of `shares`, T the `temperature`. The authors add the maps of the timestep
    before as further members of each thing; here there is a single timestep, so there are none.
    """

    kind: ClassVar[str] = "conform"
    temperature: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.temperature) not in (int, float) or not 0 < self.temperature < math.inf:
            raise UserError(f"latent_steps.temperature={self.temperature!r}; give a number above 0 (the paper: 0.5)")

    def applies(self, words: "Words") -> bool:
        """Whether there are two things, and a pair within one of them."""
        sizes = [len(thing.positions) for thing in words.things]
        return len(sizes) > 1 and max(sizes) > 1

    def loss(self, maps: "Tensor", words: "Words") -> "Tensor":
        tokens = [(number, p) for number, thing in enumerate(words.things) for p in thing.positions]
        found = smooth(shares(maps, [p for _, p in tokens])).flatten(1)
        found = found / found.norm(dim=1, keepdim=True).clamp_min(LEAST)
        similar = found @ found.T / self.temperature  # (M, M)
        terms = []
        for i, (thing, _) in enumerate(tokens):
            alike = [j for j, (other, _) in enumerate(tokens) if other == thing and j != i]
            apart = [k for k, (other, _) in enumerate(tokens) if other != thing]
            terms += [similar[i, [j, *apart]].logsumexp(0) - similar[i, j] for j in alike]
        return sum(terms[1:], terms[0]) / len(terms)
