"""From characters of the prompt to positions in the tokenizer's window."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from attrbind_exp.types import UserError


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
    if not texts:
        return []
    window = tokenizer.model_max_length
    batch = tokenizer(
        texts, padding="max_length", max_length=window, truncation=True, return_offsets_mapping=True, verbose=False
    )
    full = [i for i, mask in enumerate(batch.attention_mask) if all(mask)]  # no padding: perhaps truncated
    whole = tokenizer([texts[i] for i in full], verbose=False).input_ids if full else []
    truncated = {i for i, ids in zip(full, whole, strict=True) if len(ids) > window}
    return [
        Tokens(torch.tensor(ids), tuple((int(a), int(b)) for a, b in offsets), i in truncated)
        for i, (ids, offsets) in enumerate(zip(batch.input_ids, batch.offset_mapping, strict=True))
    ]


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer alone of a model in Stable Diffusion's layout: a folder, or a hub name in the local cache.

    Raises UserError where there is none.
    """
    local = Path(path).expanduser()
    name = str(local) if local.is_dir() else path
    try:
        tokenizer = CLIPTokenizer.from_pretrained(name, subfolder="tokenizer", local_files_only=True)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty one of missing files
            raise OSError("its files are not there")
    except Exception as error:  # the tokenizers library raises bare Exceptions for torn files
        reason = str(error).strip().splitlines()[0][:160].rstrip(".")
        raise UserError(f"no tokenizer at model.path='{path}' ({reason}); give a folder with tokenizer/") from error
    return tokenizer
