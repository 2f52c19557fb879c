"""Weighted words, as compel and prompt-weighting interfaces write them ("a (white:1.2) dog")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from attrbind_exp.edits.averaging import average_rows
from attrbind_exp.edits.edit import Edit
from attrbind_exp.edits.phrases import in_prompt
from attrbind_exp.language.window import Text
from attrbind_exp.types import Prompt, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from attrbind_exp.backbones.backbone import EncodedText

Which = Literal["target", "chunk", "modifiers"]


@dataclass(frozen=True)
class Weight(Edit):
    """U + w (E - U) on chosen words, computed as w E + (1 - w) U, which is exact at w = 1. UEA is the case w = alpha on
    the target. compel uses it for w > 1; below 1 compel also blends in the prompt without the words (CompelDown).

    `words`: "target", "chunk", or "modifiers" (the chunk without the target), or a list of words, each wherever it
    stands in the prompt.
    """

    weight: float
    words: Which | tuple[str, ...] = "target"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.words, str):
            if self.words not in get_args(Which):
                choices = f"{', '.join(get_args(Which))}, or give a list of words"
                raise UserError(f"words={self.words!r} of the edit {type(self).__name__}; choose from {choices}")
        else:
            object.__setattr__(self, "words", tuple(self.words))  # a list from YAML

    def changes(self, prompt: Prompt) -> bool:
        """Not at weight 1."""
        return self.weight != 1

    def apply(self, E: "Tensor", encoded: "Mapping[Text, EncodedText]", prompt: Prompt) -> "Tensor":
        """E with the chosen words weighted."""
        tokens = encoded[prompt.text].tokens
        rows = sorted({i for span in self.spans(prompt) for i in tokens.at(*span)})
        return average_rows(E, encoded[""].states, rows, self.weight) if rows else E

    def spans(self, prompt: Prompt) -> Sequence[tuple[int, int]]:
        """The chosen words, as characters [start, end) of the prompt."""
        if not isinstance(self.words, str):
            words = {word.lower() for word in self.words}
            return [span for span in _word_spans(prompt.text) if prompt.text[slice(*span)].lower() in words]
        (start, end), (first, last) = in_prompt(prompt, prompt.parse.chunk), in_prompt(prompt, prompt.parse.target)
        around = [span for span in ((start, first), (last, end)) if span[0] < span[1]]
        return {"target": [(first, last)], "chunk": [(start, end)], "modifiers": around}[self.words]


def _word_spans(text: str) -> list[tuple[int, int]]:
    """The characters [start, end) of every word of a text, punctuation at its ends left out."""
    spans, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        bare = word.strip(".,;:!?()\"'")
        first = start + word.find(bare)
        spans.append((first, first + len(bare)))
        start += len(word)
    return spans
