"""Nouns pulled to their own attributes and pushed from those of others, as Magnet does."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrbind_exp.edits.edit import Edit
from attrbind_exp.edits.phrases import attributed, rows_of, text_of
from attrbind_exp.language.window import Text
from attrbind_exp.types import Phrase, Prompt, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


# Things of many kinds, and shapes. Of these the nearest ones to a noun are its neighbours.
NOUNS = (
    *("person", "dog", "horse", "bird", "car", "boat", "chair", "bottle", "shirt", "ball"),
    *("circle", "square", "star", "heart", "ring", "cross"),
)


@dataclass(frozen=True)
class Magnet(Edit):
    """E_noun <- E_noun + a v+ - b sum v-, for the last piece of every noun of the expression.

    v+ is the mean of e(attributes k) - e(k) over the noun's neighbours k, e(text) the row of a text's last token; each
    v- is the same with the attributes of another noun and this noun's neighbours. a = exp(l - w), b = 1 - w^2, where w
    is the cosine between the end token and the last padding of the noun with its attributes; l = 0.6. Neighbours: the
    5 texts of the smallest angle to e(noun) among the noun itself and `nouns`.

    Source: Magnet (arXiv 2409.19967, `get_magnet_direction`). Departures: their neighbours come from a list of some 600
    nouns, ours from the sixteen above, so that a few dozen short texts are encoded for an expression, not thousands;
    attributes are those of our parser; for Stable Diffusion 2.x they take w from the position behind the end token.
    """

    nouns: tuple[str, ...] = NOUNS
    neighbours: int = 5
    strength: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "nouns", tuple(self.nouns))  # a list from YAML
        if type(self.neighbours) is not int or self.neighbours < 1:
            raise UserError(
                f"neighbours={self.neighbours!r} of the edit Magnet; give a whole number >= 1 (the paper: 5)"
            )

    def texts(self, prompt: Prompt) -> Sequence[str]:
        """Every noun with its attributes; every noun and candidate alone and behind every noun's attributes."""
        nouns = dict.fromkeys([*(text_of(prompt, phrase.noun) for phrase in prompt.parse.phrases), *self.nouns])
        before = [_before(prompt, phrase) for phrase in attributed(prompt)]
        concepts = [_before(prompt, p) + text_of(prompt, p.noun) for p in prompt.parse.phrases]
        return [*concepts, *nouns, *(words + noun for words in before for noun in nouns)]

    def changes(self, prompt: Prompt) -> bool:
        """Not where nothing has attributes."""
        return bool(attributed(prompt))

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with the last row of every noun moved."""
        edited = E.clone()
        for phrase in prompt.parse.phrases:
            rows, noun = rows_of(prompt, phrase.noun, encoded), text_of(prompt, phrase.noun)
            if not rows:
                continue
            candidates, near = self._neighbours(noun, encoded)
            concept = encoded[_before(prompt, phrase) + noun]
            w = _cosine(concept.states[concept.tokens.end], concept.states[-1])
            for other in attributed(prompt):
                words = _before(prompt, other)
                those, plain = (_stack(_last(encoded[b + k]) for k in candidates) for b in (words, ""))
                v = sum(those.index_select(0, near) - plain.index_select(0, near)) / len(near)
                edited[rows[-1]] += (self.strength - w).exp() * v if other == phrase else (w**2 - 1) * v
        return edited

    def _neighbours(self, noun: str, encoded: "Mapping[Text, EncodedText]") -> "tuple[list[str], Tensor]":
        """The candidates for a noun's neighbours, it among them, and the numbers of the nearest ones, in order. These
        stay on the device, which nobody waits for."""
        center = _last(encoded[noun])
        candidates = list(dict.fromkeys([noun, *self.nouns]))
        cosines = _stack(_cosine(_last(encoded[k]), center) for k in candidates)
        return candidates, cosines.argsort(descending=True, stable=True)[: self.neighbours]


def _before(prompt: Prompt, phrase: Phrase) -> str:
    """The attributes of a noun with what stands between them, and a space: "gray and white "; "" where it has none."""
    if not phrase.attributes:
        return ""
    return text_of(prompt, (phrase.attributes[0][0], phrase.attributes[-1][1])) + " "


def _last(text: "EncodedText") -> "Tensor":
    """The row (D,) of a text's last token."""
    return text.states[text.tokens.end - 1]


def _cosine(a: "Tensor", b: "Tensor") -> "Tensor":
    """The cosine () of the angle between two rows (D,)."""
    return (a @ b) / (a.norm() * b.norm())


def _stack(rows: "Iterable[Tensor]") -> "Tensor":
    """Rows as one tensor."""
    from torch import stack  # edits are named without torch, too

    return stack(list(rows))
