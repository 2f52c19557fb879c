"""From characters of the prompt to positions in the tokenizer's window."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokens:
    """One prompt in the window: `ids` (L,) with BOS, EOS and padding; `offsets[i]` = characters of token i, (0, 0) for
    the special ones; `truncated` where the prompt is longer than the window."""

    ids: Tensor
    offsets: tuple[tuple[int, int], ...]
    truncated: bool

    @property
    def content(self) -> tuple[int, ...]:
        """Positions of the tokens that stand for characters."""
        return tuple(i for i, (a, b) in enumerate(self.offsets) if a < b)

    def at(self, start: int, end: int) -> tuple[int, ...]:
        """Positions of the tokens that touch the characters [start, end)."""
        return tuple(i for i in self.content if self.offsets[i][0] < end and self.offsets[i][1] > start)


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Tokens]:
    """Tokenize prompts to the model's own window, padded as the model was trained with."""
    window = tokenizer.model_max_length
    batch = tokenizer(
        texts, padding="max_length", max_length=window, truncation=True, return_offsets_mapping=True, verbose=False
    )
    whole = tokenizer(texts, add_special_tokens=True, verbose=False).input_ids
    return [
        Tokens(torch.tensor(ids), tuple((int(a), int(b)) for a, b in offsets), len(full) > window)
        for ids, offsets, full in zip(batch.input_ids, batch.offset_mapping, whole, strict=True)
    ]
