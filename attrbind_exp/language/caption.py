"""Captions: an expression, continued by what a captioner sees ("dog" -> "dog sitting on a bench").

DiffSegmenter gives BLIP the picture and the prompt "a photograph of dog". What BLIP adds becomes part of the prompt.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image
from safetensors import SafetensorError

from attrbind_exp.cache import find_folder
from attrbind_exp.data.rows import Row, read_rows
from attrbind_exp.hub import fetch_command, find_file, is_hub_name
from attrbind_exp.language.caption_cache import CaptionCache
from attrbind_exp.types import TEMPLATE, TextSettings, UserError

if TYPE_CHECKING:
    from transformers import BlipForConditionalGeneration, PreTrainedTokenizerBase
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    Blip = tuple[BlipForConditionalGeneration, PreTrainedTokenizerBase, BlipImageProcessorPil]

FILES = ("*.json", "vocab.txt", "model.safetensors")
# What a caption depends on of these.
READ = (
    *("model.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json"),
    *("vocab.txt", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"),
)


class Captioner(Protocol):
    """Continues expressions by what it sees in pictures."""

    def caption(
        self, images: Sequence[Image.Image], expressions: Sequence[str], names: Sequence[str]
    ) -> Sequence[str | None]:
        """The caption of every expression; None where there is none.

        expressions[i] is about images[i] (RGB), whose file is called names[i]. Its caption starts with the expression.
        """
        ...


def no_captioner(**_: object) -> None:
    """None: with captioner=none, prompts are the expressions alone."""
    return None


class BlipCaptioner:
    """Captions by BLIP, from a folder or from the local Hugging Face cache.

    The search is greedy or by beams, never sampled, so a caption is the same every time. `cache` is a folder that many
    processes may share, None = no cache. `template` stands before the expression. `max_length`: the most tokens of
    prompt and caption together, None = only `max_new_tokens` counts. A caption is kept under its pixels, prompt,
    weights and generation settings.
    The model is loaded when the first caption is not in the cache. `hits` and `misses` count the distinct pairs of
    picture and expression that were in the cache or not.
    """

    def __init__(
        self,
        path: str,
        device: str = "auto",
        batch_size: int = 16,
        max_new_tokens: int = 20,
        num_beams: int = 1,
        cache: str | None = None,
        template: str = TEMPLATE,
        max_length: int | None = None,
    ):
        self.path, self.device, self.batch_size = path, device, batch_size
        self.settings = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "do_sample": False}
        self.prefix, self.max_length = TextSettings(template=template).prefix, max_length
        self.cache = CaptionCache(find_folder(cache)) if cache else None
        self.hits = self.misses = 0
        self._loaded: Blip | None = None

    def caption(
        self, images: Sequence[Image.Image], expressions: Sequence[str], names: Sequence[str] = ()
    ) -> list[str | None]:
        """Every expression with BLIP's continuation, which is in lower case. `names` are not used.

        Raises UserError where there are no weights.
        """
        keys = [self.key(digest, text) for digest, text in zip(image_digests(images), expressions, strict=True)]
        known = self.cache.get(set(keys)) if self.cache else {}
        missing = {k: (i, text) for k, i, text in zip(keys, images, expressions, strict=True) if k not in known}
        self.misses += len(missing)
        self.hits += len(set(keys)) - len(missing)
        if missing:
            fresh = dict(zip(missing, self.generate(*zip(*missing.values(), strict=True)), strict=True))
            if self.cache:
                self.cache.put(fresh)
            known |= fresh
        return [f"{text} {known[k]}".strip() for k, text in zip(keys, expressions, strict=True)]

    def key(self, image: str, expression: str) -> str:
        """The cache's key of a caption: a digest of all that it depends on. `image` is the picture's digest."""
        made_by = weights_identity(self.path), version("transformers")
        longest = [] if self.max_length is None else [self.max_length]
        parts = [image, self.prefix + expression, self.path, *made_by, self.settings, *longest]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def generate(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[str]:
        """BLIP's continuations alone, without the expressions and without the cache.

        Prompts of one length are generated together. BLIP drops the last token of every row, and that must be the
        separator, not padding.
        """
        from attrbind_exp.memory import in_parts  # loads torch, as the model does

        model, tokenizer, _ = self._load()
        window = model.config.text_config.max_position_embeddings - self.settings["max_new_tokens"]
        ids = tokenizer([self.prefix + text for text in expressions], truncation=True, max_length=window).input_ids
        # A continuation may not start with a piece of a word ("##s"), which would change the expression's last word.
        pieces = [i for token, i in tokenizer.get_vocab().items() if token.startswith("##")]
        by_length: dict[int, list[int]] = defaultdict(list)
        for row, tokens in enumerate(ids):
            by_length[len(tokens)].append(row)
        found = [""] * len(expressions)
        for length, rows in by_length.items():
            if more := self.room(length):
                made = partial(self._continue, images, ids, pieces, more)
                texts, self.batch_size = in_parts(made, rows, self.batch_size, "captioner.batch_size")
                for row, text in zip(rows, texts, strict=True):
                    found[row] = text
        return found

    def _continue(
        self,
        images: Sequence[Image.Image],
        ids: Sequence[Sequence[int]],
        pieces: Sequence[int],
        more: int,
        rows: Sequence[int],
        _: int,
    ) -> list[str]:
        """At most `more` tokens that continue each of the prompts ids[row], which are of one length, on images[row]. A
        continuation begins with none of `pieces`."""
        model, tokenizer, processor = self._load()
        pixels = processor([images[r] for r in rows], return_tensors="pt").pixel_values
        tokens = tokenizer.pad({"input_ids": [ids[r] for r in rows]}, return_tensors="pt").input_ids
        output = model.generate(
            pixels.to(model.device),
            tokens.to(model.device),
            begin_suppress_tokens=list(pieces),
            **self.settings | {"max_new_tokens": more},
        )
        new = output[:, tokens.shape[1] - 1 :]
        return [" ".join(text.split()) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def room(self, length: int) -> int:
        """How many tokens BLIP may add to a prompt of `length` tokens, its separator among them, which BLIP drops."""
        most = self.settings["max_new_tokens"]
        return most if self.max_length is None else max(0, min(most, self.max_length - (length - 1)))

    def _load(self) -> "Blip":
        """Model, tokenizer and image processor, loaded once. Raises UserError where they are not all there."""
        if self._loaded is None:
            from transformers import AutoTokenizer, BlipForConditionalGeneration
            from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

            from attrbind_exp.devices import pick_device

            try:
                model, info = BlipForConditionalGeneration.from_pretrained(
                    self.path, use_safetensors=True, output_loading_info=True, local_files_only=True
                )
                if info["missing_keys"]:  # transformers would fill them with random numbers
                    raise ValueError(
                        f"weights lack {len(info['missing_keys'])} tensors, {min(info['missing_keys'])} among them"
                    )
                tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
                processor = BlipImageProcessorPil.from_pretrained(self.path, local_files_only=True)
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                name = self.path if is_hub_name(self.path) else "Salesforce/blip-image-captioning-large"
                raise UserError(
                    f"no BLIP at captioner.path='{self.path}' ({str(error).splitlines()[0][:120]}); get one by "
                    f"'{fetch_command(name, FILES)}', or give captioner.path=DIR, captioner=file or captioner=none"
                ) from error
            self._loaded = (model.eval().to(pick_device(self.device, "captioner.device")), tokenizer, processor)
        return self._loaded


def image_digests(images: Sequence[Image.Image]) -> list[str]:
    """The digest of every picture. A picture that stands several times in a row is read once."""
    digests: list[str] = []
    for before, image in zip([None, *images], images):
        digests.append(digests[-1] if image is before else image_digest(image))
    return digests


def image_digest(image: Image.Image) -> str:
    """SHA-256 of a picture's size and pixels."""
    pixels = np.ascontiguousarray(np.asarray(image))
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def weights_identity(path: str) -> list[list[str | int]]:
    """[name, size, time] of every file that BLIP is read from: it differs where other weights have the same path."""
    files = [find_file(path, name) for name in READ]
    resolved = [file.resolve() for file in files if file]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in resolved]


