"""Where the words of an expression lie in the prompt and in the text window."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrbind_exp.language.window import Text
from attrbind_exp.types import Phrase, Prompt

if TYPE_CHECKING:
    from attrbind_exp.backbones.backbone import EncodedText

Span = tuple[int, int]  # characters [start, end)


def in_prompt(prompt: Prompt, span: Span) -> Span:
    """Characters of the expression as characters of the prompt."""
    shift = len(prompt.prefix)
    return span[0] + shift, span[1] + shift


def rows_of(prompt: Prompt, span: Span, encoded: "Mapping[Text, EncodedText]") -> tuple[int, ...]:
    """The positions of characters of the expression; none for those beyond the window."""
    return encoded[prompt.text].tokens.at(*in_prompt(prompt, span))


def rows_of_attributes(prompt: Prompt, phrase: Phrase, encoded: "Mapping[Text, EncodedText]") -> list[int]:
    """The positions of a phrase's attributes, in order."""
    return [i for span in phrase.attributes for i in rows_of(prompt, span, encoded)]


def text_of(prompt: Prompt, span: Span) -> str:
    """Characters of the expression."""
    return prompt.parse.text[slice(*span)]


def attributed(prompt: Prompt) -> Sequence[Phrase]:
    """The things of the expression that an attribute stands before."""
    return [phrase for phrase in prompt.parse.phrases if phrase.attributes]
