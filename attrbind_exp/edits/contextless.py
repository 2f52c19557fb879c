"""Every word without its context."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from attrbind_exp.edits.edit import Edit
from attrbind_exp.language.window import Text, TextRequest, as_slice
from attrbind_exp.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


@dataclass(frozen=True)
class Contextless(Edit):
    """E_w <- e(w alone) for every word w of the prompt, encoded at its place with all other words hidden from it.

    What is left are the words and their order. Pieces of one word see each other. Source: arXiv 2606.03715 ("bag of
    position-tagged words"), rebuilt from its abstract. Departures: their models are diffusion transformers, whose text
    encoders are others. CLIP's end token and padding see the whole prompt, and they stay here: chain EndToken and
    Padding behind to empty them, too. It costs an encoded text for each word. It applies to every prompt, also where
    nothing modifies the target.
    """

    gated: ClassVar[bool] = False

    def texts(self, prompt: Prompt) -> Sequence[Text]:
        """The prompt once for every word, the others hidden."""
        words = _words(prompt.text)
        return [TextRequest(prompt.text, hidden=tuple(w for w in words if w != word)) for word in words]

    def changes(self, prompt: Prompt) -> bool:
        """Not where the prompt is one word, or none."""
        return len(_words(prompt.text)) > 1

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with the rows of every word replaced."""
        edited, tokens = E.clone(), encoded[prompt.text].tokens
        for word, text in zip(_words(prompt.text), self.texts(prompt), strict=True):
            if rows := tokens.at(*word):
                edited[as_slice(rows)] = encoded[text].states[as_slice(rows)]
        return edited


def _words(text: str) -> list[tuple[int, int]]:
    """The characters [start, end) of what stands between spaces."""
    return [found.span() for found in re.finditer(r"\S+", text)]