class FileCaptioner:
    """Captions from a file of JSON lines or CSV: {"expression": .., "caption": .., "image": ..}.

    `image` is a file name. A row without it holds for every picture. Raises UserError for a torn line, a missing field,
    a caption that does not start with its expression, and two captions of one expression on one picture.
    """

    def __init__(self, file: str | None):
        if file is None:
            raise UserError("no captioner.file given; give a file of rows with expression, caption and image")
        self.captions: dict[tuple[str | None, str], str] = {}
        for line, row in read_rows(Path(file).expanduser(), ("expression", "caption")):
            try:
                self._read(row)
            except ValueError as error:
                raise UserError(f"'{file}' line {line}: {error}; mend or remove that row") from error

    def _read(self, row: Row) -> None:
        """Add one row to the captions. Raises ValueError, naming what is wrong with it."""
        expression, caption, image = row["expression"], row["caption"], row.get("image") or None
        if not isinstance(expression, str) or not isinstance(caption, str) or not isinstance(image, str | None):
            raise ValueError("expression, caption and image must be text")
        if not re.match(re.escape(expression) + r"(?!\w)", caption):
            raise ValueError(f"caption {caption!r} does not start with its expression {expression!r}")
        if self.captions.setdefault((image, expression), caption) != caption:
            raise ValueError(f"another caption stands above for {expression!r} on {image or 'every picture'}")

    def caption(
        self, images: Sequence[Image.Image], expressions: Sequence[str], names: Sequence[str]
    ) -> list[str | None]:
        """The file's caption of every expression. A row for the picture itself goes before one for every picture."""
        pairs = zip(names, expressions, strict=True)
        return [self.captions.get((name, text), self.captions.get((None, text))) for name, text in pairs]
