"""SynGen: a modifier attends where its noun does, and where other words do not.

Rassin et al., Linguistic Binding in Diffusion Models (2023), equations 2 to 4.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from attrbind_exp.latent_steps.method import LatentSteps

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.latent_steps.words import Word, Words

LEAST = 1e-7  # of a probability whose logarithm is taken


@dataclass(frozen=True)
class Syngen(LatentSteps):
    """The sum over pairs of a modifier m and its noun n of D(m, n) - mean over u of (D(m, u) + D(n, u)) / 2.

    D is the symmetric KL divergence of two maps, each divided by its sum; of a word of several tokens the farthest one
    counts, as in the script. u are the tokens of the text that do not belong to the noun or any of its modifiers.
    """

    kind: ClassVar[str] = "syngen"

    def applies(self, words: "Words") -> bool:
        """Whether any noun has a modifier."""
        return any(thing.attributes for thing in words.things)

    def loss(self, maps: "Tensor", words: "Words") -> "Tensor":
        distances = symmetric_kl(maps[list(words.content)])  # (T, T)

        def between(one: "Word", other: "Word") -> "Tensor":
            rows, columns = [words.place(p) for p in one], [words.place(p) for p in other]
            return distances[rows][:, columns].max()

        total = maps.new_zeros(())
        for thing in words.things:
            others = [(p,) for p in words.content if p not in thing.positions]
            for modifier in thing.attributes:
                total = total + between(modifier, thing.noun)
                for other in others:
                    apart = between(modifier, other) + between(thing.noun, other)
                    total = total - apart / (2 * len(others))
        return total


def symmetric_kl(maps: "Tensor") -> "Tensor":
    """D of every two of T maps (T, h, w): (T, T). D(p, q) = (KL(p, q) + KL(q, p)) / 2."""
    p = maps.flatten(1)
    p = p / p.sum(1, keepdim=True)
    logs = p.clamp_min(LEAST).log()
    crossed = p @ logs.T  # [i, j]: sum of p_i log p_j
    own = crossed.diagonal()
    one_way = own[:, None] - crossed  # KL(p_i, p_j)
    return (one_way + one_way.T) / 2
