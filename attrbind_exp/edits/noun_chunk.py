"""Noun chunk replacement (NCR), equation 3 of the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrbind_exp.edits.edit import Edit
from attrbind_exp.language.window import Text, as_slice
from attrbind_exp.types import PrefixRule, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


@dataclass(frozen=True)
class NounChunk(Edit):
    """E_POS <- R: the target's noun chunk as it is encoded alone, (m, D), takes the place of its m rows in the prompt.

    `prefix`: what stands before the chunk where it is encoded; "none" as in the paper, "template" keeps the first words
    of the prompt, "a photograph of ", so that the chunk stays at its place in the sentence. CLIP is causal: with the
    prefix, a chunk that starts the expression is not changed at all.
    """

    prefix: PrefixRule = "none"

    def texts(self, prompt: Prompt) -> Sequence[str]:
        """The chunk, behind its prefix."""
        return (self._before(prompt) + prompt.parse.chunk_text,)

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with the rows POS replaced. Raises ValueError unless the chunk has as many tokens as POS has positions."""
        (text,) = self.texts(prompt)
        chunk = encoded[text]
        R = chunk.states[as_slice(chunk.tokens.at(len(self._before(prompt)), len(text)))]
        return replace_rows(E, R, prompt.pos)

    def _before(self, prompt: Prompt) -> str:
        return prompt.prefix if self.prefix == "template" else ""


def replace_rows(E: "Tensor", R: "Tensor", pos: Sequence[int]) -> "Tensor":
    """E (L, D) with its rows `pos` replaced by R (m, D), in order. Raises ValueError unless there are m of them."""
    if len(R) != len(pos):
        raise ValueError(f"R has {len(R)} rows for {len(pos)} positions")
    edited = E.clone()
    edited[as_slice(pos)] = R
    return edited
