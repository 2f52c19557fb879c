"""The floor of every edit: what the model does with no text at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from attrbind_exp.edits.edit import Edit
from attrbind_exp.language.window import Text
from attrbind_exp.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


@dataclass(frozen=True)
class TextBlind(Edit):
    """E <- U: the whole embedding is the empty prompt's, pooled vector and all. Heat is read at the prompt's positions.

    What its map finds, it finds without a word of the expression. It is no method but a floor, so it applies to every
    prompt, also where there is nothing to bind.
    """

    gated: ClassVar[bool] = False
    blind: ClassVar[bool] = True

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """U, whatever E was."""
        return encoded[""].states.clone()

    def pool(self, pooled: "Tensor | None", encoded: "Mapping[Text, EncodedText]") -> "Tensor | None":
        """The empty prompt's: where a model takes one, the text would come back in by it."""
        return encoded[""].pooled
