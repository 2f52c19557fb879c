"""Every noun chunk re-encoded, as Structured Diffusion Guidance does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrbind_exp.edits.edit import Edit
from attrbind_exp.edits.phrases import rows_of, text_of
from attrbind_exp.language.window import Text, as_slice
from attrbind_exp.types import PrefixRule, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


@dataclass(frozen=True)
class AllChunks(Edit):
    """E_c <- R_c for every noun chunk c of the expression: each is encoded alone and laid back at its place.

    Noun chunk replacement (NounChunk) is the case of the target's chunk alone; `prefix` is as there. `average`: what
    the authors' code comes to. It makes one embedding a chunk, with that chunk alone laid back, and takes the mean of
    what these and the plain prompt give as values. Attention is linear in its values, so with n chunks that do not
    overlap this is E_c <- E_c + (R_c - E_c) / (n + 1) for where=values, the authors' default: their keys stay the plain
    prompt's.

    Source: Structured Diffusion Guidance (arXiv 2212.05032). Departures: chunks are those of our parser, not all noun
    phrases of a constituency tree, nested ones too; words of place ("the left") are none. A chunk that falls into other
    tokens alone, or lies beyond the window, stays as it is. Their `--conjunction` takes the mean over several keys,
    which no single embedding gives; where=keys is not that.
    """

    prefix: PrefixRule = "none"
    average: bool = False

    def texts(self, prompt: Prompt) -> Sequence[str]:
        """Every chunk, behind its prefix."""
        return [self._before(prompt) + text_of(prompt, phrase.chunk) for phrase in prompt.parse.phrases]

    def changes(self, prompt: Prompt) -> bool:
        """Not where the only chunk is the whole prompt."""
        return any(text != prompt.text for text in self.texts(prompt))

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with the rows of every chunk replaced, or moved towards what would replace them."""
        edited, ids = E.clone(), encoded[prompt.text].tokens.ids
        laid = []
        for phrase, text in zip(prompt.parse.phrases, self.texts(prompt), strict=True):
            chunk, rows = encoded[text], rows_of(prompt, phrase.chunk, encoded)
            alone = chunk.tokens.at(len(self._before(prompt)), len(text))
            if rows and [chunk.tokens.ids[i] for i in alone] == [ids[i] for i in rows]:
                laid.append((as_slice(rows), chunk.states[as_slice(alone)]))
        for at, R in laid:
            edited[at] = E[at] + (R - E[at]) / (len(laid) + 1) if self.average else R
        return edited

    def _before(self, prompt: Prompt) -> str:
        return prompt.prefix if self.prefix == "template" else ""
