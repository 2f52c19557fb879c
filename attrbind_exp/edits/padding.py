"""The end token and the padding behind it, taken from another text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from attrbind_exp.edits.edit import Edit
from attrbind_exp.language.window import Text, Tokens
from attrbind_exp.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText


Source = Literal["empty", "chunk"]


@dataclass(frozen=True)
class _Tail(Edit):
    """What stands behind the words comes from another text: the `source` "empty" (prompt) or the target's "chunk"."""

    gated: ClassVar[bool] = False
    source: Source = "empty"

    def texts(self, prompt: Prompt) -> Sequence[str]:
        """What the rows come from."""
        return ("" if self.source == "empty" else prompt.parse.chunk_text,)

    def changes(self, prompt: Prompt) -> bool:
        """Not where the prompt is that text already."""
        return self.texts(prompt) != (prompt.text,)


@dataclass(frozen=True)
class Padding(_Tail):
    """E_p <- U_p, or C_p, for every position p behind the end token: the padding is the empty prompt's, or that of the
    target's chunk C encoded alone.

    The heat of a word is its share among all positions, of which most are padding; in CLIP the padding sees the whole
    prompt. Source: the interventions of "Padding Tone" (arXiv 2501.06751), which replaces padding by that of an empty
    prompt ("clean pads"); the chunk's is ours. It applies to every prompt, also where nothing modifies the target.
    """

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with its padding replaced."""
        (text,) = self.texts(prompt)
        return lay_padding(E, encoded[prompt.text].tokens, encoded[text])


@dataclass(frozen=True)
class EndToken(_Tail):
    """E_end <- U_end, or C_end: the row of the end token is the empty prompt's, or that of the target's chunk C encoded
    alone, from its own place there.

    CLIP is trained to put the whole text's meaning into this row. Source and scope: as Padding's.
    """

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with its end token replaced."""
        (text,) = self.texts(prompt)
        return lay_end_token(E, encoded[prompt.text].tokens, encoded[text])


def lay_end(E: "Tensor", tokens: Tokens, other: "EncodedText") -> "Tensor":
    """E (L, D) with the end token and the padding of another text."""
    return lay_padding(lay_end_token(E, tokens, other), tokens, other)


def lay_end_token(E: "Tensor", tokens: Tokens, other: "EncodedText") -> "Tensor":
    """E (L, D) with the end token of another text."""
    edited = E.clone()
    edited[tokens.end] = other.states[other.tokens.end]
    return edited


def lay_padding(E: "Tensor", tokens: Tokens, other: "EncodedText") -> "Tensor":
    """E (L, D) with the padding of another text, which must be no longer, from the same positions."""
    edited = E.clone()
    edited[tokens.end + 1 :] = other.states[tokens.end + 1 :]
    return edited
