"""CLIP's tokenizer as a text window."""

from collections.abc import Sequence
from pathlib import Path

from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from attrbind_exp.language.window import Tokens
from attrbind_exp.types import UserError


class ClipWindow:
    """The window of a CLIP text encoder: 77 positions for Stable Diffusion, padded as the model was trained with."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Every text in the window."""
        if not texts:
            return []
        tokenizer, window = self.tokenizer, self.tokenizer.model_max_length
        batch = tokenizer(
            list(texts),
            padding="max_length",
            max_length=window,
            truncation=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        full = [i for i, mask in enumerate(batch.attention_mask) if all(mask)]  # no padding: perhaps truncated
        whole = tokenizer([texts[i] for i in full], verbose=False).input_ids if full else []
        truncated = {i for i, ids in zip(full, whole, strict=True) if len(ids) > window}
        return [
            Tokens(tuple(ids), tuple((int(a), int(b)) for a, b in offsets), i in truncated)
            for i, (ids, offsets) in enumerate(zip(batch.input_ids, batch.offset_mapping, strict=True))
        ]

    def words(self, text: str) -> list[str]:
        """The tokens of a text as the tokenizer writes them: "red</w>"."""
        return self.tokenizer.convert_ids_to_tokens(self.tokenizer(text, verbose=False).input_ids)


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
