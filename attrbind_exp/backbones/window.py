"""CLIP's tokenizer as a text window."""

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from attrbind_exp.backbones.single_file import tokenizer_of
from attrbind_exp.backbones.weights import first_line, list_names, listing, mend
from attrbind_exp.hub import find_file
from attrbind_exp.language.window import Tokens
from attrbind_exp.types import UserError

CONFIG = "tokenizer_config.json"  # says how long the window is
# The files of a tokenizer: as the tokenizers library saves it, and as CLIP's own was saved until transformers 4. Where
# special tokens are missing, Stable Diffusion 2.x would be padded as 1.x is.
FORMS = (("tokenizer.json", CONFIG), ("vocab.json", "merges.txt", "special_tokens_map.json", CONFIG))
ENDS = ("<|startoftext|>", "<|endoftext|>")  # of a text, in every CLIP
LONGEST = 10_000  # tokens in a window; CLIP's has 77


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
    """The tokenizer alone of a model: a folder in diffusers' layout, a hub name in the local cache, or a single file.

    Raises UserError where there is none, or one that is not whole or pads and cuts in front.
    """
    local, padding = Path(path).expanduser(), {}
    if local.is_file():
        folder, pad = tokenizer_of(local, path)
        padding = {"pad_token": pad} if pad else {}
    else:
        config = find_file(path, f"tokenizer/{CONFIG}")
        folder = config.parent if config else local / "tokenizer"
    if not any(all((folder / name).is_file() for name in form) for form in FORMS):
        forms = ", or ".join(" and ".join(form) for form in FORMS)
        seen = f"its files are not there: found {listing(folder)} instead of {forms}"
        raise UserError(f"no tokenizer at model.path='{path}' ({seen}); {mend(path)}")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True, **padding)
        fault = find_fault(tokenizer)
    except Exception as error:  # the tokenizers library raises bare Exceptions for torn files
        raise UserError(f"no tokenizer at model.path='{path}' ({first_line(error)}); {mend(path)}") from error
    if fault:
        raise UserError(f"the tokenizer in '{folder}' {fault}; {mend(path)}")
    return tokenizer


def find_fault(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why texts would become other tokens than in training, or stand elsewhere in the window; None if not."""
    for side in ("padding_side", "truncation_side"):
        if getattr(tokenizer, side) != "right":  # words are looked for behind the start token
            return f"has {side}={getattr(tokenizer, side)}; Stable Diffusion's is right"
    window = tokenizer.model_max_length
    if not isinstance(window, int) or not 2 < window <= LONGEST:  # transformers' own is 10^30 where none is written
        return f"has no model_max_length from 3 to {LONGEST} in {CONFIG}"
    if (tokenizer.bos_token, tokenizer.eos_token) != ENDS:
        found = list_names([str(tokenizer.bos_token), str(tokenizer.eos_token)])
        return f"starts and ends a text with {found}; CLIP's are {', '.join(ENDS)}"
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    if tokenizer("", verbose=False).input_ids != ends:
        return f"does not write an empty text as a start and an end, {ends}"
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"] for token in pieces["added_tokens"]}
    model = pieces["model"]
    made = sum(len(word.removesuffix("</w>")) > 1 for word in model["vocab"] if word not in added)
    if made > len(model["merges"]):  # without its merge, a word falls into letters
        return f"has {len(model['merges'])} merges for {made} words"
    return None
