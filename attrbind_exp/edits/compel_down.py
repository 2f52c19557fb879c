"""Weights below 1, as the prompt weighting library compel takes them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrbind_exp.edits.weight import Weight
from attrbind_exp.language.window import Text, TextRequest
from attrbind_exp.types import Prompt, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText

LEAST = 1e-5  # the lowest weight, compel's: at 0 the tangent has no end


@dataclass(frozen=True)
class CompelDown(Weight):
    """E <- (W(E) + t sum_i W(E_i)) / (1 + n t), t = tan((1 - w) pi / 2), for w from 0 to 1 on n pieces of text.

    W is Weight: w E + (1 - w) U on the rows of all chosen words. E_i is the prompt encoded so that no token can attend
    to those of piece i, all tokens at their places. So at w = 0.5 every row, not the words' alone, is the mean of the
    prompt with the words and the prompt without them; at w = 0 the words are gone.

    Source: compel 2 (`EmbeddingsProvider`, its mode MASK, which is the default). A piece is what stands in one pair of
    brackets there; here the target, the chunk, each side of the target, or each listed word. Departure: W(E) is made of
    E as the edits before left it, the E_i come from the text encoder.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight <= 1:
            raise UserError(f"weight={self.weight:g} of CompelDown; give one from 0 to 1, above 1 compel is Weight")

    def texts(self, prompt: Prompt) -> Sequence[Text]:
        """The prompt without each piece in turn."""
        return [TextRequest(prompt.text, hidden=(span,)) for span in self.spans(prompt)]

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """The mean of E and of the prompts without the words, all weighted."""
        share = math.tan((1 - max(self.weight, LEAST)) * math.pi / 2)
        edited, without = super().apply(E, encoded, prompt), self.texts(prompt)
        for text in without:
            edited = edited + share * super().apply(encoded[text].states, encoded, prompt)
        return edited / (1 + len(without) * share)
