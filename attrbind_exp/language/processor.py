"""Words -> bound embedding: parse, place in the prompt, encode, edit."""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from attrbind_exp.cache import Cache
from attrbind_exp.edits.equations import (
    average_with_unconditioned,
    pooling_weights,
    replace_noun_chunk,
    unconditioned_rows,
)
from attrbind_exp.language.parse_cache import parse_cached
from attrbind_exp.language.tokens import Tokens, tokenize
from attrbind_exp.types import TEMPLATE, BoundPrompt, Parse, Prompt, TextSettings, Variant


def place_prompts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    categories: Sequence[str | None] | None = None,
    captions: Sequence[str | None] | None = None,
    settings: TextSettings = TextSettings(),
    cache: Cache | None = None,
) -> list[Prompt]:
    """Parse expressions and find their tokens. Never fails on words: what it falls back to is in `fallbacks`.

    captions[i], where there is one, starts with texts[i] verbatim and goes on; it takes the expression's place in the
    prompt, with the target that texts[i] has. Where the tokenizer sees nothing at all, `q` is empty.
    """
    parses = parse_cached(cache, texts, categories, settings.chunk, captions, settings.overrides)
    prompts = tokenize(tokenizer, [TEMPLATE + p.text for p in parses])
    chunks = tokenize(tokenizer, [p.chunk_text for p in parses])
    return [_place(*parts, settings) for parts in zip(parses, prompts, chunks, strict=True)]


def _place(parse: Parse, tokens: Tokens, chunk_tokens: Tokens, settings: TextSettings) -> Prompt:
    shift = len(TEMPLATE)
    q = tokens.at(parse.target[0] + shift, parse.target[1] + shift)
    pos = tokens.at(parse.chunk[0] + shift, parse.chunk[1] + shift)
    fallbacks = [parse.fallback] if parse.fallback else []
    if tokens.truncated:
        fallbacks.append("prompt_truncated")
    bind = parse.binding
    further = _read_further(parse, q, len(tokens.ids)) if settings.ing_rule else ()
    if not q:
        fallbacks.append("target_truncated")
        q = pos = tokens.at(shift, shift + len(parse.text))
        bind = False
    elif bind and not _same_tokens(tokens, pos, chunk_tokens):
        fallbacks.append("chunk_mismatch")
        bind = False
    if settings.gate and not parse.modified:
        bind = False
    return Prompt(TEMPLATE + parse.text, parse, q, pos, bind, tuple(fallbacks), further)


def _same_tokens(tokens: Tokens, pos: tuple[int, ...], chunk_tokens: Tokens) -> bool:
    """Does the chunk on its own consist of the tokens that it has in the prompt?"""
    return torch.equal(tokens.ids[list(pos)], chunk_tokens.ids[list(chunk_tokens.content)])


def _read_further(parse: Parse, q: tuple[int, ...], window: int) -> tuple[int, ...]:
    """DiffSegmenter's rule: where the word after the target ends in "-ing", one more token is read.

    It is the second after the target's last piece, so the one after a "-ing" word of one piece: the published script
    counts the "++" that it writes behind the class word as a token, but the embedding has none for it.
    """
    second = q[-1] + 2 if q else window
    return (second,) if re.match(r"\s+\S*ing(?!\S)", parse.text[parse.target[1] :]) and second < window else ()


class TextProcessor:
    """Turns expressions into prompts and prompts into embeddings, for any number of variants.

    `encode` maps a list of B texts to their last hidden states (B, L, D); `cache`: where parses are kept, None =
    nowhere.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encode: Callable[[list[str]], Tensor],
        settings: TextSettings = TextSettings(),
        cache: Cache | None = None,
    ):
        self.cache = cache
        self.tokenizer = tokenizer
        self.encode = encode
        self.settings = settings

    def prepare(
        self,
        texts: Sequence[str],
        categories: Sequence[str | None] | None = None,
        captions: Sequence[str | None] | None = None,
    ) -> list[Prompt]:
        """Parse expressions and find their tokens, as `place_prompts` does."""
        return place_prompts(self.tokenizer, texts, categories, captions, self.settings, self.cache)

    def bind(self, prompts: Sequence[Prompt], variants: Sequence[Variant]) -> list[list[BoundPrompt]]:
        """Embeddings of every prompt under every variant: result[i][j] belongs to prompts[i], variants[j].

        Every distinct text is encoded once. Variants that come to the same embedding share one object.
        """
        chunks = [self._chunk_text(p, v) for p in prompts for v in variants if p.bind and v.replace]
        order = {text: i for i, text in enumerate(dict.fromkeys([*(p.text for p in prompts), *chunks, ""]))}
        states = self.encode(list(order))  # (number of texts, L, D)
        U = unconditioned_rows(states[order[""]], self.settings.uncond)
        bound = []
        for prompt in prompts:
            E = states[order[prompt.text]]
            weights = pooling_weights(prompt.q, len(E), self.settings.token_pooling, prompt.further)
            plain = BoundPrompt(E, weights)
            made: dict[tuple[str | None, float | None], BoundPrompt] = {(None, None): plain}
            row = []
            for variant in variants:
                chunk = self._chunk_text(prompt, variant) if prompt.bind and variant.replace else None
                alpha = variant.alpha if prompt.bind and variant.alpha != 1 else None  # 1 changes nothing
                if (chunk, alpha) not in made:
                    R = None if chunk is None else states[order[chunk]]
                    made[chunk, alpha] = BoundPrompt(self._edit(prompt, E, R, U, variant), plain.weights)
                row.append(made[chunk, alpha])
            bound.append(row)
        return bound

    def _edit(self, prompt: Prompt, E: Tensor, R: Tensor | None, U: Tensor, variant: Variant) -> Tensor:
        if R is not None:
            E = replace_noun_chunk(E, R[self._chunk_rows(prompt, variant)], prompt.pos)
        if variant.alpha is not None:
            E = average_with_unconditioned(E, U, prompt.q, variant.alpha)
        return E

    def _prefix(self, variant: Variant) -> str:
        return TEMPLATE if (variant.chunk_prefix or self.settings.chunk_prefix) == "template" else ""

    def _chunk_text(self, prompt: Prompt, variant: Variant) -> str:
        return self._prefix(variant) + prompt.parse.chunk_text

    def _chunk_rows(self, prompt: Prompt, variant: Variant) -> slice:
        """The chunk's content tokens in its own encoding: after BOS, and after the template where that is kept."""
        first = 1 + len(self.tokenizer(self._prefix(variant), add_special_tokens=False).input_ids)
        return slice(first, first + len(prompt.pos))
