"""Attributes merged into their nouns, as ToMe does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attrbind_exp.edits.edit import Edit
from attrbind_exp.edits.padding import lay_end
from attrbind_exp.edits.phrases import attributed, in_prompt, rows_of, rows_of_attributes
from attrbind_exp.language.window import Text
from attrbind_exp.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


@dataclass(frozen=True)
class Merge(Edit):
    """E_noun <- a sum E_noun + b sum E_attributes, E_attributes <- 0, for every thing that has attributes; the end
    token and the padding become those of the prompt without the attributes' words.

    a = 1.1, b = 1.2. Source: ToMe (arXiv 2411.07132, `token_merge`; the other ToMe merges tokens of pictures).
    Departures: of a noun of several pieces each carries the sum (theirs: the first one, zeros behind it), since heat is
    read at all of them; the end token comes from the merged prompt's end token, where theirs takes the row at the same
    position; their steps of optimization, on the tokens and the latents, are left out.
    """

    noun: float = 1.1
    attributes: float = 1.2

    def texts(self, prompt: Prompt) -> Sequence[str]:
        """The prompt without the attributes."""
        text = prompt.text
        for phrase in reversed(prompt.parse.phrases):
            for span in reversed(phrase.attributes):
                start, end = in_prompt(prompt, span)
                text = text[:start] + text[end:]
        return (" ".join(text.split()),)

    def changes(self, prompt: Prompt) -> bool:
        """Not where nothing has attributes."""
        return bool(attributed(prompt))

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with the attributes merged into the nouns."""
        edited = E.clone()
        for phrase in attributed(prompt):
            noun, others = rows_of(prompt, phrase.noun, encoded), rows_of_attributes(prompt, phrase, encoded)
            if noun and others:
                edited[list(noun)] = self.noun * E[list(noun)].sum(0) + self.attributes * E[others].sum(0)
                edited[others] = 0
        (text,) = self.texts(prompt)
        return lay_end(edited, encoded[prompt.text].tokens, encoded[text])
